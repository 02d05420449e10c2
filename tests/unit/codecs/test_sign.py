"""Sign: against a slow reader, theory, and hostile bodies; the table of scales that other codecs share."""

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from allocated import allocated
from fedmrn.codecs.base import CHUNK, Codec, EncodeKeys, Plane
from fedmrn.codecs.sign import Sign, SignRule
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError, PaddingError
from fedmrn.numerics.rng import Stream

F32 = NDArray[np.float32]
SIZES = [1, 2, 31, 33, 8191, CHUNK + 1, 100_001]
LIMIT = 65536.0
MEAN, RANDOM, LEARNED = (Sign(rule) for rule in SignRule)


def gaussian(size: int, seed: int = 1) -> F32:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def tensors(size: int) -> tuple[int, ...]:
    """Some tensors, tiny and empty ones among them, that add up."""
    if size < 31:
        return (1,) * size
    return (0, 1, 5, 0, 2, size // 2, size - size // 2 - 9, 1, 0)


def slow_table(body: bytes) -> tuple[list[float], bytes]:
    """The scale of each element, and the symbols, from the words of wire-format.md alone."""
    (runs,) = struct.unpack_from("<I", body)
    scales: list[float] = []
    for k in range(runs):
        size, scale = struct.unpack_from("<Qf", body, 4 + 12 * k)
        scales += [scale] * size
    return scales, body[4 + 12 * runs :]


def slow_sign(body: bytes, count: int) -> F32:
    scales, bits = slow_table(body)
    values = [scales[i] if bits[i // 8] >> i % 8 & 1 else -scales[i] for i in range(count)]
    return np.array(values, np.float32)


def body_of(rows: list[tuple[int, float]], symbols: bytes, runs: int | None = None) -> bytes:
    head = struct.pack("<I", len(rows) if runs is None else runs)
    return head + b"".join(struct.pack("<Qf", *row) for row in rows) + symbols


def check_ranges(codec: Codec, body: bytes, count: int) -> None:
    whole = codec.decode(body, count, 0, LIMIT)
    reader = codec.open(body, count, 0, LIMIT)
    for start in reversed(range(0, count, CHUNK)):
        for length in (1, 3, 1000, CHUNK, count - start):
            out = np.full(min(length, count - start), np.nan, np.float32)
            reader.read(start, out)
            assert out.tobytes() == whole[start : start + out.size].tobytes()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codec", [MEAN, RANDOM, LEARNED], ids=["deterministic", "stochastic", "learned"])
def test_a_slow_reader_agrees(codec: Sign, size: int) -> None:
    x = gaussian(size)
    for sizes in ((), tensors(size)):
        body = codec.encode(x, EncodeKeys(0, 42, sizes))
        assert len(body) == 4 + 12 * max(1, np.count_nonzero(sizes)) + -(-size // 8)
        values = codec.decode(body, size, 0, LIMIT)
        assert values.tobytes() == slow_sign(body, size).tobytes()
        assert codec.encode(values, EncodeKeys(1, 43, sizes)) == body, "a decoded vector is a fixed point"
        check_ranges(codec, body, size)


def test_the_deterministic_rule() -> None:
    x = gaussian(1000)
    sizes = (10, 0, 989, 1)
    values = MEAN.decode(MEAN.encode(x, EncodeKeys(0, 0, sizes)), 1000, 0)
    expected = []
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        expected += [np.float32(np.mean(np.abs(part), dtype=np.float64)) * (1 if v >= 0 else -1) for v in part]
    assert np.array_equal(values, np.array(expected, np.float32))


def test_the_stochastic_rule() -> None:
    x = gaussian(1000)
    sizes = (400, 600)
    values = RANDOM.decode(RANDOM.encode(x, EncodeKeys(0, 42, sizes)), 1000, 0)
    words = Stream(42, 8 << 32).words(0, 1000)
    for i in range(1000):
        b = float(np.abs(x[:400] if i < 400 else x[400:]).max())
        assert values[i] == np.float32(b if (int(words[i]) + 0.5) / 2**32 < (b + float(x[i])) / (2 * b) else -b)


def test_zeros_get_a_random_sign() -> None:
    """The client's own draws, half of them +: weights that nobody trained do not drift together."""
    size = 10_000
    for codec in (MEAN, RANDOM, LEARNED, Sign(SignRule.LEARNED, (0.0,))):
        for zero in (0.0, -0.0):
            bodies = [codec.encode(np.full(size, zero, np.float32), EncodeKeys(0, key)) for key in (1, 2)]
            for body in bodies:
                scales, bits = body[:16], np.unpackbits(np.frombuffer(body, np.uint8, offset=16), count=size)
                assert scales == body_of([(size, 0.0)], b"")
                assert abs(int(bits.sum()) - size / 2) < 6 * np.sqrt(size) / 2
                assert not codec.decode(body, size, 0).any()
            assert bodies[0] != bodies[1]
    mixed = np.tile(np.array([-1, 0, 1], np.float32), 1000)
    values = MEAN.decode(MEAN.encode(mixed, EncodeKeys(0, 1)), mixed.size, 0).reshape(-1, 3)
    assert (values[:, 0] < 0).all()
    assert (values[:, 2] > 0).all()
    assert abs(int((values[:, 1] > 0).sum()) - 500) < 6 * np.sqrt(1000) / 2


def test_no_elements() -> None:
    for codec in (MEAN, RANDOM, LEARNED):
        body = codec.encode(np.empty(0, np.float32), EncodeKeys(0, 1))
        assert body == bytes(4)
        assert codec.decode(body, 0, 0).size == 0


def test_the_error_of_the_deterministic_rule_on_gaussians() -> None:
    x = gaussian(1_000_000)
    error = MEAN.decode(MEAN.encode(x, EncodeKeys(0, 0)), x.size, 0) - x
    assert np.square(error, dtype=np.float64).sum() / np.square(x, dtype=np.float64).sum() == pytest.approx(
        1 - 2 / np.pi, abs=0.002
    )


def test_the_stochastic_rule_is_unbiased_with_the_variance_of_theory() -> None:
    x, n, sizes = gaussian(64), 4000, (60, 4)
    b = np.repeat([np.abs(x[:60]).max(), np.abs(x[60:]).max()], sizes).astype(np.float64)
    draws = np.array([RANDOM.decode(RANDOM.encode(x, EncodeKeys(0, key, sizes)), 64, 0) for key in range(n)])
    variance = b**2 - x.astype(np.float64) ** 2
    mean = draws.mean(axis=0, dtype=np.float64)
    assert (np.abs(mean - x) <= 4 * np.sqrt(variance / n)).all()
    measured = np.square(draws - x.astype(np.float64)).sum(axis=1).mean()
    assert measured == pytest.approx(variance.sum(), rel=0.02)


def test_the_learned_rule() -> None:
    """The scales as given, one for each tensor that is not empty; the draws are those of the stochastic rule."""
    x, sizes, scales = gaussian(1000), (400, 0, 600), (0.75, 2.5)
    codec = Sign(SignRule.LEARNED, scales)
    body = codec.encode(x, EncodeKeys(0, 42, sizes))
    assert slow_table(body)[0] == [0.75] * 400 + [2.5] * 600
    values = LEARNED.decode(body, 1000, 0)
    words = Stream(42, 8 << 32).words(0, 1000)
    for i in range(1000):
        a = scales[i >= 400]
        probability = min(1.0, max(0.0, (a + float(x[i])) / (2 * a)))
        assert values[i] == (a if (int(words[i]) + 0.5) / 2**32 < probability else -a)


def test_the_learned_rule_is_unbiased_up_to_its_scale_and_clips_beyond() -> None:
    """A sign of +-a with mean x has variance a^2 - x^2; beyond a nothing is random."""
    a, n = 0.5, 1500
    x = np.concatenate([np.linspace(-a, a, 41), [-2, -0.6, 0.6, 2, 3e38]]).astype(np.float32)
    codec = Sign(SignRule.LEARNED, (a,))
    mean = np.mean([codec.decode(codec.encode(x, EncodeKeys(0, k)), x.size, 0) for k in range(n)], 0, dtype=np.float64)
    clipped = np.clip(x.astype(np.float64), -a, a)
    assert (np.abs(mean - clipped) <= 4.5 * np.sqrt((a**2 - clipped**2) / n)).all()


def test_without_learned_scales_the_mean_magnitudes_are_taken() -> None:
    x, keys = gaussian(50), EncodeKeys(0, 3, (20, 30))
    assert slow_table(LEARNED.encode(x, keys))[0] == slow_table(MEAN.encode(x, keys))[0]
    assert LEARNED.encode(x, keys) != MEAN.encode(x, keys)


def test_learned_scales_are_the_clients_own() -> None:
    """They travel in the body: a template with the rule alone asks for them."""
    one = Sign(SignRule.LEARNED, (0.5,))
    assert one.params() == LEARNED.params() == b"\2"
    assert one.bound(LIMIT) == LIMIT
    assert one.encode(np.ones(9, np.float32), EncodeKeys(0, 1)) == body_of([(9, 0.5)], b"\xff\x01")
    zeros = Sign(SignRule.LEARNED, (-0.0,)).encode(-np.ones(9, np.float32), EncodeKeys(0, 1))
    assert zeros[:16] == body_of([(9, 0.0)], b""), "a scale of zero is +0"


@pytest.mark.parametrize(
    "scales", [(1.0,), (1.0, 1.0, 1.0), (1.0, -1e-45), (np.nan, 1.0), (1.0, np.inf), (1.0, 1e300), (1.0, -1e300)]
)
def test_learned_scales_that_cannot_be(scales: tuple[float, ...]) -> None:
    with pytest.raises(EncodeError, match="2 tensors need as many finite scales of at least 0"):
        Sign(SignRule.LEARNED, scales).encode(gaussian(33), EncodeKeys(0, 1, (30, 0, 3)))


@pytest.mark.parametrize("size", SIZES)
def test_planes_are_the_parts_of_the_values(size: int) -> None:
    x = gaussian(size)
    x[::3] = 0
    body = MEAN.encode(x, EncodeKeys(0, 0, tensors(size)))
    reader = MEAN.open(body, size, 0, LIMIT)
    scales, bits = slow_table(body)
    for start in range(0, size, CHUNK):
        for length in {1, min(CHUNK, size - start)}:
            at = range(start, start + length)
            sign, scale = np.full((2, length), np.nan, np.float32)
            reader.plane(Plane.SIGN).read(start, sign)
            reader.plane(Plane.SCALE).read(start, scale)
            assert sign.tolist() == [1 if bits[i // 8] >> i % 8 & 1 else -1 for i in at]
            assert scale.tolist() == scales[start : start + length]
    assert reader.plane(Plane.VALUE) is reader
    with pytest.raises(ConfigError, match="no plane kept"):
        reader.plane(Plane.KEPT)


def test_sampling_keys_matter_and_noise_keys_do_not() -> None:
    x = gaussian(1000)
    assert (
        RANDOM.encode(x, EncodeKeys(0, 1)) == RANDOM.encode(x, EncodeKeys(9, 1)) != RANDOM.encode(x, EncodeKeys(0, 2))
    )
    assert MEAN.encode(x, EncodeKeys(0, 1)) == MEAN.encode(x, EncodeKeys(9, 2))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(value: float) -> None:
    x = gaussian(33)
    x[7] = value
    for codec in (MEAN, RANDOM, LEARNED, Sign(SignRule.LEARNED, (1.0,))):
        with pytest.raises(EncodeError, match="the first at 7"):
            codec.encode(x, EncodeKeys(0, 1))


def test_tensors_that_do_not_add_up_are_not_encoded() -> None:
    with pytest.raises(EncodeError):
        MEAN.encode(gaussian(33), EncodeKeys(0, 1, (30, 2)))


def test_extremes() -> None:
    largest = np.finfo(np.float32).max
    x = np.array([largest, -largest, 1e-45, 0], np.float32)
    assert np.isfinite(MEAN.decode(MEAN.encode(x, EncodeKeys(0, 1)), 4, 0)).all()
    assert (np.abs(RANDOM.decode(RANDOM.encode(x, EncodeKeys(0, 1)), 4, 0)) == largest).all()


def test_parameters() -> None:
    assert [c.params() for c in (MEAN, RANDOM, LEARNED)] == [b"\0", b"\1", b"\2"]
    assert [Sign.from_params(bytes([k])) for k in (0, 1, 2)] == [MEAN, RANDOM, LEARNED]
    for wrong in (b"", b"\3", b"\xff", b"\0\0"):
        with pytest.raises(MalformedFrameError):
            Sign.from_params(wrong)
    assert MEAN.bound(3.0) == 3.0


HOSTILE = {
    "nothing": (b"", MalformedFrameError),
    "no table": (bytes(3), MalformedFrameError),
    "2^32-1 runs": (body_of([(9, 1.0)], b"\xff\x01", runs=0xFFFFFFFF), MalformedFrameError),
    "no runs": (body_of([(9, 1.0)], b"\xff\x01", runs=0), MalformedFrameError),
    "no runs and no rows": (body_of([], b"\xff\x01"), MalformedFrameError),
    "more runs than rows": (body_of([(9, 1.0)], b"\xff\x01", runs=2), MalformedFrameError),
    "an empty run": (body_of([(0, 1.0), (9, 1.0)], b"\xff\x01"), MalformedFrameError),
    "too few": (body_of([(8, 1.0)], b"\xff\x01"), MalformedFrameError),
    "too many": (body_of([(8, 1.0), (2, 1.0)], b"\xff\x01"), MalformedFrameError),
    "sizes that wrap around": (body_of([(1 << 63, 1.0), (1 << 63, 1.0), (9, 1.0)], b"\xff\x01"), MalformedFrameError),
    "sizes that wrap to it": (body_of([(2**64 - 1, 1.0), (10, 1.0)], b"\xff\x01"), MalformedFrameError),
    "truncated": (body_of([(9, 1.0)], b"\xff"), MalformedFrameError),
    "longer": (body_of([(9, 1.0)], b"\xff\x01\0"), MalformedFrameError),
    "nan": (body_of([(8, 1.0), (1, float("nan"))], b"\xff\x01"), NonFiniteError),
    "inf": (body_of([(9, float("inf"))], b"\xff\x01"), NonFiniteError),
    "negative": (body_of([(9, -1.0)], b"\xff\x01"), BoundError),
    "minus zero": (body_of([(9, -0.0)], b"\xff\x01"), BoundError),
    "above the bound": (body_of([(9, 65537.0)], b"\xff\x01"), BoundError),
    "padding": (body_of([(9, 1.0)], b"\xff\x03"), PaddingError),
    "top padding": (body_of([(9, 1.0)], b"\xff\x81"), PaddingError),
}


@pytest.mark.parametrize(("body", "error"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bodies(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        MEAN.open(body, 9, 0, LIMIT)
    assert caught.type is error


def test_the_bound_itself_is_accepted() -> None:
    assert MEAN.decode(body_of([(8, LIMIT), (1, 0.0)], b"\xff\x01"), 9, 0, LIMIT).max() == LIMIT


@pytest.mark.parametrize("count", [0, 10, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_declared_numbers_allocate_nothing(count: int) -> None:
    for runs in (1, 0xFFFFFFFF):

        def refused(runs: int = runs) -> None:
            with pytest.raises(MalformedFrameError):
                MEAN.open(body_of([(count, 1.0)], b"\xff", runs=runs), count, 0, LIMIT)

        assert allocated(refused) < 32 << 10


def test_every_truncation_is_refused() -> None:
    body = MEAN.encode(gaussian(33), EncodeKeys(0, 1, (1, 30, 2)))
    for length in range(len(body)):
        with pytest.raises(MalformedFrameError):
            MEAN.open(body[:length], 33, 0, LIMIT)


def test_thousands_of_tiny_tensors() -> None:
    x = gaussian(CHUNK + 5000)
    body = MEAN.encode(x, EncodeKeys(0, 1, (1,) * x.size))
    assert np.array_equal(MEAN.decode(body, x.size, 0), x)
    check_ranges(MEAN, body, x.size)
