"""Read the pickles of CIFAR batches without running anything that they name.

A pickle is a program: `pickle.load` calls whatever it asks for. CIFAR's batches were written by Python 2 and
ask for three names only, to rebuild one array of bytes. Here those names stand for inert classes of our own
that keep their arguments and can become nothing but a uint8 array; every other name is refused.
"""

import io
import math
import pickle
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import DataError


class _Dtype:
    """Stands for numpy.dtype: keeps the type's code."""

    __slots__ = ("code",)

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment: they mean nothing for single bytes."""


class _Array:
    """Stands for numpy.ndarray and for the function that makes an empty one: keeps a shape and raw bytes."""

    __slots__ = ("order", "raw", "shape")

    def __init__(self, *_: object) -> None:
        self.shape: tuple[object, ...] = ()
        self.raw = b""
        self.order = "C"

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, tuple(shape), _Dtype(code="u1" | b"u1"), bool(fortran), bytes(raw)):
                self.shape, self.raw, self.order = shape, raw, "F" if fortran else "C"
            case _:
                raise pickle.UnpicklingError("its array is not one of unsigned bytes")


_ALLOWED: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> type:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}, which no data needs") from None


def _check_sizes(blob: bytes) -> None:
    """Refuse a pickle that declares more than it holds: `pickle` allocates strings and its memo before it looks.

    Raises:
        ValueError: an operation's argument is longer than what is left, or a place in the memo is beyond all reason.
    """
    for operation, argument, _ in pickletools.genops(blob):
        if operation.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(blob):
            raise ValueError(f"it asks for place {argument} of the memo")


def read_batch(
    blob: bytes, shape: tuple[int, int], label_key: bytes, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the images and labels of one CIFAR batch.

    Args:
        blob: the pickle, a dictionary with the key b"data" (a uint8 array) and `label_key` (a list of
            integers).
        shape: (images, pixels) that the array must have.
        label_key: b"labels" or b"fine_labels".
        where: the batch's name for messages.

    Returns:
        Pixels, uint8, of `shape`, writable; labels, int64, shape (images,), not checked against a number of
        classes.

    Raises:
        DataError: if the pickle asks for any name that CIFAR does not need, or holds anything else than such
            a batch.
    """
    stream = io.BytesIO(blob)
    try:
        _check_sizes(blob)
        batch: Any = _Restricted(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way at all
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where} is not a CIFAR batch: {what}; delete the archive and get it anew") from error
    array = batch.get(b"data") if isinstance(batch, dict) else None
    labels = batch.get(label_key) if isinstance(batch, dict) else None
    if stream.read(1) or not isinstance(array, _Array) or not isinstance(labels, list):
        raise DataError(f"{where} is not a CIFAR batch; delete the archive and get it anew")
    if array.shape != shape or len(array.raw) != math.prod(shape):
        raise DataError(f"{where} has an array of shape {array.shape}, expected {shape}; get the archive anew")
    if len(labels) != shape[0] or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DataError(f"{where} does not hold {shape[0]} labels; delete the archive and get it anew")
    # A pickled array may lie in column order, so reshape in its own order before making it C order.
    pixels = np.frombuffer(array.raw, np.uint8).reshape(shape, order="F" if array.order == "F" else "C")
    return pixels.copy(order="C"), np.array(labels, np.int64)
