"""Bernoulli and Support for any vector, state and bytes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmrn.codecs import CHUNK, Bernoulli, EncodeKeys, Support
from fedmrn.errors import FrameError
from fedmrn.numerics.rng import Purpose, Stream, domain

F32 = NDArray[np.float32]
LIMIT = 8.0

keys = st.integers(0, (1 << 64) - 1)
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
sizes = st.integers(0, 300) | st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1])
states = st.lists(st.sampled_from([0.0, -0.0, 1.0, -2.5, 1e-45, 3e38]) | finite, max_size=80)


@settings(deadline=None, max_examples=100)
@given(st.lists(finite, max_size=80), keys, keys)
def test_bits_are_certain_outside_and_their_own_encoding(values: list[float], sampling: int, seed: int) -> None:
    codec, x = Bernoulli(seed), np.array(values, np.float32)
    body = codec.encode(x, EncodeKeys(0, sampling))
    bits = codec.decode(body, x.size, 0)
    assert set(bits.tolist()) <= {0.0, 1.0}
    assert (bits[x <= 0] == 0).all()
    assert (bits[x >= 1] == 1).all()
    assert codec.encode(bits, EncodeKeys(1, ~sampling & 0xFF)) == body


@settings(deadline=None, max_examples=60)
@given(sizes, keys, st.floats(0, 1, width=32))
def test_bits_of_any_size_are_the_draws_below_the_probability(size: int, sampling: int, p: float) -> None:
    codec = Bernoulli(1)
    bits = codec.decode(codec.encode(np.full(size, p, np.float32), EncodeKeys(0, sampling)), size, 0)
    assert np.array_equal(bits, Stream(sampling, domain(Purpose.FINAL_MASK)).uniform(0, size) < np.float32(p))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 40), st.binary(max_size=6))
def test_any_mask_is_refused_or_the_only_encoding_of_what_it_says(size: int, body: bytes) -> None:
    codec = Bernoulli(1)
    try:
        bits = codec.decode(body, size, 0, LIMIT)
    except FrameError:
        assert len(body) != (size + 7) // 8 or int.from_bytes(body, "little") >> size
        return
    assert codec.encode(bits, EncodeKeys(0, 0)) == body


@settings(deadline=None, max_examples=200)
@given(states, st.data())
def test_the_support_comes_back_bit_for_bit(state: list[float], data: st.DataObject) -> None:
    sent = [data.draw(finite) if s != 0 else data.draw(st.sampled_from([0.0, -0.0])) for s in state]
    x = np.array(sent, np.float32)
    codec = Support().bind(np.array(state, np.float32))
    body = codec.encode(x, EncodeKeys(0, 0))
    expected = [v if s != 0 else 0.0 for v, s in zip(sent, state, strict=True)]
    assert codec.decode(body, x.size, 0).tobytes() == np.array(expected, np.float32).tobytes()
    assert len(body) == 4 * sum(s != 0 for s in state)


@settings(deadline=None, max_examples=40)
@given(sizes, st.floats(0, 1), keys)
def test_a_support_of_any_size_and_density_comes_back(size: int, density: float, key: int) -> None:
    state = (Stream(key, 1).uniform(0, size) < density).astype(np.float32)
    x = (Stream(key, 2).uniform(0, size) + np.float32(0.5)) * state
    codec = Support().bind(state)
    assert codec.decode(codec.encode(x, EncodeKeys(0, 0)), size, 0).tobytes() == x.tobytes()


@settings(deadline=None, max_examples=200)
@given(states, st.lists(st.floats(width=32), max_size=12), st.binary(max_size=3))
def test_any_support_is_refused_or_the_only_encoding(state: list[float], values: list[float], rest: bytes) -> None:
    codec, count = Support().bind(np.array(state, np.float32)), len(state)
    places = sum(s != 0 for s in state)
    values = (values * 80)[:places]
    body = np.array(values, "<f4").tobytes() + rest
    try:
        found = codec.decode(body, count, 0, LIMIT)
    except FrameError:
        assert len(body) != 4 * places or not all(abs(v) <= LIMIT for v in values)
        return
    assert (np.abs(found) <= LIMIT).all()
    assert codec.encode(found, EncodeKeys(0, 0)) == body
