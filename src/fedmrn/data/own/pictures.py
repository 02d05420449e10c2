"""Picture files -> one array of images, uint8, shape (n, channels, height, width)."""

import math
import warnings
from collections.abc import Iterable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fedmrn.errors import DataError
from fedmrn.text import printable

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The end of a picture file's name -> its format."""
MOST_OF_A_FILE = 1 << 28
MOST = 1 << 36
"""Bytes of a picture file, and of all images as an array, at most."""
_PIXELS = 1 << 26  # of one picture
_GREY = {"1", "L", "LA"}
_COLOUR = {"P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}


def collect_pictures(pictures: Iterable[tuple[bytes, str]], count: int, side: int) -> NDArray[np.uint8]:
    """Return images, uint8, shape (n, channels, height, width): one channel if all are grey, three if not.

    Args:
        pictures: the bytes of each file, and what to call it in messages.
        count: n, at least 1.
        side: the middle square of each is scaled to so many pixels a side; 0: all have one size already, and stay.

    Raises:
        DataError: one is no sound picture, too large, of 16 bits a pixel, or of another size.
    """
    images, first, grey = np.empty((0, 3, 0, 0), np.uint8), "", True
    for i, (blob, where) in enumerate(pictures):
        image = _opened(blob, where)
        grey &= image.mode in _GREY
        square = _square(image.convert("RGB"), side) if side else image.convert("RGB")
        if i == 0:
            images, first = _room(count, (square.height, square.width), where), where
        if images.shape[2:] != (square.height, square.width):
            raise DataError(
                f"{where} is of {square.width}x{square.height} pixels, {first} of {images.shape[3]}x{images.shape[2]}: "
                "set data.image_size, the side that the middle square of each picture is scaled to, such as 64"
            )
        images[i] = np.asarray(square, np.uint8).transpose(2, 0, 1)
    return images[:, :1].copy() if grey else images


def _room(count: int, size: tuple[int, int], where: str) -> NDArray[np.uint8]:
    if count * 3 * math.prod(size) > MOST:
        raise DataError(
            f"{where} and others: {count} pictures of {size[1]}x{size[0]} pixels are more than {MOST >> 30} GiB: set a "
            "smaller data.image_size"
        )
    try:
        return np.empty((count, 3, *size), np.uint8)
    except MemoryError as error:
        raise DataError(f"{where} and others: no memory for {count} pictures; set a smaller data.image_size") from error


def _opened(blob: bytes, where: str) -> Image.Image:
    """Return a picture, decoded; its size is checked before."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of palettes and large pictures; the check below is stricter
            with Image.open(BytesIO(blob), formats=sorted(set(FORMATS.values()))) as image:
                if image.width * image.height > _PIXELS:
                    raise DataError(f"{where} is of {image.width}x{image.height} pixels, more than are read: scale it")
                if image.mode not in _GREY | _COLOUR:
                    raise DataError(f"{where} has pixels of more than 8 bits (mode {image.mode}): save it with 8")
                image.load()
                return image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is no picture of a format that is read: replace or delete it") from error
    except Exception as error:  # a damaged file can fail in any way at all
        said = printable(" ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{where} is not a sound picture ({said}): replace or delete it") from error


def _square(image: Image.Image, side: int) -> Image.Image:
    """Return the middle square, scaled."""
    least = min(image.size)
    left, top = (image.width - least) // 2, (image.height - least) // 2
    middle = image.crop((left, top, left + least, top + least))
    return middle.resize((side, side), Image.Resampling.BILINEAR)
