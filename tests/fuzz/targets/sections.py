"""What a codec reads: parameters and a body.

An input is the codec's id (u8), the length of its parameters (u8), the number of elements (u64), parameters, body.
"""

import struct
from types import ModuleType

import numpy as np

from fedmrn import codecs
from fedmrn.codecs import (
    CodedMask,
    EncodeKeys,
    Float8,
    Float16,
    InterleavedMask,
    Levels,
    MaskedNoise,
    OwnScale,
    ToldScale,
    codec_from,
    mask,
)
from fedmrn.errors import FrameError
from fedmrn.methods import METHODS
from fedmrn.numerics import bits
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

from .base import Target, require

CODEC_MODULES = (
    bits,
    *(m for package in (codecs, mask) for m in vars(package).values() if isinstance(m, ModuleType)),
)
_HEAD = struct.Struct("<BBQ")
_KEY = 0x0123456789ABCDEF
_LIMIT = 65536.0
_DECODED = 1 << 12
"""Elements that are decoded at most: a receiver has checked the number by then. Longer bodies are only opened."""
_STATE = np.tile(np.array([0, 1, -2, 0.5], np.float32), _DECODED // 4)


def _check(data: bytes) -> None:
    if len(data) < _HEAD.size:
        return
    number, n_params, count = _HEAD.unpack_from(data)
    params, body = data[_HEAD.size :][:n_params], memoryview(data)[_HEAD.size + n_params :]
    try:
        codec = codec_from(number, params)
        require(codec.params() == params, f"{codec.name}: accepted parameters are written as other ones")
        if codec.needs_state:
            count %= _DECODED + 1
            codec = codec.bind(_STATE[:count])
        codec.open(body, count, _KEY, _LIMIT)
        if count > _DECODED:
            return
        values = codec.decode(body, count, _KEY, _LIMIT)
        again = codec.uncoded.decode(codec.uncode(body, count, _KEY), count, _KEY, _LIMIT)
    except FrameError:
        return
    require(bool((np.abs(values) <= codec.bound(_LIMIT)).all()), f"{codec.name}: a value above its bound, or NaN")
    require(values.tobytes() == again.tobytes(), f"{codec.name}: the plain form says something else")


def _seeds() -> list[bytes]:
    """A short and a longer section of every codec that a method has, and of those that side data may have."""
    masked = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)
    used = [codec for row in METHODS.values() for codec in row.scheme().codecs.values()]
    known = {(codec.id, codec.params()): codec for codec in used}
    own = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 1.0), MaskType.SIGNED)
    more = (
        Float8(),
        Float16(),
        Levels(127, 64),
        CodedMask(masked),
        InterleavedMask(masked),
        masked,
        OwnScale(own),
        OwnScale(CodedMask(own)),
        OwnScale(InterleavedMask(own)),
        ToldScale(own),
        ToldScale(CodedMask(own)),
        ToldScale(InterleavedMask(own)),
    )
    known |= {(codec.id, codec.params()): codec for codec in more}
    inputs = []
    for codec in known.values():
        for count in (0, 5, 700):
            vector = (
                np.abs(_STATE[:count]) / 256 if codec.needs_state else np.linspace(0, 0.01, count, dtype=np.float32)
            )
            body = codec.bind(_STATE[:count]).encode(vector, EncodeKeys(_KEY, 1, (count,)))
            inputs.append(_HEAD.pack(codec.id, len(codec.params()), count) + codec.params() + body)
    return inputs


# A coded mask may stand for 1,424 elements a byte, whose contexts and bits are held by segments of a million.
SECTION = Target("section", _check, _seeds, CODEC_MODULES, memory=16 << 20)
