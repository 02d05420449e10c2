"""The fused fold of masked noise against its parts: every length, every place to begin, narrower vectors."""

import numpy as np
import pytest
import slow_fold
from plain_processor import said_on_a_plain_processor
from slow_fold import FACTORS, KEY, LAWS, SCALES, fast_fold, fold_together, made

from fedmrn.codecs import MaskedNoise
from fedmrn.codecs.mask import masked_noise
from fedmrn.codecs.mask.masked_noise import OpenedMask
from fedmrn.numerics.kernels import NEAR, write_fine_mean, write_mean
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.philox import BLOCK

ROUND_BLOCKS = [BLOCK + k for k in (-33, -1, 0, 1, 31, 32, 33)] + [2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1, 5000]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("law", LAWS)
def test_every_length(law: Law, signed: bool) -> None:
    for count in [*range(301), *ROUND_BLOCKS]:
        spec, factor = NoiseSpec(law, SCALES[count % 2]), FACTORS[count % len(FACTORS)]
        assert spec.scale * factor < NEAR
        bits, total = made(count, count)
        expected = total.copy()
        fast_fold(spec, 0, bits, signed, factor, total)
        slow_fold.slow_fold(spec, 0, bits, signed, factor, expected)
        assert np.array_equal(total, expected), count


@pytest.mark.parametrize("start", [*range(1, 41), 1000, 1015, BLOCK - 1, BLOCK + 7, 3 * BLOCK])
def test_any_place_to_begin(start: int) -> None:
    for count in (0, 1, 7, 40, 64, 2500):
        for law in LAWS:
            bits, total = made(count, count, start)
            expected = total.copy()
            fast_fold(NoiseSpec(law, 0.3), start, bits, True, 7.0, total)
            slow_fold.slow_fold(NoiseSpec(law, 0.3), start, bits, True, 7.0, expected)
            assert np.array_equal(total, expected)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("start", [0, 5, BLOCK - 1, BLOCK])
def test_several_masks_at_once_add_up_as_one_after_the_other(start: int, law: Law, signed: bool) -> None:
    for count in [*range(0, 301, 7), *ROUND_BLOCKS]:
        for clients in (1, 2, 5):
            masks, spec = [made(count, k, start)[0] for k in range(clients)], NoiseSpec(law, 0.3)
            total = made(count, count)[1]
            expected = total.copy()
            fold_together(spec, start, masks, signed, FACTORS[:clients], total)
            for k, (bits, factor) in enumerate(zip(masks, FACTORS, strict=False)):
                slow_fold.slow_fold(spec, start, bits, signed, factor, expected, KEY + k)
            assert np.array_equal(total, expected)


@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize(
    ("factor", "near"), [(2.0**40, True), (2.0**60, False), (((1 << 30) - 1) * 2.0**20, True), (float(np.pi), True)]
)
def test_where_products_are_not_exact_it_is_not_used(
    law: Law, factor: float, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are the same either way, and the rounding is that of a product and a sum, each rounded."""
    called: list[int] = []
    fused = masked_noise.fold_masked
    monkeypatch.setattr(masked_noise, "fold_masked", lambda *args: (called.append(1), fused(*args)))
    spec = NoiseSpec(law, 0.3)
    bits, total = made(5000, 1)
    expected = total.copy()
    opened = OpenedMask(MaskedNoise(spec, MaskType.SIGNED), slow_fold.KEY, bits)
    opened.fold(0, factor, near, total)
    values = np.empty(5000, np.float32)
    opened.read(0, values)
    expected += np.rint(values.astype(np.float64) * factor).astype(np.int64)
    assert np.array_equal(total, expected)
    assert bool(called) is (law is not Law.GAUSSIAN and near and factor == 2.0**40)


@pytest.mark.parametrize("count", [0, 1, 2, 1023, 1024, 1025, 2048, 5000])
def test_means_may_be_written_over_their_sums(count: int) -> None:
    g, factor = np.random.Generator(np.random.Philox(count)), 3.0**-30
    sums, rest = g.integers(-(1 << 62), 1 << 62, (2, count))
    for fine in (False, True):
        exact = sums.astype(np.float64)
        if fine:
            exact += rest * 2.0**-51
        for before in (0, 3):  # at the start of their memory, or before it
            memory = np.concatenate([np.zeros(before, np.int64), sums])
            own, out = memory[before:], memory.view(np.float32)[:count]
            if fine:
                write_fine_mean(own, rest, 2.0**-51, factor, out)
            else:
                write_mean(own, factor, out)
            assert np.array_equal(out, (exact * factor).astype(np.float32))


@pytest.mark.slow
def test_narrower_vectors_give_the_same() -> None:
    """Compiled for the plainest processor of this kind, which has no fused multiply-add either."""
    assert said_on_a_plain_processor(slow_fold) == slow_fold.digest()
