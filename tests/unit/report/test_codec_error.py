"""The codecs alone: measured bytes, the errors that theory gives, and the plot of both."""

from dataclasses import dataclass, field, replace
from math import pi, sqrt
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

from fedmrn.codecs import (
    Codec,
    CodedMask,
    EncodeKeys,
    Levels,
    MaskedNoise,
    Raw,
    Rotated,
    ScaleRule,
    Sign,
    SignRule,
    Sparse,
    Ternary,
)
from fedmrn.errors import ConfigError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.report.codec_error import VECTORS, CodecError, draw_codec_error, measure_codecs
from fedmrn.report.plots import Origin, save_figure

SIZE = 1 << 14
UNIFORM = NoiseSpec(Law.UNIFORM, 0.01)
EVERY: dict[str, Codec] = {
    "raw": Raw(),
    "binary": MaskedNoise(UNIFORM, MaskType.BINARY),
    "signed": MaskedNoise(UNIFORM, MaskType.SIGNED),
    "sign": Sign(),
    "sign-stochastic": Sign(SignRule.STOCHASTIC),
    "sparse": Sparse(0.03),
    "ternary": Ternary(),
    "levels": Levels(7, 128),
    "drive": Rotated(1),
    "drive-mse": Rotated(1, ScaleRule.MSE),
    "eden2": Rotated(2),
    "eden4": Rotated(4),
    "eden-half": Rotated(1, keep=0.5),
}
D2, D4 = 0.117481847829, 0.00950100800819  # of the Lloyd-Max codebooks of the normal law
THEORY = {"drive": pi / 2 - 1, "drive-mse": 1 - 2 / pi, "eden2": D2 / (1 - D2), "eden4": D4 / (1 - D4)}


pytestmark = pytest.mark.xdist_group("codec-error")  # its table is made once


@pytest.fixture(scope="module")
def rows() -> list[CodecError]:
    return measure_codecs(EVERY, size=SIZE)


def find(rows: list[CodecError], name: str, vector: str = "gaussian") -> CodecError:
    (row,) = [r for r in rows if (r.name, r.vector) == (name, vector)]
    return row


def errors_of(codec: Codec, x: NDArray[np.float32], keys: int) -> NDArray[np.float64]:
    """The error at each of some keys of the test's own."""
    wide = x.astype(np.float64)
    found = [codec.decode(codec.encode(x, EncodeKeys(k, 1000 + k)), x.size, k) for k in range(keys)]
    return np.array([((f - wide) ** 2).sum() / (wide**2).sum() for f in found])


# --- the error --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", THEORY)
def test_error_of_theory(name: str) -> None:
    """Within 5 standard errors of the mean of 40 keys, and 0.5 % by which 16,384 coordinates are not normal."""
    x = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    deviation = float(errors_of(EVERY[name], x, 40).std(ddof=1))
    tolerance = 5 * deviation / sqrt(40) + 0.005 * THEORY[name]
    assert tolerance < 0.03 * THEORY[name], "a tolerance that tells nothing"
    for row in measure_codecs({name: EVERY[name]}, size=SIZE, keys=40):
        assert abs(row.nmse - THEORY[name]) < tolerance


def test_signs_with_one_scale(rows: list[CodecError]) -> None:
    """1 - mean|x|^2 / mean x^2 of the vector itself: 1 - 2/pi for normal values, 1 - 1/e for lognormal ones.

    The deviation over vectors of that ratio r: relative sqrt((4 v1 + v2 - 4 c) / d), with v1, v2 and c the relative
    variances and covariance of |x| and x^2; for normal values 0.76 / sqrt(d), for lognormal ones 5.4 / sqrt(d).
    """
    assert abs(find(rows, "sign").nmse - (1 - 2 / pi)) < 5 * 0.76 / sqrt(SIZE) * 2 / pi
    assert abs(find(rows, "sign", "heavy-tailed").nmse - (1 - np.exp(-1))) < 5 * 5.4 / sqrt(SIZE) * np.exp(-1)


def test_raw_is_exact(rows: list[CodecError]) -> None:
    for vector in VECTORS:
        assert find(rows, "raw", vector) == CodecError("raw", vector, 32.0, 0.0, 0.0)


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("name", ["drive", "eden2", "eden4", "eden-half", "levels", "sign-stochastic"])
def test_ten_clients_of_an_unbiased_codec_err_a_tenth(rows: list[CodecError], name: str, vector: str) -> None:
    """The mean of d cross terms of ten errors: deviation sqrt(2 * 9 / (10 d)) of it if the errors are normal: 1 %.

    A few elements carry the errors of a heavy-tailed vector, hence 10 %.
    """
    row = find(rows, name, vector)
    assert row.mean_of_ten == pytest.approx(row.nmse / 10, rel=0.1)


