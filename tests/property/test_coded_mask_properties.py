"""Any mask comes back from its code, in at most a byte more than its bits; damage is refused or is another mask."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import CodedMask, EncodeKeys, InterleavedMask, MaskedNoise
from fedmrn.errors import FrameError
from fedmrn.numerics.bits import pack_bits
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

codecs = st.builds(
    lambda codec, law, mask, buckets: codec(MaskedNoise(NoiseSpec(law, 0.01), mask), buckets),
    st.sampled_from([CodedMask, InterleavedMask]),
    st.sampled_from(Law),
    st.sampled_from(MaskType),
    st.sampled_from([1, 2, 5, 16, 64]),
)
keys = st.integers(0, (1 << 64) - 1)
splits = st.lists(st.one_of(st.integers(0, 70), st.integers(0, 3000)), min_size=1, max_size=6)
densities = st.one_of(st.sampled_from([0.0, 0.001, 0.999, 1.0]), st.floats(0, 1))


def coded(codec: CodedMask | InterleavedMask, bits: NDArray[np.bool_], key: int, split: list[int]) -> bytes:
    """The coded body of a mask, whether it is the shorter one or not."""
    return codec.coded(pack_bits(bits), np.zeros(bits.size, np.float32), EncodeKeys(key, 1, tuple(split)))


@settings(deadline=None, max_examples=300)
@given(codecs, keys, splits, densities, st.integers(0, 1 << 32))
def test_a_mask_comes_back(
    codec: CodedMask | InterleavedMask, key: int, split: list[int], density: float, seed: int
) -> None:
    count = sum(split)
    bits = np.random.Generator(np.random.Philox(seed)).random(count) < density
    n = codec.inner.noise.chunk(key, 0, count)
    u = np.where(bits, n, -n if codec.inner.mask is MaskType.SIGNED else np.float32(0))
    body = codec.encode(u, EncodeKeys(key, seed, tuple(split)))
    assert len(body) <= 1 + (count + 7) // 8
    assert np.array_equal(codec.decode(body, count, key) == n, bits)
    if count or isinstance(codec, CodedMask):  # and coded, whether that is worth it or not
        body = coded(codec, bits, key, split)
    assert np.array_equal(codec.decode(body, count, key) == n, bits)


@settings(deadline=None, max_examples=40)
@given(codecs, keys, st.lists(st.integers(1, 150), min_size=1, max_size=3), densities, st.integers(0, 1 << 32))
def test_the_independent_decoder_agrees(
    codec: CodedMask | InterleavedMask, key: int, split: list[int], density: float, seed: int
) -> None:
    bits = np.random.Generator(np.random.Philox(seed)).random(sum(split)) < density
    body = coded(codec, bits, key, split)
    assert oracle.DECODE_SHORTER[codec.id](codec.params(), bits.size, body, key) == bits.astype(int).tolist()


@settings(deadline=None, max_examples=200)
@given(codecs, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4), st.integers(0, 40), keys)
def test_damage_is_refused_or_another_mask(
    codec: CodedMask | InterleavedMask, changes: list[tuple[int, int]], cut: int, key: int
) -> None:
    """The independent decoder refuses the same bodies, and reads the same masks."""
    split, bits = [130, 70], np.random.Generator(np.random.Philox(1)).random(200) < 0.1
    body = bytearray(coded(codec, bits, key, split))
    for at, value in changes:
        body[at % len(body)] = value
    damaged = bytes(body[: len(body) - cut] if cut % 3 == 0 else body)
    try:
        values = codec.decode(damaged, 200, key)
    except FrameError:
        with pytest.raises((AssertionError, IndexError, struct.error)):
            oracle.DECODE_SHORTER[codec.id](codec.params(), 200, damaged, key)
        return
    n = codec.inner.noise.chunk(key, 0, 200)
    assert ((values == n) | (values == (-n if codec.inner.mask is MaskType.SIGNED else 0))).all()
    assert oracle.DECODE_SHORTER[codec.id](codec.params(), 200, damaged, key) == (values == n).astype(int).tolist()
    again = codec.encode(values, EncodeKeys(key, 1, tuple(split)))
    assert np.array_equal(codec.decode(again, 200, key), values)


@settings(deadline=None, max_examples=300)
@given(codecs, st.binary(max_size=120), st.integers(0, 400), st.booleans())
def test_noise_is_refused_or_a_mask(codec: CodedMask | InterleavedMask, data: bytes, count: int, headed: bool) -> None:
    body = b"\1\1\0\0\0" + count.to_bytes(8, "little") + data if headed else data
    try:
        values = codec.decode(body, count, 5)
    except FrameError:
        return
    assert values.shape == (count,)
    assert np.abs(values).max(initial=0) <= codec.bound(1.0)
