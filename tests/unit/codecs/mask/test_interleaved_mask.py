"""InterleavedMask: the bits come back, here and by a decoder made from the wire format; their cost; what is refused."""

import struct

import coded_words
import numpy as np
import pytest
from numpy.typing import NDArray
from plain_processor import said_on_a_plain_processor
from shorter_masks import (
    KEY,
    bits_of,
    check_masks_are_those_of_masked_noise,
    check_plain_bodies,
    check_refused_without_memory,
    coded,
    head,
    random_bits,
)

import oracle
from allocated import allocated
from fedmrn.codecs import CodedMask, EncodeKeys, InterleavedMask, MaskedNoise
from fedmrn.codecs.mask import interleaved_mask
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.errors import FrameError, MalformedFrameError
from fedmrn.numerics import blocks
from fedmrn.numerics.ans import START, SymbolSteps, lanes_of
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

F32 = NDArray[np.float32]
BINARY, SIGNED = MaskType


def codec_of(
    law: Law = Law.UNIFORM, mask: MaskType = BINARY, buckets: int = 16, *, stochastic: bool = True
) -> InterleavedMask:
    return InterleavedMask(MaskedNoise(NoiseSpec(law, 0.01), mask, stochastic), buckets)


# --- the bits come back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", Law)
def test_masks_of_every_length(law: Law) -> None:
    """The independent reader and writer have the same bytes."""
    codec = codec_of(law, buckets=3)
    for count in range(1, 301):
        sizes = (count,) if count < 9 else (count // 3, count - count // 3)
        bits = random_bits(count, 0.15, count)
        body = coded(codec, bits, sizes)
        assert np.array_equal(bits_of(codec, body, count), bits)
        assert oracle.decode_interleaved(codec.params(), count, body, KEY) == bits.tolist()
        _, table, _ = oracle.interleaved_parts(codec.params(), body)
        assert oracle.encode_interleaved(codec.params(), list(sizes), table, bits.tolist(), KEY) == body


@pytest.mark.parametrize("many", [1, 2, 3, 7])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_blocks_stand_for_themselves(many: int, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 128)
    codec, count = codec_of(buckets=2), 128 * many + more
    bits, sizes = random_bits(count, 0.2), (100, count - 100)
    body = coded(codec, bits, sizes)
    assert oracle.decode_interleaved(codec.params(), count, body, KEY, block=128) == bits.tolist()
    assert np.array_equal(bits_of(codec, body, count), bits)
    _, _, parts = oracle.interleaved_parts(codec.params(), body, block=128)
    assert len(parts) == -(-count // 128)


@pytest.mark.parametrize("count", [65_535, 65_536, 65_537, (1 << 19) - 1, 1 << 19, (1 << 19) + 1, (1 << 20) + 5])
def test_masks_around_the_numbers_of_lanes_and_blocks(count: int) -> None:
    """Of one context, so that the independent decoder need not make the noise of so many."""
    codec, bits = codec_of(Law.BERNOULLI, SIGNED, buckets=1), random_bits(count, 0.1)
    body = coded(codec, bits, (count,))
    assert np.array_equal(bits_of(codec, body, count), bits)
    _, (k,), parts = oracle.interleaved_parts(codec.params(), body)
    found: list[int] = []
    for at, block in enumerate(parts):
        found += oracle.lanes_decode(block, [k] * (min(count, (at + 1) << 19) - (at << 19)))
    assert found == bits.tolist()


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_threads_change_nothing(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(threads: int) -> None:
        for module in (blocks, interleaved_mask):
            monkeypatch.setattr(module, "cores", lambda: threads)

    use(cores)
    codec, count = codec_of(), (1 << 21) + 77
    bits = random_bits(count, 0.2)
    body = coded(codec, bits, (count // 2, count - count // 2))
    use(1)
    assert coded(codec, bits, (count // 2, count - count // 2)) == body
    use(cores)
    assert np.array_equal(bits_of(codec, body, count), bits)


@pytest.mark.slow
def test_narrower_vectors_write_the_same_bytes() -> None:
    """Compiled for the plainest processor of this kind: masks and whole numbers of every length, and around blocks."""
    assert said_on_a_plain_processor(coded_words) == coded_words.digest()


def test_more_contexts_than_sixteen_bits_count() -> None:
    codec, count = codec_of(buckets=64), 64 * 64 * 520
    bits = random_bits(count, 0.3)
    sizes = (64 * 64,) * 520
    body = coded(codec, bits, sizes)
    assert 2 * 64 * 520 > 1 << 16
    assert np.array_equal(bits_of(codec, body, count), bits)


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_masks_are_those_of_masked_noise(law: Law, mask: MaskType, stochastic: bool) -> None:
    check_masks_are_those_of_masked_noise(codec_of(law, mask, stochastic=stochastic))


def test_division_by_multiplication() -> None:
    """For every frequency of both tables: around each multiple of it that a state can be."""
    for bits in (8, 12):
        f = np.arange(1, (1 << bits) + 1, dtype=np.uint32)
        steps = SymbolSteps.of(f, np.zeros_like(f), bits)
        limit = f.astype(np.uint64) << np.uint64(32 - bits)
        for q in (1, 2, 255, 256, (1 << 16) + 1, (1 << (32 - bits)) - 1, 1 << (32 - bits)):
            for off in (-1, 0, 1):
                x = f.astype(np.int64) * q + off
                x = np.clip(x, 0, limit.astype(np.int64) - 1)
                exact = [int(a) * int(r) for a, r in zip(x, steps.reciprocals, strict=True)]
                assert max(exact) < 1 << 64
                assert [e >> (32 + bits) for e in exact] == (x // f).tolist()


# --- the cost ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "more"), [(10_000, 1.02), (100_000, 1.01), (1_000_000, 1.01)])
@pytest.mark.parametrize("spread", [0.0002, 0.0005, 0.002])
def test_a_mask_is_hardly_longer_than_by_the_other_coder(count: int, more: float, spread: float) -> None:
    u = np.random.Generator(np.random.Philox(3)).standard_normal(count).astype(np.float32) * np.float32(spread)
    keys = EncodeKeys(KEY, 5, (count // 8,) * 8)
    codec = codec_of()
    mine, other = codec.encode(u, keys), CodedMask(codec.inner, codec.buckets).encode(u, keys)
    assert mine[0] == other[0] == 1
    assert len(mine) <= more * len(other)


def test_more_zeros_than_a_body_may_hold_travel_as_they_are() -> None:
    codec = codec_of(buckets=1)
    for count in (20_000, 100_000, 3_000_000):
        body = codec.encode(np.zeros(count, np.float32), EncodeKeys(KEY, 1))
        assert body[0] == 1
        assert count <= codec.elements_a_byte * len(body)
        assert not bits_of(codec, body, count).any()


# --- what is refused --------------------------------------------------------------------------------------------------


SHORT_SIZES = (130, 66)


def refused(codec: InterleavedMask, body: bytes, count: int) -> bool:
    """Whether a body is refused; if not, the independent decoder reads the same bits from it."""
    try:
        bits = bits_of(codec, body, count)
    except FrameError:
        with pytest.raises((AssertionError, IndexError, struct.error)):
            oracle.decode_interleaved(codec.params(), count, body, KEY)
        return True
    assert oracle.decode_interleaved(codec.params(), count, body, KEY) == bits.tolist()
    return False


def test_every_truncation_is_refused() -> None:
    codec = codec_of(buckets=2)
    body = coded(codec, random_bits(196, 0.1), SHORT_SIZES)
    assert all(refused(codec, body[:length], 196) for length in range(len(body)))
    assert refused(codec, body + b"\0\0", 196)
    assert refused(codec, body + b"\0", 196)


def test_every_bit_flip_is_refused_or_read_alike() -> None:
    codec = codec_of(buckets=2)
    body = coded(codec, random_bits(196, 0.1), SHORT_SIZES)
    found = 0
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        found += refused(codec, bytes(changed), 196)
    assert found == 8 * len(body), "the end of both lanes says whether anything was changed"


def test_a_mask_that_is_not_coded_is_checked_as_one() -> None:
    check_plain_bodies(codec_of())


STATES = struct.pack("<II", START, START)


@pytest.mark.parametrize(
    ("body", "count", "message"),
    [
        (b"", 0, "starts with 0"),
        (b"\1\0\0\0\0", 0, "of no element"),
        (b"\1\0\0\0\0" + STATES, 0, "of no element"),
        (b"\1\xff\xff\xff\xff" + bytes(100), 9, "4294967295 sizes take more than"),
        (head(9, 0) + b"\1" + STATES, 9, "do not make up"),
        (head(9, 1 << 63, 1 << 63) + b"\1\1\1" + STATES, 9, "do not make up"),
        (head(1 << 40) + b"\1" + STATES, 1 << 40, "too many here"),
        (head(9), 9, "do not fit"),
        (head(9) + b"\1", 9, "not the states of 2 lanes"),
        (head(9) + b"\1" + STATES[:-1], 9, "not the states of 2 lanes"),
        (head(9) + b"\1" + STATES + b"\1", 9, "whole words"),
        (head(9) + b"\1" + struct.pack("<II", START - 1, START), 9, "below 2"),
        (head(9) + b"\1" + bytes(8), 9, "below 2"),
        (head(9) + b"\1" + STATES, 9, "does not end where"),
        (head(9) + b"\1" + b"\xff" * 40, 9, "does not end where"),
        (head(9) + b"\0" + STATES, 9, "does not end where|are not those that have"),
    ],
)
def test_hostile_bodies_take_no_memory(body: bytes, count: int, message: str) -> None:
    check_refused_without_memory(codec_of(buckets=1), body, count, message)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 11, 1 << 31, (1 << 32) - 1])
def test_an_index_that_does_not_fit(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", 128)
    codec = codec_of(buckets=1)
    body = coded(codec, random_bits(200, 0.2), (200,))
    at = len(head(200)) + 1
    assert struct.unpack_from("<I", body, at)[0] != length
    with pytest.raises(MalformedFrameError):
        codec.open(body[:at] + struct.pack("<I", length) + body[at + 4 :], 200, KEY, 1.0)


def test_frequencies_are_there_for_the_contexts_that_occur_and_no_others() -> None:
    """Noise of one magnitude is all in the last bucket."""
    codec = codec_of(Law.BERNOULLI, buckets=4)
    body = coded(codec, random_bits(1000, 0.1), (1000,))
    at = len(head(1000))
    assert body[at : at + 3] == bytes(3)
    for k in range(3):
        changed = bytearray(body)
        changed[at + k] = 1
        with pytest.raises(MalformedFrameError, match="are not those that have a frequency"):
            codec.open(bytes(changed), 1000, KEY, 1.0)


def test_memory_is_bounded_by_the_length_of_the_body() -> None:
    codec = codec_of(buckets=1)
    body = codec.encode(np.zeros(1 << 20, np.float32), EncodeKeys(KEY, 1))
    count = codec.elements_a_byte * len(body)
    body = head(count) + body[len(head(1)) :]

    def check() -> None:
        with pytest.raises(MalformedFrameError):
            codec.open(body, count, KEY, 1.0)

    assert allocated(check) < count  # a byte an element, and pieces


def test_contexts_are_counted_once_for_all_blocks() -> None:
    """As many contexts as a body can name, and as many blocks: memory is not their product."""
    tensors = 20_000
    codec = codec_of(buckets=1)
    sizes = (1,) * (tensors - 1) + (blocks.BLOCK * 3,)
    count = sum(sizes)
    body = head(*sizes) + b"\1" * tensors + struct.pack("<4I", 8, 8, 8, 8) + bytes(40)

    def check() -> None:
        with pytest.raises(MalformedFrameError):
            codec.open(body, count, KEY, 1.0)

    assert allocated(check) < 4 << 20


def test_lanes_are_few_for_few() -> None:
    assert [lanes_of(n) for n in (1, 65_535, 65_536, 1 << 19)] == [2, 2, 4, 4]
    assert Contexts.of(codec_of().inner.noise, KEY, np.array([5], np.int64), 16).count == 1
