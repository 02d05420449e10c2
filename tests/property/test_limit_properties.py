"""The limit on magnitudes: every codec compares real numbers, whatever kind of number the limit is."""

import struct
from collections.abc import Callable
from fractions import Fraction
from math import inf, log2, nextafter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmrn.codecs import (
    CODECS,
    Codec,
    Float8,
    Float16,
    Levels,
    MaskedNoise,
    OwnScale,
    Raw,
    Rotated,
    Sign,
    Sparse,
    Support,
    Ternary,
    ToldScale,
    codec_from,
)
from fedmrn.codecs.limit import any_above
from fedmrn.errors import BoundError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

COUNT = 8
SIGNS = MaskedNoise(NoiseSpec(Law.BERNOULLI, 1.0), MaskType.SIGNED)
TINY = 2.0**-149
"""The smallest float32 above zero."""
LARGEST = float(np.finfo(np.float32).max)


def _floats(value: float) -> bytes:
    return struct.pack(f"<{COUNT}f", *[0.0] * (COUNT - 1), -value)


def _table(value: float, rest: bytes) -> bytes:
    return struct.pack("<IQf", 1, COUNT, value) + rest


def _half(value: float) -> bytes:
    return struct.pack(f"<{COUNT}e", *[0.0] * (COUNT - 1), -value)


def _byte(value: float) -> bytes:
    """Of a power of two."""
    return struct.pack("<b8B", round(log2(value)), *[0] * (COUNT - 1), 0x80 | 7 << 4)


BODIES: dict[str, tuple[Codec, Callable[[float], bytes]]] = {
    "raw": (Raw(), _floats),
    "float16": (Float16(), _half),
    "float8": (Float8(), _byte),
    "support": (Support().bind(np.ones(COUNT, np.float32)), _floats),
    "sparse": (Sparse(1.0), lambda v: _floats(v) + b"\0"),
    "sign": (Sign(), lambda v: _table(v, b"\0")),
    "ternary": (Ternary(), lambda v: _table(v, b"\0\0")),
    "levels": (Levels(1, COUNT), lambda v: struct.pack("<f", v) + b"\0\0"),
    "rotated": (Rotated(1), _floats),  # fewer than 128 values: all dense
    "own-scale": (OwnScale(SIGNS), lambda v: _table(v, b"\0")),
    "told-scale": (ToldScale(SIGNS), lambda v: _table(v, b"\0\0")),
}
"""By name of the codec: one that reads a magnitude from the body, and a body whose largest is `value`."""
SCALED = {"own-scale", "told-scale", "float8"}
"""Codecs whose magnitudes are powers of two."""
WITHOUT = {"masked-noise", "bernoulli", "coded-mask", "interleaved-mask", "random-code"}
"""Codecs whose bodies hold no magnitude."""


def test_every_codec_is_looked_at() -> None:
    assert {*BODIES} | WITHOUT == {codec.name for codec in CODECS.values()}


def _accepts(name: str, value: float, limit: float) -> bool:
    codec, body = BODIES[name]
    try:
        codec.open(body(value), COUNT, 7, limit)
    except BoundError:
        return False
    return True


def _as_sent(name: str, value: float) -> float:
    """A magnitude that the codec can carry, near this one."""
    with np.errstate(over="ignore", under="ignore"):
        if name == "float16":
            return float(np.float16(min(value, 65504.0)))
        if name in SCALED:
            return 2.0 ** float(np.clip(np.frexp(value)[1] - 1, -80, 80))
    return float(np.float32(min(value, LARGEST)))


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(sorted(BODIES)),
    st.floats(TINY, LARGEST, width=32),
    st.sampled_from([-2, -1, 0, 1, 2]),
    st.sampled_from([0, -1, 1]),
)
@example("raw", 0.1, 0, -1)
@example("sign", 0.1, 0, -1)
@example("raw", TINY, -1, 1)
@example("rotated", LARGEST, 0, 1)
def test_a_limit_is_a_real_number(name: str, value: float, floats: int, doubles: int) -> None:
    """Limits at a value, some float32 away and a double to either side of that: what is above is refused, no more."""
    sent = _as_sent(name, value)
    bits = max(0, int(np.float32(sent).view(np.uint32)) + floats)  # float32 in order have bits in order
    limit = float(np.uint32(bits).view(np.float32))
    if doubles:
        limit = nextafter(limit, inf if doubles > 0 else 0.0)
    if not 0 < limit < inf:
        return
    assert _accepts(name, sent, limit) is (Fraction(sent) <= Fraction(limit))


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("limit", [0.1, 0.3, 1e-3, 1e39, 1e300, TINY / 2, TINY, 5e-324, 2.0**-126, 65504, 10**30])
def test_limits_that_are_no_float32(name: str, limit: float) -> None:
    for value in (0.1, 0.3, 1e-3, TINY, 2.0**-126, 65504.0, LARGEST, 2.0**-80):
        sent = _as_sent(name, value)
        assert _accepts(name, sent, limit) is (Fraction(sent) <= Fraction(limit)), value


@pytest.mark.parametrize("limit", [0.1, TINY / 2, 1e39])
def test_nothing_above_the_limit_is_decoded(limit: float) -> None:
    """Rotated clips what it decodes: to the largest float32 that is not above the limit."""
    codec = Rotated(2)
    scale = min(np.nextafter(np.float32(limit / 1.6), np.float32(0)) if limit < 1e38 else np.float32(2.0**100), 1e30)
    body = struct.pack("<f", scale) + bytes([0b11100100] * 32)
    assert np.abs(codec.decode(body, 128, 3, limit)).max() <= np.float64(limit)


def test_numpy_alone_would_round_the_limit() -> None:
    """Why there is a helper: the float32 nearest to 0.1 is above 0.1."""
    value = np.array([0.1], np.float32)
    assert Fraction(float(value[0])) > Fraction(0.1)
    assert not (value > 0.1).any()
    assert any_above(value, 0.1)
    assert not any_above(np.empty(0, np.float32), 0.0)


def test_bodies_are_those_of_their_codecs() -> None:
    for name, (codec, body) in BODIES.items():
        assert codec.name == name
        if not codec.needs_state:
            again = codec_from(codec.id, codec.params())
            assert np.abs(again.decode(body(2.0), COUNT, 7)).max() <= 2.0
