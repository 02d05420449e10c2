"""RandomCode: an independent decoder agrees; the search is exact; law and cost of the masks; what is refused."""

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from shorter_masks import (
    KEY,
    check_plain_bodies,
    check_refused_without_memory,
    head,
)

import oracle
from allocated import allocated
from fedmrn.codecs import CHUNK, CodedMask, EncodeKeys, MaskedNoise, RandomCode
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.codecs.mask.trellis import follow, search
from fedmrn.errors import ConfigError, EncodeError, FrameError, MalformedFrameError, PaddingError
from fedmrn.numerics.bits import unpack_bits
from fedmrn.numerics.masking import MaskType, probability
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, domain

F32 = NDArray[np.float32]
Bits = NDArray[np.bool_]
SCALE = 0.01
BINARY, SIGNED = MaskType


def codec_of(
    law: Law = Law.UNIFORM,
    mask: MaskType = BINARY,
    buckets: int = 16,
    log2_states: int = 8,
    rate: float = 1.125,
    *,
    stochastic: bool = True,
) -> RandomCode:
    return RandomCode(MaskedNoise(NoiseSpec(law, SCALE), mask, stochastic), buckets, log2_states, rate)


def update(count: int, spread: float, seed: int = 0) -> F32:
    """Normal values; their standard deviation is this part of the noise's scale."""
    values = np.random.Generator(np.random.Philox(seed)).standard_normal(count)
    return (values * spread * SCALE).astype(np.float32)


def coded(codec: RandomCode, u: F32, sizes: tuple[int, ...], key: int = KEY) -> bytes:
    """The coded body of an update, whether it is the shorter one or not."""
    keys = EncodeKeys(key, 1, sizes)
    return codec.coded(codec.inner.encode(u, keys), u, keys)


def noise(codec: RandomCode, count: int, key: int = KEY) -> F32:
    return codec.inner.noise.chunk(key, 0, count)


