"""CodedMask: the bits come back, here and by a decoder made from the wire format; their cost; what is refused."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from shorter_masks import (
    KEY,
    Bits,
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
from fedmrn.codecs import CHUNK, CodedMask, EncodeKeys, MaskedNoise
from fedmrn.codecs.mask import coded_mask
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.errors import ConfigError, EncodeError, FrameError, MalformedFrameError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec

F32 = NDArray[np.float32]
BINARY, SIGNED = MaskType


def codec_of(
    law: Law = Law.UNIFORM, mask: MaskType = BINARY, buckets: int = 16, *, stochastic: bool = True
) -> CodedMask:
    return CodedMask(MaskedNoise(NoiseSpec(law, 0.01), mask, stochastic), buckets)


def certain(codec: CodedMask, bits: Bits) -> F32:
    """The update whose mask is certain to be this one."""
    n = codec.inner.noise.chunk(KEY, 0, bits.size)
    return np.where(bits, n, -n if codec.inner.mask is SIGNED else np.float32(0))


def contexts_of(codec: CodedMask, sizes: tuple[int, ...]) -> Contexts:
    return Contexts.of(codec.inner.noise, KEY, np.array(sizes, np.int64), codec.buckets)


# --- the bits come back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [1, 5, 64])
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_the_independent_decoder_agrees(law: Law, mask: MaskType, buckets: int) -> None:
    codec = codec_of(law, mask, buckets)
    seed = 100 * law + 10 * mask
    densities = [0, 0.01, 0.3, 0.5, 0.97, 1]
    for k, sizes in enumerate([(1,), (2, 1), (63,), (64, 65), (1, 130, 300, 63), (127,)]):
        count = sum(sizes)
        bits = random_bits(count, densities[(seed + k) % 6], seed)
        body = coded(codec, bits, sizes)
        assert bits_of(codec, body, count).tolist() == bits.tolist()
        assert oracle.decode_mask(codec.params(), count, body, KEY) == bits.tolist()
        found, table, _ = oracle.coded_parts(codec.params(), body)
        assert found == list(sizes)
        assert oracle.encode_mask(codec.params(), found, table, bits.tolist(), KEY) == body


@pytest.mark.parametrize("density", [0, 0.002, 0.05, 0.5, 0.999, 1])
@pytest.mark.parametrize("count", [1, 2, 5, 31, 32, 33, 1000, 4000])
def test_the_independent_coder_agrees_at_any_length(count: int, density: float) -> None:
    """One context, so that only the coder matters: no words, one, two, many."""
    codec = codec_of(Law.BERNOULLI, buckets=1)
    bits = random_bits(count, density, count)
    body = coded(codec, bits, (count,))
    _, (frequency,), words = oracle.coded_parts(codec.params(), body)
    assert frequency == min(max(round(256 * int(bits.sum()) / count), 1), 255)
    symbols = bits.astype(int).tolist()
    assert oracle.ans_decode(words, [frequency] * count) == symbols
    assert oracle.ans_encode(symbols, [frequency] * count) == words
    assert np.array_equal(bits_of(codec, body, count), bits)


def test_the_contexts_are_those_of_the_wire_format() -> None:
    for law, mask in product(Law, MaskType):
        codec = codec_of(law, mask, 7)
        sizes = (5, 200, 64, 1000)
        contexts = contexts_of(codec, sizes)
        assert (contexts.size, contexts.count) == (1269, 1 + 3 + 1 + 7)
        assert contexts.part(0, 1269).tolist() == oracle.contexts(codec.params(), KEY, list(sizes))


def test_a_small_tensor_has_few_contexts() -> None:
    sizes = (1, 63, 64, 127, 128, 1023, 1024, 5000)
    assert oracle.numbers_of_buckets(list(sizes), 16) == [1, 1, 1, 1, 2, 15, 16, 16]
    assert contexts_of(codec_of(), sizes).buckets.tolist() == [1, 1, 1, 1, 2, 15, 16, 16]


def test_there_may_be_more_contexts_than_a_byte_counts() -> None:
    codec, sizes = codec_of(), (70,) * 300
    bits = random_bits(21_000, 0.02)
    body = coded(codec, bits, sizes)
    assert np.array_equal(bits_of(codec, body, bits.size), bits)
    assert contexts_of(codec, sizes).part(0, bits.size).tolist() == [i // 70 for i in range(21_000)]


@pytest.mark.parametrize("count", [127, 128, 129, 700])
def test_segments_are_coded_one_after_the_other(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded_mask, "SEGMENT", 128)
    codec = codec_of(buckets=3)
    bits, sizes = random_bits(count, 0.2), (100, count - 100)
    body = coded(codec, bits, sizes)
    assert oracle.decode_mask(codec.params(), count, body, KEY, segment=128) == bits.tolist()
    assert np.array_equal(bits_of(codec, body, count), bits)


def test_a_segment_is_a_million_elements() -> None:
    """The second tensor's context has symbols in both segments."""
    codec, sizes = codec_of(Law.BERNOULLI, buckets=1), ((1 << 20) - 1000, 2000)
    bits = np.concatenate([random_bits(sizes[0], 0.05, 1), random_bits(sizes[1], 0.6, 2)])
    body = coded(codec, bits, sizes)
    assert np.array_equal(bits_of(codec, body, bits.size), bits)
    _, table, words = oracle.coded_parts(codec.params(), body)
    ones = [table[0]] * sizes[0] + [table[1]] * sizes[1]  # already in order: segment, tensor, element
    assert oracle.ans_decode(words, ones) == bits.tolist()


