"""Any update has a random code: codewords come back, at most a byte longer than a mask; damage is refused or a mask."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import EncodeKeys, MaskedNoise, RandomCode
from fedmrn.codecs.mask.trellis import follow, search
from fedmrn.errors import FrameError
from fedmrn.numerics.bits import unpack_bits
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

F32 = NDArray[np.float32]
codecs = st.builds(
    lambda law, mask, stochastic, *options: RandomCode(MaskedNoise(NoiseSpec(law, 0.01), mask, stochastic), *options),
    st.sampled_from(Law),
    st.sampled_from(MaskType),
    st.booleans(),
    st.sampled_from([1, 2, 5, 16, 64]),
    st.integers(1, 10),
    st.integers(64, 128).map(lambda x: x / 64),
)
keys = st.integers(0, (1 << 64) - 1)
splits = st.lists(st.one_of(st.integers(0, 70), st.integers(0, 3000)), min_size=1, max_size=6)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
spreads = st.one_of(st.sampled_from([0.0, 1e-30, 1e30]), st.floats(0, 0.05))


def check(codec: RandomCode, body: bytes, count: int, key: int) -> F32:
    """The decoded values, after a look at whether each is a codeword, and the one that the plain mask says."""
    values, n = codec.decode(body, count, key), codec.inner.noise.chunk(key, 0, count)
    lower = -n if codec.inner.mask is MaskType.SIGNED else np.zeros_like(n)
    bits = unpack_bits(codec.uncode(body, count, key), count)
    assert np.array_equal(values, np.where(bits, n, lower))
    return values


def coded(codec: RandomCode, u: F32, key: int, split: list[int]) -> bytes:
    """The coded body, whether it is the shorter one or not."""
    where = EncodeKeys(key, 1, tuple(split))
    return codec.coded(codec.inner.encode(u, where), u, where)


@settings(deadline=None, max_examples=200)
@given(codecs, keys, splits, spreads, st.integers(0, 1 << 32))
def test_codewords_come_back(codec: RandomCode, key: int, split: list[int], spread: float, seed: int) -> None:
    count = sum(split)
    u = (np.random.Generator(np.random.Philox(seed)).standard_normal(count) * spread).astype(np.float32)
    body = codec.encode(u, EncodeKeys(key, seed, tuple(split)))
    assert len(body) <= 1 + (count + 7) // 8
    check(codec, body, count, key)
    check(codec, coded(codec, u, key, split), count, key)


@settings(deadline=None, max_examples=100)
@given(codecs, keys, arrays(np.float32, st.integers(0, 90), elements=floats))
def test_any_finite_values_have_a_code(codec: RandomCode, key: int, u: F32) -> None:
    for body in (codec.encode(u, EncodeKeys(key, 1)), coded(codec, u, key, [u.size])):
        values = check(codec, body, u.size, key)
        n = codec.inner.noise.chunk(key, 0, u.size)
        assert oracle.decode_random(codec.params(), u.size, body, key) == (values == n).astype(int).tolist()


@settings(deadline=None, max_examples=60)
@given(codecs, st.integers(1, 12), st.data())
def test_no_path_is_better_than_the_one_found(codec: RandomCode, count: int, data: st.DataObject) -> None:
    """Whatever the scores, priors, informations and words."""

    def draw(least: int, most: int) -> list[int]:
        return data.draw(st.lists(st.integers(least, most), min_size=count, max_size=count))

    scores, priors, information, words = draw(-13481, 13481), draw(1, 255), draw(1, 255), draw(0, (1 << 32) - 1)
    log2 = codec.log2_states
    k, i, w = np.array(priors, np.uint8), np.array(information, np.uint8), np.array(words, np.uint32)
    path, mask = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    used = search(np.array(scores, np.int16), k, i, w, log2, path)
    assert follow(path[:used], k, i, w, log2, mask) == used
    assert int(np.array(scores)[mask].sum()) == oracle.best_of_all_paths(scores, priors, information, words, log2)


@settings(deadline=None, max_examples=200)
@given(codecs, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.integers(0, 40), keys)
def test_damage_is_refused_or_another_mask(
    codec: RandomCode, changes: list[tuple[int, int]], cut: int, key: int
) -> None:
    """The independent decoder refuses the same bodies, and reads the same masks."""
    u = np.random.Generator(np.random.Philox(1)).standard_normal(200) * 0.002
    body = bytearray(coded(codec, u.astype(np.float32), key, [130, 70]))
    for at, value in changes:
        body[at % len(body)] = value
    damaged = bytes(body[: len(body) - cut] if cut % 3 == 0 else body)
    try:
        values = codec.decode(damaged, 200, key)
    except FrameError:
        with pytest.raises((AssertionError, IndexError, struct.error)):
            oracle.decode_random(codec.params(), 200, damaged, key)
        return
    check(codec, damaged, 200, key)
    n = codec.inner.noise.chunk(key, 0, 200)
    assert oracle.decode_random(codec.params(), 200, damaged, key) == (values == n).astype(int).tolist()


@settings(deadline=None, max_examples=300)
@given(codecs, st.binary(max_size=120), st.integers(0, 400), st.booleans())
def test_noise_is_refused_or_a_mask(codec: RandomCode, data: bytes, count: int, headed: bool) -> None:
    body = b"\1\1\0\0\0" + count.to_bytes(8, "little") + data if headed else data
    try:
        values = codec.decode(body, count, 5)
    except FrameError:
        return
    assert values.shape == (count,)
    assert np.abs(values).max(initial=0) <= codec.bound(1.0)