def bits_of(codec: RandomCode, body: bytes, count: int, key: int = KEY) -> Bits:
    n = noise(codec, count, key)
    values = codec.decode(body, count, key)
    assert ((values == n) | (values == (-n if codec.inner.mask is SIGNED else 0))).all()
    return values == n


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buckets", [1, 5, 64])
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
def test_the_independent_decoder_agrees(law: Law, mask: MaskType, buckets: int) -> None:
    seed = 100 * law + 10 * mask + buckets
    spreads = [0, 0.05, 0.3, 1, 30]
    for k, sizes in enumerate([(1,), (2, 1), (63,), (64, 65), (1, 130, 300, 63), (127,), (700,)]):
        codec, count = codec_of(law, mask, buckets, log2_states=(1, 4, 10)[(seed + k) % 3]), sum(sizes)
        body = coded(codec, update(count, spreads[(seed + k) % 5], seed), sizes)
        bits = bits_of(codec, body, count)
        assert oracle.decode_random(codec.params(), count, body, KEY) == bits.tolist()
        assert np.array_equal(unpack_bits(codec.uncode(body, count, KEY), count), bits)
        found, prior, information, path = oracle.random_parts(codec.params(), body)
        assert found == list(sizes)
        assert {0} < {*prior, *information, 0} <= set(range(256))
        # As long as the informations of its elements say, and no byte longer.
        where = oracle.contexts(codec.params(), KEY, found)
        assert len(path) == -(-sum(oracle.reads_path_bit([information[c] for c in where])) // 8)


def test_many_tensors_over_more_than_one_block() -> None:
    """300 contexts and 21,000 elements, of which a block has 16,384: a path bit is read at its start."""
    codec, sizes = codec_of(mask=SIGNED), (70,) * 300
    body = coded(codec, update(21_000, 0.3), sizes)
    bits = bits_of(codec, body, 21_000)
    assert oracle.decode_random(codec.params(), 21_000, body, KEY) == bits.tolist()
    _, prior, information, _ = oracle.random_parts(codec.params(), body)
    assert len(prior) == len(information) == 300
    each = [information[i // 70] for i in range(21_000)]
    reads = oracle.reads_path_bit(each)
    assert reads[CHUNK]
    assert sum(reads[:CHUNK]) == 1 + (sum(each[: CHUNK - 1]) // 256)


@pytest.mark.parametrize("count", [CHUNK + 2, 2 * CHUNK, 3 * CHUNK + 7])
def test_blocks_stand_for_themselves(count: int) -> None:
    """With the same tables, as noise of one magnitude has them, only the last block changes with what it holds."""
    codec = codec_of(Law.BERNOULLI, buckets=1)
    n = noise(codec, count)
    u = np.where(np.arange(count) % 2, n / 2, 0).astype(np.float32)
    other = u.copy()
    other[-2:] = other[-2:][::-1]
    first, second = (coded(codec, x, (count,)) for x in (u, other))
    assert first[: len(head(count)) + 2] == second[: len(head(count)) + 2]
    mine, others = (bits_of(codec, body, count) for body in (first, second))
    last = (count - 1) // CHUNK * CHUNK
    assert np.array_equal(mine[:last], others[:last])
    assert abs(mine.mean() - 0.25) < 0.05


def test_tensors_without_elements_are_left_out() -> None:
    codec, u = codec_of(buckets=1), update(1000, 0.05)
    whole = codec.encode(u, EncodeKeys(KEY, 1, (600, 400)))
    assert whole == codec.encode(u, EncodeKeys(KEY, 1, (0, 600, 0, 0, 400, 0)))
    assert whole[:21] == head(600, 400)
    assert codec.encode(u, EncodeKeys(KEY, 1))[:13] == head(1000)
    with pytest.raises(EncodeError, match="tensors of 999 elements in a vector of 1000"):
        codec.encode(u, EncodeKeys(KEY, 1, (600, 399)))


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)])
def test_a_mask_of_nothing(sizes: tuple[int, ...]) -> None:
    codec = codec_of()
    assert codec.encode(np.zeros(0, np.float32), EncodeKeys(KEY, 1, sizes)) == b"\0"
    for body in (b"\0", head()):
        assert codec.decode(body, 0, KEY).size == 0
        assert oracle.decode_random(codec.params(), 0, body, KEY) == []


# --- the trellis ------------------------------------------------------------------------------------------------------


def block(count: int, least: int, seed: int) -> tuple[list[int], list[int], list[int], list[int]]:
    """Scores, priors, informations (from `least`) and words of a block."""
    g = np.random.Generator(np.random.Philox(seed))
    scores, priors = g.integers(-5000, 5000, count), g.integers(1, 256, count)
    information, words = g.integers(least, 256, count), g.integers(1 << 32, size=count)
    return scores.tolist(), priors.tolist(), information.tolist(), words.tolist()


def run(scores: list[int], priors: list[int], information: list[int], words: list[int], log2: int) -> tuple[Bits, Bits]:
    """(path, mask) that the kernels find."""
    k, i, w = np.array(priors, np.uint8), np.array(information, np.uint8), np.array(words, np.uint32)
    path, mask = np.zeros(k.size, np.bool_), np.zeros(k.size, np.bool_)
    used = search(np.array(scores, np.int16), k, i, w, log2, path)
    assert follow(path[:used], k, i, w, log2, mask) == used
    assert used == 0 or follow(path[: used - 1], k, i, w, log2, mask.copy()) == -1
    return path[:used], mask


@pytest.mark.parametrize("log2_states", [1, 2, 3, 10])
@pytest.mark.parametrize("count", [1, 2, 9, 14])
def test_no_path_is_better_than_the_one_found(count: int, log2_states: int) -> None:
    for seed in range(8):
        b = block(count, 130 if seed % 2 else 1, 100 * count + seed)
        path, mask = run(*b, log2_states)
        assert len(path) == sum(oracle.reads_path_bit(b[2])) <= count
        assert mask.tolist() == oracle.follow(path.astype(int).tolist(), *b[1:], log2_states)
        best = oracle.best_of_all_paths(*b, log2_states)
        assert sum(np.array(b[0])[mask]) == best == oracle.best_by_state(*b, log2_states)


@pytest.mark.parametrize("log2_states", range(1, 11))
def test_longer_paths_are_as_good_as_dynamic_programming_finds(log2_states: int) -> None:
    b = block(max(40, 400 >> max(0, log2_states - 5)), 1, log2_states)
    path, mask = run(*b, log2_states)
    assert len(path) == sum(oracle.reads_path_bit(b[2])) > log2_states
    assert mask.tolist() == oracle.follow(path.astype(int).tolist(), *b[1:], log2_states)
    assert sum(np.array(b[0])[mask]) == oracle.best_by_state(*b, log2_states)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_scores_of_a_whole_block_do_not_overflow(sign: int) -> None:
    """Twice the largest logit everywhere finds the path that 1 everywhere finds."""
    _, priors, information, words = block(CHUNK, 1, 5)
    largest = 7807 + 5674
    small, large = (run([sign * s] * CHUNK, priors, information, words, 8) for s in (1, largest))
    assert np.array_equal(small[0], large[0])
    share = small[1].mean() - np.mean(priors) / 256
    assert sign * share > 0.1


@pytest.mark.parametrize("k", [1, 64, 200, 255])
def test_under_every_label_a_bit_is_1_with_the_priors_probability(k: int) -> None:
    """Exactly so over the words; and two labels agree about as often as independent bits do."""
    for a, label in product((1, 3, 0x8001, 0xFFFF), (0, 1, 5, 511, 2047)):
        assert sum(oracle.candidate_bit(label, c << 16 | a, k) for c in range(0, 1 << 16, 16)) == k * 16
    words, count = Stream(3, domain(Purpose.CODEBOOK)).words(0, 20_000), 20_000
    prior, information = np.full(count, k, np.uint8), np.ones(count, np.uint8)
    g, p = np.random.Generator(np.random.Philox(k)), k / 256
    masks = []
    for _ in range(4):
        mask = np.zeros(count, np.bool_)
        assert follow(g.random(count) < 0.5, prior, information, words, 8, mask) == -(-count // 256)
        assert abs(mask.mean() - p) < 5 * np.sqrt(p * (1 - p) / count)
        masks.append(mask)
    for i, x in enumerate(masks):
        for y in masks[:i]:
            # 79 path bits; two random labels of 512 are the same one now and then, four times hardly ever.
            same = 4 / 79 * p * (1 - p)
            assert abs((x & y).mean() - p * p) < 5 * np.sqrt(p * p * (1 - p * p) / count) + same


# --- the law ----------------------------------------------------------------------------------------------------------


SPREADS = [0.1, 0.3, 0.5]


def sample(codec: RandomCode, spread: float, count: int, keys: int) -> tuple[NDArray[np.float64], ...]:
    """(p, bits, u clipped to the codewords, decoded values, distance of the codewords), under several keys."""
    found = []
    for key in range(keys):
        u = update(count, spread, 1000 + key)
        n = noise(codec, count, key)
        body = codec.encode(u, EncodeKeys(key, 1))
        assert body[0] == 1
        p = probability(u, n, codec.inner.mask).astype(np.float64)
        lower = -n if codec.inner.mask is SIGNED else np.zeros_like(n)
        width = (n - lower).astype(np.float64)
        found.append((p, bits_of(codec, body, count, key), lower + p * width, codec.decode(body, count, key), width))
    return tuple(np.concatenate(part).astype(np.float64) for part in zip(*found, strict=True))


def bias(p: NDArray[np.float64], bits: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """(p, E[bit | p] - p, its standard error) for twentieths of p; what is certain is left out."""
    rows, where = [], np.floor(p * 20)
    for k in range(20):
        here = (where == k) & (p > 0) & (p < 1)
        if here.sum() >= 500:
            error = float(np.sqrt((p[here] * (1 - p[here])).sum()) / here.sum())
            rows.append((float(p[here].mean()), float((bits - p)[here].mean()), error))
    return rows


@pytest.mark.parametrize("spread", [0.0, 0.001, 0.01, 0.03])
def test_updates_far_below_the_noise_stay_that_small(spread: float) -> None:
    """A prior is at least 1/256: what asks for less must not be rounded up to it, as a tensor that is frozen would be.

    The share of ones and its mean, within five standard errors and a thousandth.
    """
    p, bits, *_ = sample(codec_of(), spread, 1 << 16, 2)
    error = float(np.sqrt((p * (1 - p)).sum()) / p.size)
    assert abs(float(bits.mean() - p.mean())) <= 0.001 + 5 * error


def test_a_frozen_tensor_beside_a_trained_one_stays_where_it_is() -> None:
    codec, sizes = codec_of(), (30_000, 30_000)
    u = update(60_000, 0.3)
    u[:30_000] = 0
    bits = bits_of(codec, coded(codec, u, sizes), 60_000)
    assert bits[:30_000].mean() < 0.001
    assert bits[30_000:].mean() > 0.1


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", [Law.UNIFORM, Law.GAUSSIAN])
def test_a_bit_is_1_nearly_as_often_as_its_probability_says(law: Law, mask: MaskType, spread: float) -> None:
    """The largest bias measured, over 400,000 elements each, was 0.060 (binary, spread 0.5, p near 0.65).

    With five standard errors of the share in a bin. What is certain is all but certain: measured 0.0025.
    """
    p, bits, *_ = sample(codec_of(law, mask), spread, 1 << 16, 3)
    rows = bias(p, bits)
    assert len(rows) >= 15
    for at, off, error in rows:
        assert abs(off) <= 0.065 + 5 * error, at
    for value in (0.0, 1.0):
        certain = p == value
        assert certain.sum() > 5000
        assert abs(bits[certain].mean() - value) <= 0.006


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("mask", MaskType)
def test_decoded_values_follow_the_update(mask: MaskType, spread: float) -> None:
    """Slope and error energy next to ideal sampling: measured 1.007 to 1.035, and 0.97 to 1.05.

    The error of the slope is sqrt(V / |u|^2), V the variance of ideal sampling; that of the energy is a per cent.
    """
    p, _, u, values, width = sample(codec_of(mask=mask), spread, 1 << 16, 3)
    ideal = width**2 * p * (1 - p)
    slope_error = np.sqrt((u**2 * ideal).sum()) / (u**2).sum()
    assert abs((values * u).sum() / (u**2).sum() - 1) <= 0.04 + 5 * slope_error
    assert 0.92 <= ((values - u) ** 2).sum() / ideal.sum() <= 1.1
    # Their mean is not off: what is too much for some p is made up for by others.
    assert abs((values - u).sum()) <= 5 * np.sqrt(ideal.sum())


@pytest.mark.parametrize("mask", MaskType)
def test_more_states_and_a_higher_rate_come_nearer_to_the_law(mask: MaskType) -> None:
    """The test that the bounds above can fail: few states do."""

    def off(log2_states: int, rate: float) -> float:
        p, bits, *_ = sample(codec_of(mask=mask, log2_states=log2_states, rate=rate), 0.3, 1 << 16, 2)
        return float(np.average(bits, weights=p == 0)) + 1 - float(np.average(bits, weights=p == 1))

    few, default, exact = off(1, 1.0), off(8, 1.125), off(10, 1.25)
    assert few > 4 * default
    assert default > exact


@pytest.mark.parametrize("mask", MaskType)
def test_errors_of_different_keys_average_out(mask: MaskType) -> None:
    """|mean of the errors|^2 is 1/K of their mean energy, and the square of the bias, for updates that every key codes.

    The estimate's own spread is sqrt(2 / elements); the bias is a few per cent of the codewords' distance.
    """
    codec, keys, count = codec_of(mask=mask, buckets=4), 64, 4096
    u = update(count, 0.3, 9)
    errors = []
    for key in range(keys):
        n = noise(codec, count, key).astype(np.float64)
        p = probability(u, n.astype(np.float32), mask)
        lower = -n if mask is SIGNED else np.zeros_like(n)
        errors.append(codec.decode(codec.encode(u, EncodeKeys(key, 1)), count, key) - (lower + p * (n - lower)))
    stacked = np.array(errors)
    alone, together = (stacked**2).sum() / keys, (stacked.mean(axis=0) ** 2).sum()
    assert together * keys / alone <= 1 + 5 * np.sqrt(2 / count) + 0.25
    assert together * keys / alone >= 1 - 5 * np.sqrt(2 / count)


def test_nothing_is_drawn_with_the_clients_own_key_unless_the_code_is_not_shorter() -> None:
    codec = codec_of(rate=2.0)
    short = update(5000, 0.05)
    full = noise(codec, 5000) * np.where(np.arange(5000) % 2, np.float32(0.1), np.float32(0.9))
    for u, mode in ((short, 1), (full, 0)):
        mine, other = (codec.encode(u, EncodeKeys(KEY, sampling)) for sampling in (1, 2))
        assert mine[0] == other[0] == mode
        assert (mine == other) is (mode == 1)


@pytest.mark.parametrize("mask", MaskType)
def test_without_sampling_it_comes_near_the_nearer_codeword(mask: MaskType) -> None:
    codec, count = codec_of(mask=mask, stochastic=False), 50_000
    u = update(count, 0.3)
    nearer = probability(u, noise(codec, count), mask) >= 0.5
    certain = bits_of(codec, coded(codec, u, (count,)), count) == nearer
    sampled = bits_of(codec, coded(codec_of(mask=mask), u, (count,)), count) == nearer
    assert certain.mean() > 0.97
    assert sampled.mean() < certain.mean() - 0.05


# --- the cost ---------------------------------------------------------------------------------------------------------


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = p.clip(1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def path_bits_of(codec: RandomCode, u: F32, sizes: tuple[int, ...]) -> float:
    """The rate times the information of a mask about the update; never more than 255/256 of a bit an element.

    The information is, in each context, the entropy of the mean mask less the mean entropy of the masks.
    """
    where = Contexts.of(codec.inner.noise, KEY, np.array(sizes), codec.buckets).part(0, u.size)
    p = probability(u, noise(codec, u.size), codec.inner.mask).astype(np.float64)
    totals = np.bincount(where)
    mean = np.bincount(where, p) / np.maximum(totals, 1)
    information = entropy(mean) - np.bincount(where, entropy(p)) / np.maximum(totals, 1)
    return float((totals * np.minimum(codec.rate * information, 255 / 256)).sum())


@pytest.mark.parametrize("rate", [1.0, 1.125, 1.5])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("mask", MaskType)
def test_a_large_mask_costs_its_information_times_the_rate(mask: MaskType, spread: float, rate: float) -> None:
    """Within 1 % (informations are multiples of 1/256) and a bit a block, beside the mode, the sizes and the tables."""
    sizes = (100_000, 3000, 97_000)
    codec, u = codec_of(mask=mask, log2_states=2, rate=rate), update(200_000, spread)
    body = coded(codec, u, sizes)
    path_bits = 8 * (len(body) - len(head(*sizes)) - 2 * 3 * 16)
    expected = path_bits_of(codec, u, sizes)
    assert abs(path_bits - expected) <= 0.01 * expected + 13 + 7


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("mask", MaskType)
def test_random_codes_are_shorter_than_coded_masks(mask: MaskType, spread: float) -> None:
    u = update(100_000, spread)
    codec, keys = codec_of(mask=mask), EncodeKeys(KEY, 1)
    body, lossless = codec.encode(u, keys), CodedMask(codec.inner, codec.buckets).encode(u, keys)
    assert body[0] == 1
    assert len(body) < 0.9 * len(lossless)


def test_an_update_without_information_costs_next_to_nothing() -> None:
    """Half of every codeword: each bit is a coin, and any mask will do. A path bit for 256 elements remains."""
    codec = codec_of(Law.BERNOULLI, SIGNED, buckets=1)
    body = codec.encode(np.zeros(100_000, np.float32), EncodeKeys(KEY, 1))
    assert body[:15] == head(100_000) + b"\x80\1"
    blocks = [CHUNK] * 6 + [100_000 - 6 * CHUNK]
    assert len(body) - 15 == -(-sum(-(-size // 256) for size in blocks) // 8)
    assert abs(bits_of(codec, body, 100_000).mean() - 0.5) < 5 * np.sqrt(0.25 / 100_000)


def test_of_bodies_of_one_length_the_one_that_is_not_coded_is_sent() -> None:
    codec = codec_of(buckets=1)
    for count, is_coded in ((112, False), (120, False), (121, True)):
        u = np.zeros(count, np.float32)
        body = codec.encode(u, EncodeKeys(KEY, 1))
        assert len(coded(codec, u, (count,))) == 16
        assert body[0] == is_coded
        assert len(body) == (16 if is_coded else 1 + -(-count // 8))
        assert is_coded or body[1:] == codec.inner.encode(u, EncodeKeys(KEY, 1))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"buckets": b}, "buckets are 1 to 64") for b in (-1, 0, 65, 256)),
        *(({"log2_states": s}, "log2_states are 1 to 10") for s in (-1, 0, 11, 64)),
        *(({"rate": r}, "rate is a multiple of 1/64 from 1 to 2") for r in (0.0, 0.99, 2.015625, 1.01, -1.5)),
        *(({"rate": r}, "rate is a multiple of 1/64 from 1 to 2") for r in (float("nan"), float("inf"))),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        codec_of(**options)  # type: ignore[arg-type]


def test_the_parameters() -> None:
    inner = codec_of(Law.GAUSSIAN, SIGNED).inner
    assert RandomCode(inner, 3, 10, 1.5).params() == inner.params() + b"\x03\x0a\x60"
    assert RandomCode(inner).params() == inner.params() + b"\x10\x08\x48"
    for good in (b"\1\1\x40", b"\x40\x0a\x80"):
        assert RandomCode.from_params(inner.params() + good).params() == inner.params() + good
    bad = "000140 410140 010040 010b40 01013f 010181 010100 0101 01014000"
    for wrong in (b"", *map(bytes.fromhex, bad.split())):
        with pytest.raises(MalformedFrameError, match="codec random-code cannot have parameters"):
            RandomCode.from_params(inner.params() + wrong)
    with pytest.raises(MalformedFrameError, match="codec random-code cannot have parameters"):
        RandomCode.from_params(b"\3" + inner.params()[1:] + b"\1\1\x40")


SHORT_SIZES = (130, 66)
SHORT = {f"{law.name.lower()} {mask.name.lower()}": codec_of(law, mask, 2, 3) for law, mask in product(Law, MaskType)}
each_short = pytest.mark.parametrize("codec", SHORT.values(), ids=SHORT.keys())


def refused_or_bounded(codec: RandomCode, body: bytes, count: int) -> bool:
    try:
        values = codec.decode(body, count, KEY)
    except FrameError:
        return True
    assert values.shape == (count,)
    assert np.abs(values).max(initial=0) <= codec.bound(1.0)
    return False


@each_short
def test_every_truncation_is_refused(codec: RandomCode) -> None:
    body = coded(codec, update(196, 0.2), SHORT_SIZES)
    assert not refused_or_bounded(codec, body, 196)
    for length in range(len(body)):
        assert refused_or_bounded(codec, body[:length], 196), length
    for more in (b"\0", b"\1", body):
        assert refused_or_bounded(codec, body + more, 196)


@each_short
def test_every_bit_flip_is_refused_or_decodes_within_the_bound(codec: RandomCode) -> None:
    """A flip in the path alone is another mask; in the mode and the sizes, nothing."""
    body = coded(codec, update(196, 0.2), SHORT_SIZES)
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        refused = refused_or_bounded(codec, bytes(changed), 196)
        assert refused or bit >= 8 * len(head(*SHORT_SIZES))
        at = 8 * (len(head(*SHORT_SIZES)) + 6)
        assert not refused or bit < at or bit >= 8 * len(body) - 7


@each_short
def test_every_byte_is_refused_or_decodes_within_the_bound(codec: RandomCode) -> None:
    body = coded(codec, update(196, 0.2), SHORT_SIZES)
    for at in range(len(body)):
        for value in (0, 1, 2, 127, 128, 255):
            refused_or_bounded(codec, body[:at] + bytes([value]) + body[at + 1 :], 196)


@pytest.mark.parametrize("mode", [2, 3, 128, 255])
def test_a_mode_that_does_not_exist(mode: int) -> None:
    body = coded(codec_of(), update(196, 0.1), SHORT_SIZES)
    with pytest.raises(MalformedFrameError, match="a random-code starts with 0, or with 1"):
        codec_of().open(bytes([mode]) + body[1:], 196, KEY, 1.0)


def test_a_mask_that_is_not_coded_is_checked_as_one() -> None:
    check_plain_bodies(codec_of())


GOOD = head(9) + b"\x80\x40\5"
"""Nine elements, a quarter of a bit each: three path bits."""
LARGEST = 2048 * 16


def test_the_smallest_bodies() -> None:
    codec = codec_of(buckets=1)
    assert bits_of(codec, GOOD, 9).tolist() == oracle.decode_random(codec.params(), 9, GOOD, KEY)
    for unused in range(3, 8):
        with pytest.raises(PaddingError):
            codec.open(GOOD[:-1] + bytes([5 | 1 << unused]), 9, KEY, 1.0)


@pytest.mark.parametrize(
    ("body", "count", "message"),
    [
        (b"", 0, "starts with 0"),
        (b"\1\0\0\0", 0, "starts with 0"),
        (head(), 1, "0 tensors do not make up 1 elements"),
        (head() + b"\0", 0, "left over"),
        (b"\1\xff\xff\xff\xff" + bytes(100), 9, "4294967295 sizes take more than"),
        (head(9)[:-1], 9, "1 sizes take more than"),
        (head(9, 0) + b"\1\1\1\1\0", 9, "do not make up"),
        (head(0) + b"\1\1\0", 0, "do not make up"),
        (head(4, 4) + b"\1\1\1\1\0", 9, "do not make up"),
        (head(9, 1 << 63, 1 << 63) + b"\1\1\1\1\1\1\0", 9, "do not make up"),
        (head((1 << 64) - 1, 10) + b"\1\1\1\1\0", 9, "do not make up"),
        (head((1 << 64) - 1) + b"\1\1\0", (1 << 64) - 1, "too many here"),
        (head(1 << 40) + b"\1\1\0", 1 << 40, "too many here"),
        (head(LARGEST + 1) + b"\1\1\0", LARGEST + 1, "too many here"),
        (head(9), 9, "two tables of 1 contexts do not fit 0 bytes"),
        (head(9) + b"\1", 9, "two tables of 1 contexts do not fit 1 bytes"),
        (head(9) + b"\0\1\0", 9, "that occurs has no prior or no information"),
        (head(9) + b"\1\0\0", 9, "that occurs has no prior or no information"),
        (head(9) + b"\1\1", 9, "ends early"),
        (head(10) + b"\1\xff\xff", 10, "ends early"),
        (GOOD + b"\0", 9, "left over"),
        (GOOD + 40 * b"\1", 9, "left over"),
    ],
)
def test_hostile_bodies_take_no_memory(body: bytes, count: int, message: str) -> None:
    check_refused_without_memory(codec_of(buckets=1), body, count, message)


def test_sizes_cannot_wrap_whatever_the_bound_on_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a body of hundreds of megabytes the bound alone would let sizes through that wrap around together."""
    monkeypatch.setattr(RandomCode, "elements_a_byte", 1 << 60)
    for sizes in ((9, 1 << 63, 1 << 63), (1 << 62,) * 4 + (9,), ((1 << 64) - 1, 10)):
        assert sum(sizes) % (1 << 64) == 9
        with pytest.raises(MalformedFrameError, match="do not make up 9 elements"):
            codec_of(buckets=1).open(head(*sizes) + bytes([1] * 2 * len(sizes)), 9, KEY, 1.0)


def test_memory_is_bounded_by_the_length_of_the_body() -> None:
    """As many elements as sixteen bytes may say they hold: some bytes for each, before the path is found too short."""
    codec, body = codec_of(buckets=1), head(LARGEST) + b"\1\1\0"

    def refused() -> None:
        with pytest.raises(MalformedFrameError, match="ends early"):
            codec.open(body, LARGEST, KEY, 1.0)

    assert allocated(refused) < 40 * LARGEST


def test_tables_speak_of_the_contexts_that_occur_and_of_no_others() -> None:
    """Noise of one magnitude is all in the last bucket."""
    codec = codec_of(Law.BERNOULLI, buckets=4)
    body = coded(codec, update(1000, 0.3), (1000,))
    at = len(head(1000))
    prior, information = body[at : at + 4], body[at + 4 : at + 8]
    assert prior[:3] == information[:3] == bytes(3)
    assert min(prior[3], information[3]) > 0
    for k in (0, 1, 2, 4, 5, 6):
        changed = bytearray(body)
        changed[at + k] = 1
        with pytest.raises(MalformedFrameError, match="left over"):
            codec.open(bytes(changed), 1000, KEY, 1.0)
    for k in (3, 7):
        changed = bytearray(body)
        changed[at + k] = 0
        with pytest.raises(MalformedFrameError, match="that occurs has no prior or no information"):
            codec.open(bytes(changed), 1000, KEY, 1.0)