def test_masks_of_several_segments() -> None:
    codec, count = codec_of(mask=SIGNED, buckets=3), (1 << 20) + CHUNK + 5
    bits = random_bits(count, 0.05)
    body = coded(codec, bits, (10, count - 20, 10))
    assert len(body) < count / 8 * 0.35
    assert np.array_equal(bits_of(codec, body, count), bits)


@pytest.mark.parametrize("stochastic", [True, False])
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_masks_are_those_of_masked_noise(law: Law, mask: MaskType, stochastic: bool) -> None:
    check_masks_are_those_of_masked_noise(codec_of(law, mask, stochastic=stochastic))


def test_tensors_without_elements_are_left_out() -> None:
    codec, bits = codec_of(buckets=1), random_bits(1000, 0.01)
    whole = codec.encode(certain(codec, bits), EncodeKeys(KEY, 1, (600, 400)))
    holes = codec.encode(certain(codec, bits), EncodeKeys(KEY, 1, (0, 600, 0, 0, 400, 0)))
    assert whole == holes
    assert whole[:21] == head(600, 400)
    assert codec.encode(certain(codec, bits), EncodeKeys(KEY, 1))[:13] == head(1000)
    with pytest.raises(EncodeError, match="tensors of 999 elements in a vector of 1000"):
        codec.encode(certain(codec, bits), EncodeKeys(KEY, 1, (600, 399)))


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_a_mask_of_nothing(sizes: tuple[int, ...]) -> None:
    body = codec_of().encode(np.zeros(0, np.float32), EncodeKeys(KEY, 1, sizes))
    assert body == b"\0"
    assert codec_of().decode(body, 0, KEY).size == 0


# --- the cost ---------------------------------------------------------------------------------------------------------


def entropy_of(codec: CodedMask, bits: Bits, sizes: tuple[int, ...]) -> float:
    """Bits that the mask costs given its contexts, were their shares of ones known exactly."""
    where = contexts_of(codec, sizes).part(0, bits.size)
    totals = np.bincount(where)
    ones = np.bincount(where, bits)
    found = 0.0
    for k, total in zip(ones, totals, strict=True):
        for part in (k, total - k):
            found += part * np.log2(total / part) if part else 0.0
    return found


@pytest.mark.parametrize("spread", [0.0005, 0.002, 0.006])
@pytest.mark.parametrize("mask", MaskType)
def test_a_large_mask_costs_its_conditional_entropy(mask: MaskType, spread: float) -> None:
    """Within 2 % and one state of 64 bits, beside the mode, the sizes and the table."""
    sizes, count = (100_000, 3000, 200_000), 303_000
    codec = codec_of(mask=mask)
    u = np.random.Generator(np.random.Philox(3)).standard_normal(count).astype(np.float32) * np.float32(spread)
    keys = EncodeKeys(KEY, 5, sizes)
    mine = codec.inner.encode(u, keys)
    bits = np.unpackbits(np.frombuffer(mine, np.uint8), count=count, bitorder="little").view(np.bool_)
    body = codec.encode(u, keys)
    assert np.array_equal(bits_of(codec, body, count), bits)
    entropy = entropy_of(codec, bits, sizes)
    overhead = 5 + 8 * 3 + 3 * 16
    assert 8 * (len(coded(codec, bits, sizes)) - overhead) <= 1.02 * entropy + 64
    assert 8 * (len(coded(codec, bits, sizes)) - overhead) >= 0.999 * entropy - 64
    if entropy < 0.9 * count:
        assert len(body) - overhead <= 1.02 * entropy / 8 + 8
    else:
        assert len(body) <= 1 + count // 8


