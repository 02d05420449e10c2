import numpy as np
import pytest

import oracle
from fedmrn.numerics.philox import BLOCK, PLANE
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain, fresh_key

STREAM = Stream(0xFEDCBA9876543210, domain(Purpose.CLIENTS, 9))


def test_words_are_the_oracles() -> None:
    """The first elements of each plane, both sides of a block's end, and far out where the counter has a high half."""
    words = STREAM.words(0, 2 * BLOCK)
    for i in [0, 1, PLANE - 1, PLANE, 2 * PLANE, 3 * PLANE + 7, BLOCK - 1, BLOCK, 2 * BLOCK - 1]:
        assert words[i] == oracle.word(STREAM.key, STREAM.domain, i)
    for i in [(1 << 34) - 1, 1 << 34, (1 << 34) + 1, (1 << 50) + 999]:
        assert STREAM.words(i, i + 1)[0] == oracle.word(STREAM.key, STREAM.domain, i)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (5, 5), (0, 1), (1023, 1025), (1, 3000), (2048, 4096), (255, 257), (3999, 4000)]
)
def test_any_range_equals_the_part_of_the_whole(start: int, stop: int) -> None:
    part = STREAM.words(start, stop)
    assert part.dtype == np.uint32
    assert np.array_equal(part, STREAM.words(0, 4000)[start:stop] if stop <= 4000 else STREAM.words(0, stop)[start:])


def test_no_two_streams_are_alike() -> None:
    """Key and domain both matter, in their low and in their high halves."""
    streams = [STREAM, *(Stream(STREAM.key ^ b, STREAM.domain) for b in (1, 1 << 32, 1 << 63))]
    streams += [Stream(STREAM.key, STREAM.domain ^ b) for b in (1, 1 << 32, 1 << 63)]
    assert len({s.words(0, 8).tobytes() for s in streams}) == len(streams)


def test_uniform_is_the_top_of_the_word() -> None:
    values = STREAM.uniform(100, 1100)
    assert values.dtype == np.float32
    assert values.tolist()[:16] == [oracle.uniform(STREAM.key, STREAM.domain, 100 + i) for i in range(16)]
    assert values.tolist() == [(int(w) >> 8) * 2.0**-24 for w in STREAM.words(100, 1100)]


def test_uniform_has_its_law() -> None:
    """Chi-square of 64 equal bins over 2^18 draws: 63 degrees of freedom, so 63 + 5 sqrt(126) is five deviations."""
    count = 1 << 18
    seen = np.bincount((STREAM.uniform(0, count) * 64).astype(int), minlength=64)
    expected = count / 64
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert 63 - 5 * np.sqrt(126) < statistic < 63 + 5 * np.sqrt(126)


@pytest.mark.parametrize("n", [0, 1, 2, 17, 5000])
def test_permutation(n: int) -> None:
    order = STREAM.permutation(n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, STREAM.permutation(n))
    assert n < 17 or not np.array_equal(order, Stream(1, 1).permutation(n))


def test_permutation_sorts_the_64_bit_draws() -> None:
    words = STREAM.words(0, 40).astype(np.uint64)
    draws = words[0::2] | words[1::2] << np.uint64(32)
    assert STREAM.permutation(20).tolist() == sorted(range(20), key=lambda i: int(draws[i]))


def test_permutation_puts_each_element_anywhere() -> None:
    """12,000 permutations of 4: each place of element 0 is taken a quarter of the time, within 4 standard errors."""
    count = 12_000
    places = np.bincount([int(np.argmin(Stream(k, 0).permutation(4))) for k in range(count)], minlength=4)
    assert np.abs(places - count / 4).max() < 4 * np.sqrt(count * 0.25 * 0.75)


@pytest.mark.parametrize(("key", "dom"), [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 64)])
def test_a_stream_needs_64_bit_arguments(key: int, dom: int) -> None:
    with pytest.raises(ValueError, match="unsigned 64-bit"):
        Stream(key, dom)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (-5, -2)])
def test_a_range_needs_order(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        STREAM.words(start, stop)
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        STREAM.uniform(start, stop)


def test_domains() -> None:
    assert domain(Purpose.NOISE) == 1 << 32
    assert domain(Purpose.TRAIN_MASK, 7) == (2 << 32) + 7
    assert domain(Purpose.SHUFFLE, (1 << 32) + 7) == domain(Purpose.SHUFFLE, 7)
    assert {p.name: int(p) for p in Purpose} == {
        "NOISE": 1,
        "TRAIN_MASK": 2,
        "FINAL_MASK": 3,
        "SHUFFLE": 4,
        "AUGMENT": 5,
        "CLIENTS": 6,
        "ROTATION": 7,
        "QUANTISE": 8,
        "FROZEN": 9,
        "EVALUATE": 10,
        "CODEBOOK": 11,
        "SCORES": 12,
    }


@pytest.mark.parametrize("labels", [(), ("a",), ("noise", 3, "client"), (-5, 2**80), ("ü", "")])
def test_derive_key_is_the_oracles(labels: tuple[int | str, ...]) -> None:
    assert derive_key(b"some secret", *labels) == oracle.derived_key(b"some secret", *labels)


def test_derive_key_tells_labels_apart() -> None:
    """Moving a character between labels, changing a type or the secret gives another key."""
    calls = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("1",), (1,), (11,), (1, 1), ("i", "1")]
    keys = {derive_key(b"s" * 16, *c) for c in calls} | {derive_key(b"s" * 17, *c) for c in calls}
    assert len(keys) == 2 * len(calls)
    assert all(0 <= k < 1 << 64 for k in keys)


def test_an_integer_secret_is_its_bytes() -> None:
    assert derive_key(0x0201, "x") == derive_key(b"\x01\x02", "x")
    assert derive_key(0, "x") == derive_key(b"\0", "x")


@pytest.mark.parametrize("secret", [-1, 1 << 512, b"x" * 65])
def test_derive_key_refuses(secret: int | bytes) -> None:
    with pytest.raises(ValueError, match="secret"):
        derive_key(secret, "x")


def test_fresh_keys_differ() -> None:
    keys = {fresh_key() for _ in range(50)}
    assert len(keys) == 50
    assert max(keys) < 1 << 64


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16, np.uint64])
def test_an_integer_of_numpy_gives_the_key_of_the_integer(kind: type[np.integer]) -> None:
    """Numbers of clients come from NumPy and from Flower alike."""
    assert derive_key(bytes(16), "noise", kind(3), kind(40_000)) == derive_key(bytes(16), "noise", 3, 40_000)
    assert derive_key(kind(7), "noise") == derive_key(7, "noise")
    with pytest.raises(TypeError):
        derive_key(bytes(16), 3.0)  # type: ignore[arg-type]
