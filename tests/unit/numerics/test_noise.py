import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fedmrn.numerics.noise
import oracle
from fedmrn.errors import ConfigError, FedmrnError
from fedmrn.numerics.noise import Law, NoiseSpec, gaussian_table

KEY = 0xC0FFEE1234567890
MANY = 1 << 18
SCALES = [2.0**-80, 1e-20, 1e-6, 0.005, 0.01, 1 / 3, 1.0, 12345.678, 1e20, 2.0**80]


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("scale", SCALES)
def test_values_are_the_oracles(law: Law, scale: float) -> None:
    spec = NoiseSpec(law, scale)
    for start in (0, 1000, (1 << 34) - 3):
        values = spec.chunk(KEY, start, start + 60)
        assert values.dtype == np.float32
        assert values.tolist() == [oracle.noise(law, scale, KEY, start + i) for i in range(60)]


@pytest.mark.parametrize("law", Law)
def test_any_range_equals_the_part_of_the_whole(law: Law) -> None:
    spec = NoiseSpec(law, 0.01)
    whole = spec.chunk(KEY, 0, 5000)
    for start, stop in [(0, 1), (1023, 1025), (1, 4999), (7, 7), (4096, 5000)]:
        assert np.array_equal(whole[start:stop], spec.chunk(KEY, start, stop))
    assert not np.array_equal(whole, spec.chunk(KEY ^ 1 << 63, 0, 5000))


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("scale", [2.0**-80, 0.01, 2.0**80])
def test_never_zero_never_subnormal_within_the_bound(law: Law, scale: float) -> None:
    spec = NoiseSpec(law, scale)
    size = np.abs(spec.chunk(KEY, 0, MANY))
    assert np.isfinite(size).all()
    assert size.min() >= np.finfo(np.float32).tiny
    assert size.max() <= spec.bound
    # The largest of 2^18 values is close to the bound: within 0.1 % of it unless every one of them falls below
    # (uniform: chance e^-262); the gaussian table's last entry is met with chance 1/4096 a draw.
    assert size.max() >= 0.999 * spec.bound


def test_uniform_extremes_are_odd_multiples() -> None:
    """No word gives zero: the two smallest magnitudes are one unit, the largest is 2^24 - 1 units."""
    spec = NoiseSpec(Law.UNIFORM, 1.0)
    units = spec.chunk(KEY, 0, MANY).astype(np.float64) * 2.0**24
    assert np.array_equal(units, np.rint(units))
    assert (units.astype(np.int64) % 2 == 1).all()
    assert np.abs(units).max() < 1 << 24


@pytest.mark.parametrize("law", Law)
def test_symmetric(law: Law) -> None:
    """Signs are a fair coin: the count of negatives is within 4 sqrt(n / 4) of n / 2. And so is it for |x| above the
    median, where a law that only shifts would show."""
    x = NoiseSpec(law, 0.01).chunk(KEY, 0, MANY)
    large = x[np.abs(x) >= np.median(np.abs(x))]
    for part in (x, large):
        assert abs(int((part < 0).sum()) - part.size / 2) < 4 * math.sqrt(part.size / 4)


def _uniform_moment(k: int) -> float:
    return 1 / (k + 1)


def _gaussian_moment(k: int) -> float:
    return float(np.mean(np.array(oracle.recomputed_table()) ** k))


def _bernoulli_moment(_: int) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("law", "moment"),
    [
        (Law.UNIFORM, _uniform_moment),
        (Law.GAUSSIAN, _gaussian_moment),
        (Law.BERNOULLI, _bernoulli_moment),
    ],
)
def test_moments(law: Law, moment: Callable[[int], float]) -> None:
    """The mean of x^k over n draws has standard error sqrt((E x^2k - (E x^k)^2) / n); 4 of them are allowed. The odd
    moments are zero by symmetry. Eight checks at 6e-5 each: a sound law fails here in 5 of 10,000 choices of KEY."""
    scale = 0.25
    x = NoiseSpec(law, scale).chunk(KEY, 0, MANY).astype(np.float64) / scale
    for k in (1, 2, 3, 4):
        expected = moment(k) if k % 2 == 0 else 0.0
        error = math.sqrt((moment(2 * k) - expected**2) / MANY)
        assert abs(np.mean(x**k) - expected) <= 4 * error + 1e-6


@pytest.mark.parametrize("law", Law)
def test_neighbours_are_uncorrelated(law: Law) -> None:
    """The mean of x_i x_(i+lag) over n draws has standard error E x^2 / sqrt(n): across planes and blocks too."""
    x = NoiseSpec(law, 1.0).chunk(KEY, 0, MANY).astype(np.float64)
    for lag in (1, 2, 256, 512, 768, 1024):
        products = x[:-lag] * x[lag:]
        assert abs(products.mean()) < 4 * np.mean(x**2) / math.sqrt(products.size)


@pytest.mark.parametrize(
    "scale", [0, 0.0, -0.01, -1e300, math.nan, math.inf, -math.inf, 1e300, 2.0**-81, 2.0**81, 5e-324]
)
@pytest.mark.parametrize("law", Law)
def test_unusable_scales(law: Law, scale: float) -> None:
    with pytest.raises(ConfigError, match="noise scale"):
        NoiseSpec(law, scale)


def test_the_scale_is_rounded_to_float32() -> None:
    spec = NoiseSpec(Law.UNIFORM, 0.1)
    assert spec.scale == oracle.float32(0.1) != 0.1
    assert spec == NoiseSpec(Law.UNIFORM, spec.scale)


def test_the_law_may_be_its_code() -> None:
    assert NoiseSpec(2, 0.5).law is Law.BERNOULLI  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 is not a valid Law"):
        NoiseSpec(3, 0.5)  # type: ignore[arg-type]


def test_a_damaged_table_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = bytearray(oracle.TABLE_FILE.read_bytes())
    data[1000] ^= 1
    (tmp_path / "gaussian.bin").write_bytes(data)
    monkeypatch.setattr(fedmrn.numerics.noise, "files", lambda _: tmp_path)
    gaussian_table.cache_clear()
    try:
        with pytest.raises(FedmrnError, match=r"gaussian\.bin"):
            gaussian_table()
    finally:
        monkeypatch.undo()
        gaussian_table.cache_clear()
    assert gaussian_table().size == 4096


@pytest.mark.parametrize("law", Law)
def test_only_a_vector_in_one_piece_is_filled(law: Law) -> None:
    """The kernels write from front to back: what lies between or behind must not be touched."""
    spec, memory = NoiseSpec(law, 1.0), np.full(8192, 7, np.float32)
    frozen = memory[:2048].copy()
    frozen.flags.writeable = False
    for out in (memory[:4096:2], memory[4095:2047:-1], memory[:4096].reshape(2, -1), frozen, memory.view(np.float64)):
        with pytest.raises(ValueError, match="contiguous, writeable vector of float32"):
            spec.fill(5, 0, out)
    assert (memory == 7).all()