@pytest.mark.parametrize("vector", VECTORS)
def test_a_bias_stays(rows: list[CodecError], vector: str) -> None:
    """drive-mse is (1 - D) x and noise of D (1 - D): of ten clients D^2 + D (1 - D) / 10. Signs and top-k: no gain."""
    d = 1 - 2 / pi
    assert find(rows, "drive-mse", vector).mean_of_ten == pytest.approx(d**2 + d * (1 - d) / 10, rel=0.03)
    for name in ("sign", "sparse"):
        row = find(rows, name, vector)
        assert row.mean_of_ten == pytest.approx(row.nmse, rel=1e-6)


def test_one_key_is_one_client_and_more_are_their_mean() -> None:
    """`keys` is what `nmse` averages over; the mean of ten clients does not depend on it."""
    codec = {"drive": Rotated(1)}
    found = {k: measure_codecs(codec, size=1024, keys=k) for k in (1, 10, 11, 200)}
    for at in range(len(VECTORS)):
        assert len({r[at].mean_of_ten for r in found.values()}) == 1
        assert len({r[at].nmse for r in found.values()}) == len(found)
        one, many = found[1][at].nmse, found[200][at].nmse
        assert abs(many - THEORY["drive"]) < 0.01
        assert abs(one - THEORY["drive"]) < 0.2
        assert found[11][at].nmse * 11 - found[10][at].nmse * 10 == pytest.approx(THEORY["drive"], rel=0.2)


# --- masked noise -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spy(MaskedNoise):
    seen: list[NDArray[np.float32]] = field(default_factory=list)
    keys: list[EncodeKeys] = field(default_factory=list)

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        self.seen.append(vector.copy())
        self.keys.append(keys)
        return super().encode(vector, keys)


@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_masked_noise_gets_half_its_scale(scale: float) -> None:
    codec = _Spy(NoiseSpec(Law.UNIFORM, scale), MaskType.SIGNED)
    measure_codecs({"spy": codec}, size=SIZE)
    assert len(codec.seen) == 10 * len(VECTORS)
    for vector in codec.seen:
        assert float(vector.astype(np.float64).std()) == pytest.approx(scale / 2, rel=1e-5)
    assert codec.keys[:10] == codec.keys[10:]
    assert len({key for keys in codec.keys for key in (keys.noise, keys.sampling)}) == 20, "independent keys"
    kurtosis = [float((v.astype(np.float64) ** 4).mean() / (v.astype(np.float64) ** 2).mean() ** 2) for v in codec.seen]
    assert abs(kurtosis[0] - 3) < 5 * sqrt(24 / SIZE)  # normal
    assert kurtosis[-1] > 20  # e^4 = 54.6 for the law of these


@pytest.mark.parametrize("mask", MaskType)
def test_error_of_masked_noise(rows: list[CodecError], mask: MaskType) -> None:
    """The expected square of (decoded - u) over a grid of u ~ N(0, 1/4) and n ~ U(-1, 1)."""
    u = np.linspace(-3, 3, 1201)[:, None]
    n = ((np.arange(1000) + 0.5) / 500 - 1)[None, :]
    lower = -n if mask is MaskType.SIGNED else 0 * n
    p = np.clip((u - lower) / (n - lower), 0, 1)
    weights = np.exp(-2 * u[:, 0] ** 2)
    error = (p * (n - u) ** 2 + (1 - p) * (lower - u) ** 2).mean(axis=1)
    expected = float((weights * error).sum() / (weights * u[:, 0] ** 2).sum())
    assert find(rows, mask.name.lower()).nmse == pytest.approx(expected, rel=0.02)


def test_other_codecs_get_the_vector_as_it_is(rows: list[CodecError]) -> None:
    """Masked noise of any scale errs alike, and the same vector comes out of the same seed for every codec."""
    large = measure_codecs({"signed": MaskedNoise(NoiseSpec(Law.UNIFORM, 2.0**20), MaskType.SIGNED)}, size=SIZE)
    for row in large:
        assert row.nmse == pytest.approx(find(rows, "signed", row.vector).nmse, rel=1e-3)


# --- the bits ---------------------------------------------------------------------------------------------------------


def test_bits_are_the_bytes_of_the_body() -> None:
    """1,000 elements. Sign: 16 bytes of counts and scale, 125 of signs. Levels(7, 128): 8 norms, 500 of 4-bit codes.

    Rotated: blocks of 512, 256 and 128, 3 scales, 896 bits, and a tail of 104 floats.
    """
    codecs = {"sign": Sign(), "levels": Levels(7, 128), "drive": Rotated(1)}
    found = measure_codecs(codecs, size=1000, keys=2)
    expected = {"sign": 16 + 125, "levels": 32 + 500, "drive": 12 + 112 + 416}
    assert [(r.name, r.vector, r.bits) for r in found] == [
        (name, vector, 8 * expected[name] / 1000) for name in codecs for vector in VECTORS
    ]


def test_bits_are_the_mean_over_keys() -> None:
    """The half that is kept differs by key, and so does its tail: neither one key's length nor a formula's."""
    codec = {"half": Rotated(1, keep=0.5)}
    one, ten = (measure_codecs(codec, size=5000, keys=k)[0].bits for k in (1, 10))
    assert one != ten
    assert (one * 5000 / 8).is_integer()
    assert ten * 5000 / 8 * 10 == pytest.approx(round(ten * 5000 / 8 * 10), abs=1e-6)


