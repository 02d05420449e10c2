"""What codecs that send plain floats share: the check of a body, and its values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import CHUNK, Opened
from fedmrn.codecs.limit import any_above
from fedmrn.errors import BoundError, MalformedFrameError, NonFiniteError


@dataclass(frozen=True, slots=True)
class OpenedFloats(Opened):
    """Floats of one kind, one after the other; `kind` is a numpy kind such as "<f4"."""

    body: memoryview
    kind: np.dtype[np.floating]

    def read(self, start: int, out: NDArray[np.float32]) -> None:
        """Write the elements of a chunk."""
        out[:] = np.frombuffer(self.body, self.kind, out.size, self.kind.itemsize * start)


def open_floats(body: bytes | memoryview, kind: str, count: int, max_value: float, what: str) -> OpenedFloats:
    """Check the length of a body of `count` floats of a numpy kind such as "<f4", and every value; return it opened.

    Raises:
        MalformedFrameError: the body has another length.
        NonFiniteError: a value is NaN or infinite.
        BoundError: a magnitude is above max_value.
    """
    opened = OpenedFloats(memoryview(body), np.dtype(kind))
    expected = opened.kind.itemsize * count
    if len(opened.body) != expected:
        raise MalformedFrameError(f"{count} {what} values take {expected} bytes, the section has {len(opened.body)}")
    for start in range(0, count, CHUNK):
        values = np.empty(min(CHUNK, count - start), np.float32)
        opened.read(start, values)
        np.abs(values, out=values)
        if not np.isfinite(values).all():
            raise NonFiniteError(
                f"a {what} section holds NaN or infinity within elements {start}..{start + values.size - 1}"
            )
        if any_above(values, max_value):
            raise BoundError(f"a {what} value has magnitude {values.max():.12g}; at most {max_value:.12g} is accepted")
    return opened
