"""Pascal VOC 2012's segmented images, in the layout of its archive.

    VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt    names, one a line
    VOCdevkit/VOC2012/JPEGImages/NAME.jpg                       the image
    VOCdevkit/VOC2012/SegmentationClass/NAME.png                its pixels' classes: indices 0 to 20, 255 unknown

Of each image and mask the middle square is taken, scaled to SIZE by SIZE: images bilinear, masks by the nearest pixel.

Source: Everingham et al., "The PASCAL visual object classes challenge 2012", development kit.
"""

import re
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedmrn.data.files import read_limited
from fedmrn.data.source import Arrays
from fedmrn.errors import DataError

SIZE = 128
CLASSES = 21
IGNORED = 255

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_MOST_NAMES = 20_000
_MOST_BYTES = 1 << 26
_MOST_PIXELS = 4096  # a side


def find_voc(data_dir: Path) -> Path | None:
    """Return the folder VOC2012 of the archive, unpacked in `data_dir/voc` or in `data_dir` itself."""
    folders = (base / "VOCdevkit" / "VOC2012" for base in (data_dir / "voc", data_dir))
    return next((folder for folder in folders if folder.is_dir()), None)


def read_voc(folder: Path) -> Arrays:
    """Return images, uint8, shape (n, 3, SIZE, SIZE), and classes of pixels, uint8, shape (n, SIZE, SIZE).

    The test samples are those of val.txt, as the classes of the official test images are not published.

    Raises:
        DataError: a file is missing or not what it should be.
    """
    return Arrays(*_part(folder, "train"), *_part(folder, "val"))


def _part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    names = _names(folder / "ImageSets" / "Segmentation" / f"{part}.txt")
    images = np.empty((len(names), SIZE, SIZE, 3), np.uint8)
    masks = np.empty((len(names), SIZE, SIZE), np.uint8)
    for i, name in enumerate(names):
        picture, mask = folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png"
        image, classes = _open(picture, "JPEG"), _open(mask, "PNG")
        if image.size != classes.size:
            raise DataError(f"{mask} is of {classes.size} pixels, its image of {image.size}; get both anew")
        if classes.mode not in ("P", "L"):
            raise DataError(f"{mask} has no palette (its mode is {classes.mode}); put the archive's own file there")
        images[i] = _square(image.convert("RGB"), Image.Resampling.BILINEAR)
        masks[i] = _square(classes, Image.Resampling.NEAREST)
        if ((masks[i] >= CLASSES) & (masks[i] != IGNORED)).any():
            raise DataError(f"{mask} has classes other than 0 to {CLASSES - 1} and {IGNORED}; get it anew")
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), masks


def _names(path: Path) -> list[str]:
    try:
        names = read_limited(path, _MOST_BYTES).decode("ascii").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in ASCII; get it anew") from error
    wrong = next((name for name in names if not _NAME.fullmatch(name)), None)
    if wrong is not None or not 1 <= len(names) <= _MOST_NAMES or len(set(names)) < len(names):
        what = f"holds {wrong[:80]!r}" if wrong else f"holds {len(names)} names, or one twice"
        raise DataError(f"{path} {what}, expected 1 to {_MOST_NAMES} names of images, one a line; get it anew")
    return names


def _open(path: Path, kind: str) -> Image.Image:
    """Return a picture, decoded; its size is checked before."""
    blob = read_limited(path, _MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
            with Image.open(BytesIO(blob), formats=[kind]) as image:
                if max(image.size) > _MOST_PIXELS:
                    raise DataError(f"{path} is of {image.size} pixels, at most {_MOST_PIXELS} a side; get it anew")
                image.load()
                return image
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a sound {kind} file ({error}); get it anew") from error


def _square(image: Image.Image, how: Image.Resampling) -> NDArray[np.uint8]:
    width, height = image.size
    side = min(image.size)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(image.resize((SIZE, SIZE), how, box=(left, top, left + side, top + side)), np.uint8)
