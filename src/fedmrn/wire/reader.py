"""Bytes from outside, taken from the front: never more than there are."""

import struct
from typing import Any

from fedmrn.errors import MalformedFrameError, WrongMessageError


class ByteReader:
    """Takes bytes from the front.

    Args:
        data: the bytes.
        what: what they are, for errors.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._view, self._what, self._at = memoryview(data), what, 0

    @property
    def left(self) -> memoryview:
        """What was not taken yet."""
        return self._view[self._at :]

    def take(self, count: int) -> memoryview:
        """Return the next bytes, uncopied.

        Raises:
            MalformedFrameError: there are fewer.
        """
        if count > len(self._view) - self._at:
            raise MalformedFrameError(f"{self._what} end too early")
        self._at += count
        return self._view[self._at - count : self._at]

    def numbers(self, form: struct.Struct) -> tuple[Any, ...]:
        """Return the next numbers.

        Raises:
            MalformedFrameError: the bytes end before.
        """
        return form.unpack(self.take(form.size))

    def end(self) -> None:
        """Refuse bytes that were not taken.

        Raises:
            MalformedFrameError: there are some.
        """
        if self._at != len(self._view):
            raise MalformedFrameError(f"{len(self._view) - self._at} bytes follow {self._what}")


def bytes_of(data: object) -> memoryview:
    """Return what a transport handed over as bytes, uncopied.

    Raises:
        WrongMessageError: it holds none.
    """
    try:
        return memoryview(data).cast("B")  # type: ignore[arg-type]  # it raises for what holds no bytes
    except TypeError as error:
        what = f"a value of type {type(data).__name__} that holds no row of bytes"
        raise WrongMessageError(f"a frame is bytes, got {what}: hand over what came, as it came") from error
