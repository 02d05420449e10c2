"""What a client keeps of a run's public models: the one that the server counts on, and the newest.

The server counts on a public model once an update that was trained from it is folded. A reply may be lost: so a client
keeps the newest one beside the one that the server named last as a base, until it names the newest. A whole model that
comes in between names none: three are kept then.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import FrameError, LostModelError, MalformedFrameError
from fedmrn.wire.grid import Points, check_numbers, from_body
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.public import Heading, PublicModel, groups_of

_MAGIC = b"FMRNHELD"
_HEAD = struct.Struct("<8sB8s16sB")  # magic, version, run, layout digest, models
_LENGTHS = struct.Struct("<IQ")
_CRC = struct.Struct("<I")
_VERSION = 1
_MOST = 3
F32 = NDArray[np.float32]


class Held:
    """What a client keeps of a run's public models; make one for a client, and give it to every `attach`.

    A run's starting weights, where the server counts from them, are kept in this object and not in its bytes: who reads
    it from a file builds the model anew, and has them.

    Args:
        layout: of the model; by default that of the first broadcast.
        start: the weights that the run started with, float32, shape (layout.size,); by default those of the model that
            is attached first.

    Attributes:
        run: 8 bytes that name the run; empty while nothing is kept.
        numbers: which public models are kept.
    """

    def __init__(self, layout: Layout | None = None, start: F32 | None = None) -> None:
        self._layout, self.run, self._start = layout, b"", start
        self._models: dict[int, PublicModel | dict[Group, bytes]] = {}  # as it came, or from a file

    @property
    def numbers(self) -> tuple[int, ...]:
        """Which public models of the run are kept."""
        return tuple(self._models)

    def find(self, run: bytes, number: int, layout: Layout) -> dict[Group, Points]:
        """Return the points of a public model that is kept.

        Raises:
            LostModelError: it is not, or is of a model with other tensors.
        """
        if run != self.run or number not in self._models or layout != self._layout:
            kept = f"keeps {', '.join(map(str, self.numbers))}" if self.run == run and self._models else "keeps none"
            kept += " of a model with other tensors" if self._layout not in (None, layout) else " of this run"
            raise LostModelError(
                f"the server sent what changed since public model {number}, and this client {kept}: the server is to "
                "send the whole model"
            )
        kept_model = self._models[number]
        if isinstance(kept_model, PublicModel):
            return dict(kept_model.parts)
        try:
            parts = {group: from_body(layout, group, body) for group, body in kept_model.items()}
            for points in parts.values():
                check_numbers(points.numbers)
        except FrameError as error:
            raise LostModelError(f"public model {number} that this client kept is damaged: {error}") from error
        return parts

    def starts(self, own: Callable[[], F32] | None) -> Iterator[F32]:
        """Yield the weights that the run may have started with, float32, shape (layout.size,): known ones come first.

        Those that are known may be of a run before.

        Args:
            own: returns those of this client's model; asked where the known ones do not do.
        """
        if self._start is not None:
            yield self._start
        if own is not None:
            yield own().copy()

    def keep(self, model: PublicModel, heading: Heading) -> None:
        """Keep a public model that was received, and of others the one that it was the difference to.

        A whole one names no other: the two before stay then, as the server may count on either.
        """
        if heading.run != self.run or model.layout != self._layout:
            self._models = {}
        named = list(self._models)[1 - _MOST :] if heading.base is None else [heading.base]
        base = {n: found for n, found in self._models.items() if n in named}
        self._layout, self.run = model.layout, heading.run
        self._start = self._start if model.origin is None else model.origin
        self._models = {**base, model.number: replace(model, origin=None)}  # without the values that it has worked out

    def to_bytes(self) -> bytes:
        """Return what is kept, to be put away, but for starting weights; no bytes where nothing is."""
        if self._layout is None or not self.run:
            return b""
        parts = [_HEAD.pack(_MAGIC, _VERSION, self.run, self._layout.digest, len(self._models))]
        for number, found in self._models.items():
            bodies = found.bodies if isinstance(found, PublicModel) else found
            for group in groups_of(self._layout):
                parts += [_LENGTHS.pack(number, len(bodies[group])), bodies[group]]
        data = b"".join(parts)
        return data + _CRC.pack(zlib.crc32(data))

    @classmethod
    def from_bytes(cls, data: bytes, layout: Layout, start: F32 | None = None) -> Self:
        """Return what `to_bytes` put away; of another model, damaged or empty: nothing is kept then.

        What is lost costs one whole model: the server is told, and sends it.

        Args:
            data: as it was put away.
            layout: of the model.
            start: the weights that the run started with, float32, shape (layout.size,), if they are known.
        """
        held = cls(layout, start)
        try:
            held._read(memoryview(data), layout)
        except FrameError:
            return cls(layout, start)
        return held

    def _read(self, view: memoryview, layout: Layout) -> None:
        end = len(view) - _CRC.size
        if end < _HEAD.size or zlib.crc32(view[:end]) != _CRC.unpack_from(view, end)[0]:
            raise MalformedFrameError("what a client keeps is cut or damaged")
        magic, version, run, digest, models = _HEAD.unpack_from(view)
        if (magic, version, digest) != (_MAGIC, _VERSION, layout.digest) or not 1 <= models <= _MOST:
            raise MalformedFrameError("what a client keeps is of another model or version")
        at = _HEAD.size
        for _ in range(models):
            numbers, bodies = set[int](), dict[Group, bytes]()
            for group in groups_of(layout):
                if end - at < _LENGTHS.size:
                    raise MalformedFrameError("what a client keeps is cut")
                number, length = _LENGTHS.unpack_from(view, at)
                at += _LENGTHS.size
                if end - at < length:
                    raise MalformedFrameError("what a client keeps is cut")
                numbers.add(number)
                bodies[group] = bytes(view[at : at + length])
                at += length
            if len(numbers) != 1 or numbers & self._models.keys():
                raise MalformedFrameError("the public models that a client keeps are not one of a number")
            self._models[numbers.pop()] = bodies
        if at != end:
            raise MalformedFrameError("what a client keeps has something left over")
        self.run = bytes(run)