def test_of_bodies_of_one_length_the_one_that_is_not_coded_is_sent() -> None:
    codec = codec_of(buckets=1)
    for count, coded_is_shorter in ((96, False), (104, False), (105, True)):
        body = codec.encode(np.zeros(count, np.float32), EncodeKeys(KEY, 1))
        assert body == (head(count) + b"\1" if coded_is_shorter else bytes(1 + -(-count // 8)))


def test_more_zeros_than_a_body_may_hold_travel_as_they_are() -> None:
    """Zeros that are coded first can cost nothing, so that a body could stand for any number of them."""
    codec = codec_of(buckets=1)
    most = 1416 * 14
    for count in (most, most + 1, 10 * most):
        u = np.zeros(count, np.float32)
        body = codec.encode(u, EncodeKeys(KEY, 1))
        assert body == (head(count) + b"\1" if count <= most else bytes(1 + -(-count // 8)))
        assert not codec.decode(body, count, KEY).any()
    first = np.zeros(3 * most, np.float32)
    first[0] = codec.inner.noise.chunk(KEY, 0, 1)[0]
    assert np.array_equal(codec.decode(codec.encode(first, EncodeKeys(KEY, 1)), first.size, KEY), first)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [-1, 0, 65, 256])
def test_buckets_out_of_range(buckets: int) -> None:
    with pytest.raises(ConfigError, match="buckets are 1 to 64"):
        codec_of(buckets=buckets)


def test_the_parameters() -> None:
    inner = codec_of(Law.GAUSSIAN, SIGNED).inner
    assert CodedMask(inner, 3).params() == inner.params() + b"\3"
    assert CodedMask.from_params(inner.params() + b"\3") == CodedMask(inner, 3)
    for wrong in (b"\0", b"\x41", b"\xff", b"", b"\3\0"):
        with pytest.raises(MalformedFrameError, match="codec coded-mask cannot have parameters"):
            CodedMask.from_params(inner.params() + wrong)
    with pytest.raises(MalformedFrameError, match="codec coded-mask cannot have parameters"):
        CodedMask.from_params(b"\3" + inner.params()[1:] + b"\3")


SHORT_SIZES = (130, 66)
SHORT = {f"{law.name.lower()} {mask.name.lower()}": codec_of(law, mask, 2) for law in Law for mask in MaskType}
each_short = pytest.mark.parametrize("codec", SHORT.values(), ids=SHORT.keys())


def refused_or_bounded(codec: CodedMask, body: bytes, count: int) -> bool:
    try:
        values = codec.decode(body, count, KEY)
    except FrameError:
        return True
    assert values.shape == (count,)
    assert np.abs(values).max(initial=0) <= codec.bound(1.0)
    return False


@each_short
def test_every_truncation_is_refused(codec: CodedMask) -> None:
    """But for that of all words, which says in full that every bit is zero."""
    body = coded(codec, random_bits(196, 0.1), SHORT_SIZES)
    empty = len(head(*SHORT_SIZES)) + 3
    for length in range(len(body)):
        assert refused_or_bounded(codec, body[:length], 196) is (length != empty), length
    assert not bits_of(codec, body[:empty], 196).any()


@each_short
def test_every_bit_flip_is_refused_or_decodes_within_the_bound(codec: CodedMask) -> None:
    body = coded(codec, random_bits(196, 0.1), SHORT_SIZES)
    refused = 0
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        refused += refused_or_bounded(codec, bytes(changed), 196)
    assert refused >= 8 * 21, "at least the mode and the sizes have one meaning"


@each_short
def test_every_byte_of_the_head_is_refused_or_decodes_within_the_bound(codec: CodedMask) -> None:
    body = coded(codec, random_bits(196, 0.1), SHORT_SIZES)
    for at in range(len(body)):
        for value in (0, 1, 2, 127, 128, 255):
            refused_or_bounded(codec, body[:at] + bytes([value]) + body[at + 1 :], 196)


@pytest.mark.parametrize("mode", [2, 3, 128, 255])
def test_a_mode_that_does_not_exist(mode: int) -> None:
    body = coded(codec_of(), random_bits(196, 0.1), SHORT_SIZES)
    with pytest.raises(MalformedFrameError, match="starts with 0, or with 1"):
        codec_of().open(bytes([mode]) + body[1:], 196, KEY, 1.0)


def test_a_mask_that_is_not_coded_is_checked_as_one() -> None:
    check_plain_bodies(codec_of())


@pytest.mark.parametrize(
    ("body", "count", "message"),
    [
        (b"", 0, "starts with 0"),
        (b"\1\0\0\0", 0, "starts with 0"),
        (b"\1\0\0\0\0\0", 0, "whole words do not fit"),
        (b"\1\0\0\0\0", 1, "0 tensors do not make up 1 elements"),
        (b"\1\xff\xff\xff\xff" + bytes(100), 9, "4294967295 sizes take more than"),
        (head(9)[:-1], 9, "1 sizes take more than"),
        (head(9, 0) + b"\1\1", 9, "do not make up"),
        (head(0) + b"\1", 0, "do not make up"),
        (head(4, 4) + b"\1\1", 9, "do not make up"),
        (head(9, 1 << 63, 1 << 63) + b"\1\1\1", 9, "do not make up"),
        (head((1 << 64) - 1, 10) + b"\1\1", 9, "do not make up"),
        (head(1 << 63, (1 << 63) + 9) + b"\1\1", 9, "do not make up"),
        (head((1 << 64) - 1) + b"\1", (1 << 64) - 1, "too many here"),
        (head(1 << 40) + b"\1", 1 << 40, "too many here"),
        (head(1416 * 14 + 1) + b"\1", 1416 * 14 + 1, "too many here"),
        (head(9), 9, "1 contexts and whole words do not fit"),
        (head(9) + b"\1\0", 9, "whole words do not fit"),
        (head(9) + b"\1\0\0\0", 9, "whole words do not fit"),
        (head(9) + b"\1" + bytes(4), 9, "the last word of a coded mask is zero"),
        (head(9) + b"\1\1\0\0\0" + bytes(4), 9, "the last word of a coded mask is zero"),
        (head(9) + b"\0", 9, "that occurs has no frequency"),
        (head(9) + b"\1\1\0\0\0", 9, "left over"),
        (head(9) + b"\1" + 40 * b"\1", 9, "left over"),
    ],
)
def test_hostile_bodies_take_no_memory(body: bytes, count: int, message: str) -> None:
    check_refused_without_memory(codec_of(buckets=1), body, count, message)


@pytest.mark.parametrize("there", range(5))
def test_a_table_that_ends_early(there: int) -> None:
    body = head(256) + bytes([1] * there)
    if there < 4:
        with pytest.raises(MalformedFrameError, match="4 contexts and whole words do not fit"):
            codec_of(buckets=4).open(body, 256, KEY, 1.0)
    else:
        assert not codec_of(buckets=4).decode(body, 256, KEY).any()


def test_sizes_cannot_wrap_whatever_the_bound_on_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a body of hundreds of megabytes the bound alone would let sizes through that wrap around together."""
    monkeypatch.setattr(CodedMask, "elements_a_byte", 1 << 60)
    for sizes in ((9, 1 << 63, 1 << 63), (1 << 62,) * 4 + (9,), ((1 << 64) - 1, 10)):
        assert sum(sizes) % (1 << 64) == 9
        with pytest.raises(MalformedFrameError, match="do not make up 9 elements"):
            codec_of(buckets=1).open(head(*sizes) + bytes([1] * len(sizes)), 9, KEY, 1.0)


def test_memory_is_bounded_by_the_length_of_the_body() -> None:
    """The most elements that a body of 14 bytes may hold: forty bytes for each, and there are no others to hold."""
    count = 1416 * 14
    body = head(count) + b"\1"
    codec = codec_of(buckets=1)
    assert allocated(lambda: codec.open(body, count, KEY, 1.0)) < 40 * count


def test_frequencies_are_there_for_the_contexts_that_occur_and_no_others() -> None:
    """Noise of one magnitude is all in the last bucket."""
    codec = codec_of(Law.BERNOULLI, buckets=4)
    bits = random_bits(1000, 0.1)
    body = coded(codec, bits, (1000,))
    at = len(head(1000))
    assert body[at : at + 3] == bytes(3)
    assert body[at + 3] == round(256 * int(bits.sum()) / 1000)
    for k in range(3):
        changed = bytearray(body)
        changed[at + k] = 1
        with pytest.raises(MalformedFrameError, match="left over"):
            codec.open(bytes(changed), 1000, KEY, 1.0)
    changed = bytearray(body)
    changed[at + 3] = 0
    with pytest.raises(MalformedFrameError, match="that occurs has no frequency"):
        codec.open(bytes(changed), 1000, KEY, 1.0)


@pytest.mark.parametrize("extra", [b"\1\0\0\0", b"\xff\xff\xff\xff", bytes(4), bytes(400)])
def test_words_below_all_others_are_left_over(extra: bytes) -> None:
    codec = codec_of(Law.BERNOULLI, buckets=1)
    body = coded(codec, random_bits(1000, 0.1), (1000,))
    at = len(head(1000)) + 1
    with pytest.raises(MalformedFrameError, match="left over"):
        codec.open(body[:at] + extra + body[at:], 1000, KEY, 1.0)