def test_repeated_measurement(rows: list[CodecError]) -> None:
    assert measure_codecs(EVERY, size=SIZE) == rows
    assert [r.name for r in rows] == [name for name in EVERY for _ in VECTORS]


@pytest.mark.parametrize(("size", "keys"), [(1, 10), (0, 10), (64, 0)])
def test_too_small_to_measure(size: int, keys: int) -> None:
    with pytest.raises(ConfigError, match=f"got {size} and {keys}"):
        measure_codecs({"raw": Raw()}, size=size, keys=keys)


# --- the plot ---------------------------------------------------------------------------------------------------------


def saved(rows: list[CodecError], stem: Path) -> Figure:
    """The figure, written as the report does."""
    figure = draw_codec_error(rows)
    save_figure(figure, stem, Origin("codecs", "runs/a", "lr 0.1"), ["png"])
    return figure


def test_a_png_replaces_the_file_at_once(rows: list[CodecError], tmp_path: Path) -> None:
    path = tmp_path / "error.png"
    path.write_bytes(b"old")
    saved(rows, tmp_path / "error")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")
    assert [p.name for p in tmp_path.iterdir()] == ["error.png"]


def test_every_codec_with_an_error_is_drawn_where_it_was_measured(rows: list[CodecError], tmp_path: Path) -> None:
    figure = saved(rows, tmp_path / "error")
    assert len(figure.axes) == len(VECTORS)
    styles: dict[str, set[object]] = {}
    for axes, vector in zip(figure.axes, VECTORS, strict=True):
        assert vector in axes.get_title(loc="left")
        names = [t.get_text() for t in axes.texts]
        assert sorted(names) == sorted(set(EVERY) - {"raw"})
        boxes = [Text.get_window_extent(t) for t in axes.texts]  # without the leader
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]), "a name covers another"
        for text in axes.texts:
            row = find(rows, text.get_text(), vector)
            x, y = text.xy  # type: ignore[attr-defined]
            assert y == row.nmse
            assert abs(np.log2(x / row.bits)) < 0.25  # side by side
            at = {str(m.get_markerfacecolor()): m for m in axes.lines if list(m.get_xdata()) == [x]}
            filled, hollow = at[text.get_color()], at["white"]
            assert (list(filled.get_ydata()), list(hollow.get_ydata())) == ([row.nmse], [row.mean_of_ten])
            assert filled.get_marker() == hollow.get_marker()
            styles.setdefault(row.name, set()).add((filled.get_color(), filled.get_marker()))
    assert all(len(s) == 1 for s in styles.values()), "one style in both panels"
    assert len(set.union(*styles.values())) == len(styles), "and another for each codec"
    (bound,) = [m for m in figure.axes[0].lines if m.get_label() == "Gaussian bound 4^-b"]
    assert np.allclose(np.log2(bound.get_ydata()), -2 * np.asarray(bound.get_xdata()))
    assert any("update of half the noise's scale" in text.get_text() for text in figure.texts)


def test_codecs_without_error_are_left_out(rows: list[CodecError], tmp_path: Path) -> None:
    saved(rows, tmp_path / "all")
    saved([r for r in rows if r.name != "raw"], tmp_path / "some")
    saved([replace(r, nmse=r.nmse * 2) for r in rows], tmp_path / "other")
    images = [(tmp_path / f"{name}.png").read_bytes() for name in ("all", "some", "other")]
    assert images[0] == images[1] != images[2]


def test_methods_of_one_codec_are_one_mark() -> None:
    codecs = {"topk": Sparse(0.03), "drive": Rotated(1), "topk-ef": Sparse(0.03), "topk-late": Sparse(0.03)}
    for axes in draw_codec_error(measure_codecs(codecs, size=1000, keys=1)).axes:
        assert sorted(t.get_text() for t in axes.texts) == ["drive", "topk (+2)"]


def test_long_names_stand_in_a_legend(rows: list[CodecError]) -> None:
    figure = draw_codec_error([replace(r, name=f"{r.name}, with all of its options") for r in rows if r.nmse])
    assert not any(axes.texts for axes in figure.axes)
    names = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert names == [f"{name}, with all of its options" for name in EVERY if name != "raw"]


def test_a_coded_mask_has_the_error_of_the_mask() -> None:
    """It is measured on the same vector: one as large against the noise."""
    mask = MaskedNoise(UNIFORM, MaskType.BINARY)
    found = measure_codecs({"plain": mask, "coded": CodedMask(mask)}, size=SIZE, keys=1)
    plain, coded = ([r for r in found if r.name == name] for name in ("plain", "coded"))
    assert [(r.nmse, r.mean_of_ten) for r in plain] == [(r.nmse, r.mean_of_ten) for r in coded]
    assert all(c.bits < p.bits for c, p in zip(coded, plain, strict=True))


def test_nothing_to_draw(rows: list[CodecError]) -> None:
    with pytest.raises(ConfigError, match="every codec is exact"):
        draw_codec_error([r for r in rows if r.name == "raw"])
