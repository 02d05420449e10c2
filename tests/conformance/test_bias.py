"""Bias: what a codec claims, measured over keys; every codec of the table of methods, and some variants.

For a vector x and K independent pairs of keys, the mean m of what is decoded has E|m - x|^2 = |bias|^2 + V / K, with V
the variance of one decoding summed over elements. V is estimated from the same decodings, so |m - x|^2 - V / K is an
estimate of |bias|^2; its own spread, over elements that are nearly independent, is about V / K * sqrt(2 / d_eff).
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import (
    Bernoulli,
    Codec,
    EncodeKeys,
    Float8,
    Float16,
    Levels,
    Rotated,
    ScaleRule,
    Sign,
    SignRule,
    Sparse,
    Support,
    Ternary,
)
from fedmrn.methods import METHODS
from fedmrn.methods.method import SIDE
from fedmrn.numerics.rng import derive_key
from fedmrn.wire.layout import Group

SIZE, KEYS = 2048, 400
CODECS: dict[str, Codec] = {
    **{name: row.scheme().codecs[Group.CODED] for name, row in METHODS.items()},
    "ternary without clipping": Ternary(0.0),
    "one level": Levels(1, 128),
    "a tenth of the elements": Rotated(2, keep=0.1),
    "least error at 4 bits": Rotated(4, ScaleRule.MSE),
    "16 bits of everything": Sparse(1.0, 16),
    "learned signs": Sign(SignRule.LEARNED, (0.5,)),
    "masks coded by entropy": METHODS["fedmrn"].scheme({"coding": "entropy"}).codecs[Group.CODED],
    "scales that clients choose": METHODS["fedmrn"].scheme({"scale": "auto"}).codecs[Group.CODED],
    "the same, signed": METHODS["fedmrn-s"].scheme({"scale": "auto"}).codecs[Group.CODED],
    "16-bit floats": Float16(),
    "8-bit floats": Float8(),
    "side data in levels": SIDE["levels"],
}


def vector(heavy: bool) -> NDArray[np.float32]:
    """Normal values, or normal values to the third power: a few are twenty times the typical one."""
    x = np.random.Generator(np.random.Philox(7)).standard_normal(SIZE)
    return (x**3 if heavy else x).astype(np.float32)


def measure(codec: Codec, x: NDArray[np.float32]) -> tuple[float, float]:
    """Return (|bias|^2 / |x|^2 as estimated, the standard error of that estimate)."""
    codec = codec.bind(x + np.float32(10))
    total, squares = np.zeros(SIZE), np.zeros(SIZE)
    for k in range(KEYS):
        keys = EncodeKeys(derive_key(1, "noise", k), derive_key(2, "sampling", k), (SIZE,))
        values = codec.decode(codec.encode(x, keys), SIZE, keys.noise).astype(np.float64)
        total += values
        squares += values**2
    mean = total / KEYS
    variance = (squares / KEYS - mean**2).clip(min=0) * KEYS / (KEYS - 1)
    off = (mean - x) ** 2 - variance / KEYS
    norm = float((x.astype(np.float64) ** 2).sum())
    return float(off.sum()) / norm, float(np.sqrt(2 * (variance**2).sum())) / KEYS / norm


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize("name", CODECS)
def test_a_codec_is_as_biased_as_it_says(name: str, heavy: bool) -> None:
    codec, x = CODECS[name], vector(heavy)
    bias, error = measure(codec, x)
    if codec.unbiased:
        # Six standard errors; and the rounding of float32, which is no randomness.
        assert bias < 6 * error + 1e-9, (
            f"|bias|^2 is {bias:.3g} of |x|^2, {bias / max(error, 1e-30):.1f} standard errors"
        )
    else:
        assert bias > 6 * error, (
            f"|bias|^2 is {bias:.3g} of |x|^2 with an error of {error:.3g}: it might claim to be unbiased"
        )
        assert bias > 1e-9


def test_the_claims_are_those_of_the_literature() -> None:
    said = {name for name, codec in CODECS.items() if codec.unbiased}
    assert said & METHODS.keys() == {
        "fedavg", "signsgd-stochastic", "qsgd", "drive", "eden2", "eden4", "eden-half",
        "fedsparsify-global", "fedsparsify-local",
    }  # fmt: skip
    assert isinstance(CODECS["fedpm"], Bernoulli)
    assert isinstance(CODECS["fedsparsify-global"], Support)
