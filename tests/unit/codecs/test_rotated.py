"""Rotations and the codec over them, against dense products, theory, and a second decoder written from the document."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from math import erf, exp, pi, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import hadamard

from fedmrn.codecs.base import CHUNK, EncodeKeys
from fedmrn.codecs.rotated import CENTROIDS, Rotated, ScaleRule
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.numerics.rotation import LARGEST, SMALLEST, blocks, random_signs, walsh_hadamard

F32 = NDArray[np.float32]
KEY = 0xDEADBEEF00000001
KEYS = EncodeKeys(KEY, 0)
SIZES = [1, 2, 31, 33, 127, 128, 129, 65535, 65536, 65537, 100001]
CODECS = [Rotated(b, s, k) for b in (1, 2, 3, 4) for s in ScaleRule for k in (1.0, 0.3)]
LAWS = ["normal", "student", "lognormal"]


def _vector(law: str, size: int, seed: int = 1) -> F32:
    rng = np.random.default_rng(seed)
    if law == "normal":
        return rng.standard_normal(size).astype(np.float32)
    if law == "student":
        return rng.standard_t(5, size).astype(np.float32)
    return (np.exp(rng.standard_normal(size)) * rng.choice([-1.0, 1.0], size)).astype(np.float32)


def _trip(codec: Rotated, vector: F32, key: int) -> F32:
    return codec.decode(codec.encode(vector, EncodeKeys(key, 0)), vector.size, key)


def _nmse(found: F32, vector: F32) -> float:
    wide = vector.astype(np.float64)
    return float(((found - wide) ** 2).sum() / (wide**2).sum())


# --- the transform ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", range(13))
def test_walsh_hadamard_is_the_dense_product(levels: int) -> None:
    n = 1 << levels
    x = np.random.default_rng(n).integers(-99, 99, n).astype(np.float32)  # whole numbers: every sum is exact
    y = x.copy()
    walsh_hadamard(y)
    assert np.array_equal(y, hadamard(n).astype(np.float32) @ x)
    walsh_hadamard(y)
    assert np.array_equal(y, n * x)


@pytest.mark.parametrize("levels", [1, 2, 7, 12, 15, 16])
def test_the_order_of_the_sums_is_that_of_the_document(levels: int) -> None:
    x = _vector("student", 1 << levels)
    assert np.array_equal(_plain_transform(x), _compiled(x))


def _compiled(x: F32) -> F32:
    y = x.copy()
    walsh_hadamard(y)
    return y


def _plain_transform(x: F32) -> F32:
    h = 1
    while h < x.size:
        pairs = x.reshape(-1, 2, h)
        x = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).reshape(-1)
        h *= 2
    return x


def test_signs_are_bit_31_of_the_words() -> None:
    x = _vector("normal", 3000)
    y = x.copy()
    random_signs(y, np.uint64(KEY), 640)
    words = Stream(KEY, domain(Purpose.ROTATION)).words(640, 3640)
    assert np.array_equal(y, np.where(words >> 31, -x, x))


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 255, 256, 65535, 65536, 65537, 100001, 3 * 65536 + 391])
def test_blocks_are_powers_of_two_without_padding(count: int) -> None:
    at, last = 0, LARGEST
    for start, size in blocks(count):
        assert start == at
        assert size.bit_count() == 1
        assert SMALLEST <= size <= last
        at, last = at + size, size
    assert 0 <= count - at < SMALLEST


# --- the codebook -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", CENTROIDS)
def test_centroids_are_those_of_lloyd(bits: int) -> None:
    half = 1 << (bits - 1)
    c = np.linspace(0.2, 2.5, half)
    for _ in range(3000):
        edges = [0.0, *((c[1:] + c[:-1]) / 2), 40.0]
        density = [exp(-e * e / 2) / sqrt(2 * pi) for e in edges]
        mass = [erf(e / sqrt(2)) / 2 for e in edges]
        c = np.array([(density[i] - density[i + 1]) / (mass[i + 1] - mass[i]) for i in range(half)])
    assert np.abs(c - CENTROIDS[bits]).max() < 1e-12


# --- the error --------------------------------------------------------------------------------------------------------

DISTORTION = {1: 1 - 2 / pi, 2: 0.117481847829, 3: 0.0345477607886, 4: 0.00950100800819}


@pytest.mark.parametrize("bits", CENTROIDS)
@pytest.mark.parametrize("law", LAWS)
def test_error_is_that_of_theory(law: str, bits: int) -> None:
    """Within 5 standard errors of independent rotations, and the 1 % by which 4,096 coordinates are not normal."""
    d = DISTORTION[bits]
    vector = _vector(law, 4096)
    for scale, expected in ((ScaleRule.UNBIASED, d / (1 - d)), (ScaleRule.MSE, d)):
        found = [_nmse(_trip(Rotated(bits, scale), vector, key), vector) for key in range(40)]
        tolerance = 5 * float(np.std(found, ddof=1)) / sqrt(len(found)) + 0.01 * expected
        assert abs(np.mean(found) - expected) < tolerance


@pytest.mark.parametrize("bits", CENTROIDS)
@pytest.mark.parametrize("scale", ScaleRule)
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_bias_and_independence(bits: int, scale: ScaleRule, keep: float) -> None:
    """The mean of n clients: x itself (unbiased) or (1 - D) x (mse), and an error of 1/n where rotations differ."""
    n, d, vector = 400, DISTORTION[bits], _vector("student", 2048 + 50)
    found = np.array([_trip(Rotated(bits, scale, keep), vector, key) for key in range(n)]).astype(np.float64)
    wide = vector[:2048].astype(np.float64)
    slope = found[:, :2048] @ wide / (wide @ wide)
    expected = 1.0 if scale is ScaleRule.UNBIASED else 1 - d
    error = 4 * float(slope.std(ddof=1)) / sqrt(n)
    assert abs(slope.mean() - expected) < error + (1e-5 if scale is ScaleRule.UNBIASED else 0.005)
    if scale is ScaleRule.UNBIASED:
        rms = sqrt(_nmse(found[:, :2048].mean(0).astype(np.float32), vector[:2048]) * n)
        one = sqrt((1 + d / (1 - d)) / keep - 1)
        assert abs(rms / one - 1) < 4 / sqrt(2 * 1000) + 0.03
        deviation = (found.mean(0) - vector) / (found.std(0, ddof=1) / sqrt(n) + 1e-6 * np.abs(vector) + 1e-12)
        assert np.abs(deviation).max() < 5.5  # of 2,098 coordinates
        assert abs(deviation.mean()) < 4 / sqrt(1000)


def test_half_of_the_elements() -> None:
    vector = _vector("normal", 100_000)
    codec = Rotated(keep=0.5)
    body = codec.encode(vector, KEYS)
    assert abs(8 * len(body) / vector.size - 0.5) < 0.05
    found = codec.decode(body, vector.size, KEY)
    kept = Stream(KEY, domain(Purpose.QUANTISE)).words(0, vector.size) < 1 << 31
    assert not found[~kept].any()
    assert np.mean(found[kept] != 0) > 0.99  # a sum of signs can be zero
    assert abs(_nmse(found, vector) - (pi - 1)) < 0.05


def test_one_bit_is_drive() -> None:
    vector = _vector("student", 1024)
    x = vector.copy()
    random_signs(x, np.uint64(KEY), 0)
    y = hadamard(1024) @ x.astype(np.float64) / 32
    for scale, size in ((ScaleRule.UNBIASED, (y @ y) / np.abs(y).sum()), (ScaleRule.MSE, np.abs(y).mean())):
        body = Rotated(1, scale).encode(vector, KEYS)
        assert np.frombuffer(body, "<f4", 1)[0] * CENTROIDS[1][0] == pytest.approx(size, rel=1e-6)
        signs = np.unpackbits(np.frombuffer(body, np.uint8, offset=4), bitorder="little")
        assert np.mean(signs == (y >= 0)) > 0.998


# --- the bytes --------------------------------------------------------------------------------------------------------


def _by_the_document(codec: Rotated, body: bytes, count: int, key: int) -> F32:
    kept = np.arange(count)
    if codec.keep < 1:
        kept = np.flatnonzero(Stream(key, domain(Purpose.QUANTISE)).words(0, count) < int(codec.keep * 2**32))
    cut = blocks(kept.size)
    rotated = sum(n for _, n in cut)
    scales = np.frombuffer(body, "<f4", len(cut))
    raw = np.frombuffer(body, np.uint8, rotated * codec.bits // 8, 4 * len(cut))
    bits = np.unpackbits(raw, bitorder="little").reshape(-1, codec.bits)
    index = (bits << np.arange(codec.bits)).sum(1)
    positive = np.array(CENTROIDS[codec.bits], np.float32)
    table = np.concatenate([-positive[::-1], positive])
    flip = Stream(key, domain(Purpose.ROTATION)).words(0, rotated) >> 31
    values = np.zeros(kept.size, np.float32)
    for (start, size), scale in zip(cut, scales, strict=True):
        unit = np.float32(float(scale) / (sqrt(size) * codec.keep))
        x = _plain_transform(table[index[start : start + size]] * unit)
        values[start : start + size] = np.where(flip[start : start + size], -x, x)
    dense = np.frombuffer(body, "<f4", offset=4 * len(cut) + raw.size)
    values[rotated:] = (dense.astype(np.float64) / codec.keep).astype(np.float32)
    out = np.zeros(count, np.float32)
    out[kept] = values
    return out


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size(codec: Rotated, size: int) -> None:
    vector = _vector("student", size)
    body = codec.encode(vector, KEYS)
    found = codec.decode(body, size, KEY)
    assert np.array_equal(found, _by_the_document(codec, body, size, KEY))
    if codec.keep == 1:
        cut, tail = blocks(size), size % 128
        assert len(body) == 4 * len(cut) + (size - tail) * codec.bits // 8 + 4 * tail
        assert found[size - tail :].tobytes() == vector[size - tail :].tobytes()
    for wrong in (body[:-1], body + b"\0", body + bytes(4), b""):
        if wrong != body:
            with pytest.raises(MalformedFrameError, match="rotated elements"):
                codec.open(wrong, size, KEY, 1e9)


@pytest.mark.parametrize("codec", CODECS)
def test_zero_stays_zero(codec: Rotated) -> None:
    body = codec.encode(np.zeros(1000, np.float32), KEYS)
    assert not any(body)
    assert not codec.decode(body, 1000, KEY).any()


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_threads_and_any_order_read_the_same(keep: float) -> None:
    codec, size = Rotated(2, ScaleRule.UNBIASED, keep), 300_001
    body = codec.encode(_vector("normal", size), KEYS)
    whole = codec.decode(body, size, KEY)
    reader = codec.open(body, size, KEY, 1e9)
    starts = np.random.default_rng(3).permutation(np.repeat(np.arange(0, size, CHUNK), 4)).tolist()

    def check(start: int) -> bool:
        out = np.full(min(CHUNK, size - start), np.nan, np.float32)
        reader.read(start, out)
        return out.tobytes() == whole[start : start + CHUNK].tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, starts))


def test_another_process_decodes_the_same() -> None:
    code = (
        "import sys; from hashlib import sha256; from fedmrn.codecs.rotated import Rotated;"
        f"print(sha256(Rotated(4, 0, 0.7).decode(sys.stdin.buffer.read(), 70000, {KEY}).tobytes()).hexdigest())"
    )
    codec = Rotated(4, ScaleRule.UNBIASED, 0.7)
    body = codec.encode(_vector("lognormal", 70000), KEYS)
    found = subprocess.run([sys.executable, "-c", code], input=body, capture_output=True, check=True).stdout
    assert found.decode().strip() == sha256(codec.decode(body, 70000, KEY).tobytes()).hexdigest()


# --- refusals ---------------------------------------------------------------------------------------------------------


def _with(at: int, value: float, size: int = 128 + 3) -> bytes:
    body = bytearray(Rotated().encode(_vector("normal", size), KEYS))
    body[at : at + 4] = np.float32(value).tobytes()
    return bytes(body)


@pytest.mark.parametrize("at", [0, 20, 28])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(at: int, value: float) -> None:
    with pytest.raises(NonFiniteError):
        Rotated().open(_with(at, value), 131, KEY, 10.0)


def test_a_signalling_nan_is_refused_like_any_other() -> None:
    body = bytearray(_with(0, 1.0))
    body[20:24] = bytes.fromhex("010080ff")
    with pytest.raises(NonFiniteError):
        Rotated().open(bytes(body), 131, KEY, 10.0)


@pytest.mark.parametrize(
    ("at", "value"), [(0, -1.0), (0, -0.0), (0, 13.0), (0, 3e38), (20, 10.1), (28, -10.1), (20, 3e38)]
)
def test_numbers_out_of_bounds_are_refused(at: int, value: float) -> None:
    with pytest.raises(BoundError):
        Rotated().open(_with(at, value), 131, KEY, 10.0)


def test_the_largest_scale_is_refused_even_without_a_limit() -> None:
    with pytest.raises(BoundError):
        Rotated().open(_with(0, 3e38), 131, KEY, float("inf"))
    with pytest.raises(BoundError):
        Rotated(keep=0.25).open(np.float32(3e38).tobytes(), 1, _key_that_keeps_one(), float("inf"))


def _key_that_keeps_one() -> int:
    return next(k for k in range(100) if Stream(k, domain(Purpose.QUANTISE)).words(0, 1)[0] < 1 << 30)


@pytest.mark.parametrize("limit", [0.1, 12.3, 65536.0, float("inf")])
@pytest.mark.parametrize("bits", CENTROIDS)
def test_a_hostile_body_stays_within_the_bound(bits: int, limit: float) -> None:
    """All energy in one coordinate: a row of the matrix, at the largest scale that is accepted."""
    size = LARGEST
    codec = Rotated(bits)
    top = np.float32(min(limit, 2.0**119) / CENTROIDS[bits][-1] * 0.999999)
    flips = Stream(KEY, domain(Purpose.ROTATION)).words(0, size) >> 31
    body = top.tobytes() + b"\xff" * (size * bits // 8)
    values = codec.decode(body, size, KEY, limit)
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= codec.bound(limit)
    assert values[0] == np.float32(-1 if flips[0] else 1) * np.abs(values).max()
    assert not values[1:].any()


@pytest.mark.parametrize("keep", [1.0, 0.5, 2.0**-8])
@pytest.mark.parametrize("count", [0, 1 << 31, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_absurd_counts_are_refused_at_once(keep: float, count: int) -> None:
    with pytest.raises(MalformedFrameError):
        Rotated(keep=keep).open(bytes(33), count, KEY, 1.0)


@pytest.mark.parametrize(("bits", "keep"), [(5, 1.0), (0, 1.0), (8, 1.0), (1, 0.0), (1, 0.003), (1, 1.01), (1, 1e300)])
def test_parameters_out_of_range_are_refused(bits: int, keep: float) -> None:
    with pytest.raises(ConfigError, match="rotated codes 1, 2, 3, 4 bits"):
        Rotated(bits, ScaleRule.MSE, keep)


@pytest.mark.parametrize("params", ["", "0100", "05000000803f", "01020000803f", "01000000c07f", "010000000000"])
def test_parameters_that_no_codec_writes_are_refused(params: str) -> None:
    with pytest.raises(MalformedFrameError, match="rotated"):
        Rotated.from_params(bytes.fromhex(params))


@pytest.mark.parametrize("size", [128, LARGEST])
def test_values_too_large_to_rotate_are_refused(size: int) -> None:
    with pytest.raises(EncodeError, match="too large"):
        Rotated().encode(np.full(size, 3e38, np.float32), KEYS)
    assert np.isfinite(_trip(Rotated(), np.full(size, 1e30, np.float32), KEY)).all()
    with pytest.raises(EncodeError, match="too large"):
        Rotated(keep=0.25).encode(np.full(1, 3e38, np.float32), EncodeKeys(_key_that_keeps_one(), 0))
