"""The GPU kernels give the bits of the CPU's, which the oracle and the published vectors check: noise, masks, steps.

Twice: on the device, where CUDA is, and everywhere through Triton's interpreter. What only a compiler could do wrong is
looked for in `test_gpu_code`.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from gpu_kernels import BOTH, kernels, write_words
from numpy.typing import NDArray
from torch import nn

from fedmrn.codecs import FitsUpdate
from fedmrn.codecs.scales import mean_magnitude
from fedmrn.numerics.masking import MaskType, draw_mask, progressive_weights
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.philox import philox_block
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch.fast.fused import _rounds_once

F32 = NDArray[np.float32]
KEY = 0xFEDCBA9876543210
STREAM = Stream(KEY ^ 0xFFFF, domain(Purpose.TRAIN_MASK, 17))
ONES = 0xFFFFFFFF
VECTORS = [  # Random123, kat_vectors: philox4x32 10
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]

pytestmark = pytest.mark.parametrize("device", BOTH)


@pytest.fixture(autouse=True)
def _numbers_may_overflow() -> Iterator[None]:
    """The interpreter computes with numpy, which warns of infinities."""
    with np.errstate(all="ignore"):
        yield


def bits(a: F32) -> list[int]:
    """So that zeros differ by their sign."""
    return a.view(np.uint32).tolist()


def on(device: str, a: F32) -> torch.Tensor:
    return torch.from_numpy(a.copy()).to(device)


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS, ids=["zeros", "ones", "pi"])
def test_known_answers(device: str, counter: tuple[int, ...], key: tuple[int, int], words: str) -> None:
    block, j = divmod(counter[0] | counter[1] << 32, 256)
    stream = Stream(key[0] | key[1] << 32, counter[2] | counter[3] << 32)
    out = torch.empty(1024, dtype=torch.int32, device=device)
    write_words(device).write[(1,)](out, kernels(device).pack_draws([stream], [0.0])[0].to(device), block)
    found = out.cpu().numpy().view(np.uint32)
    assert " ".join(f"{w:08x}" for w in found[j::256]) == words
    whole = np.empty(1024, np.uint32)
    philox_block(np.uint64(stream.key), np.uint64(stream.domain), np.uint64(block), whole)
    assert np.array_equal(found, whole)


@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize(
    ("start", "size", "scale"),
    [
        (0, 1024, 0.0123),
        (37, 2500, 2.0**80),
        (1023, 2, 1.0),
        ((1 << 31) - 600, 1300, 2.0**-80),
        ((7 << 32) + 999, 1500, 0.3),
        ((1 << 41) + 5, 1, 0.01),
    ],
)
def test_noise(device: str, law: Law, start: int, size: int, scale: float) -> None:
    """And nothing is written beside it."""
    spec, out = NoiseSpec(law, scale), torch.full((size + 6,), 7.0, device=device)
    kernels(device).fill(spec, KEY, start, out[3:-3])
    found = out.cpu().numpy()
    assert bits(found[3:-3]) == bits(spec.chunk(KEY, start, start + size))
    assert found[:3].tolist() == found[-3:].tolist() == [7.0] * 3


def test_no_noise_at_all(device: str) -> None:
    kernels(device).fill(NoiseSpec(Law.UNIFORM, 1.0), KEY, 5, torch.empty(0, device=device))
    none = torch.empty(0, device=device)
    kernels(device).write_weights(none, none, none, none, MaskType.BINARY, none)


def hostile(noise: F32) -> F32:
    """Updates at the edges of every case: zeros, codewords and their neighbours, halves, huge and subnormal numbers."""
    rng = np.random.default_rng(3)
    u = (noise * rng.uniform(-1.5, 1.5, noise.size)).astype(np.float32)
    inf = np.float32(np.inf)
    edges = [0 * noise, -0 * noise, noise, -noise, noise / 2, np.nextafter(noise, inf), np.nextafter(noise, -inf)]
    edges += [noise * np.float32(2.0**-24)]
    edges += [np.full_like(noise, x) for x in (0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45, 1.1e-38, np.inf, -np.inf)]
    for k, edge in enumerate(edges):
        u[k::23] = edge[k::23]
    assert not np.isnan(u).any()
    return u


def base_of(size: int) -> F32:
    """Weights among which are negative zeros, to which adding 0 is not adding -0."""
    base = np.random.default_rng(4).standard_normal(size).astype(np.float32)
    base[::3] = -0.0
    return base


@pytest.mark.parametrize(("mask", "stochastic"), list(product(MaskType, [True, False])))
@pytest.mark.parametrize("q", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("start", "size", "scale"), [(37, 2500, 0.01), ((7 << 32) + 999, 1500, 2.0**-80)])
def test_weights(device: str, mask: MaskType, stochastic: bool, q: float, start: int, size: int, scale: float) -> None:
    noise = NoiseSpec(Law.GAUSSIAN, scale).chunk(KEY, start, start + size)
    u, base, expected = hostile(noise), base_of(size), np.empty(size, np.float32)
    progressive_weights(u, noise, base, q, STREAM, mask, expected, start=start, stochastic=stochastic)
    out, moved = torch.full((size + 6,), 7.0, device=device), on(device, u)
    draw = kernels(device).pack_draws([STREAM], [q])[0].to(device)
    kernels(device).write_weights(
        moved, on(device, noise), on(device, base), draw, mask, out[3:-3], start=start, stochastic=stochastic
    )
    found = out.cpu().numpy()
    assert bits(found[3:-3]) == bits(expected)
    assert bits(moved.cpu().numpy()) == bits(u)
    assert found[:3].tolist() == found[-3:].tolist() == [7.0] * 3


@pytest.mark.parametrize("law", list(Law))
@pytest.mark.parametrize("mask", list(MaskType))
def test_with_all_masked_the_mask_is_the_one_that_is_sent(device: str, law: Law, mask: MaskType) -> None:
    """The same u, noise and key draw the same mask as `draw_mask`, from which frames are made."""
    noise, stream = NoiseSpec(law, 0.01).chunk(KEY, 0, 1700), Stream(KEY, domain(Purpose.FINAL_MASK))
    u = hostile(noise)
    taken = draw_mask(u, noise, stream, 0, mask)
    lower = -noise if mask is MaskType.SIGNED else np.zeros_like(noise)
    out = torch.empty(noise.size, device=device)
    draw = kernels(device).pack_draws([stream], [1.0])[0].to(device)
    kernels(device).write_weights(on(device, u), on(device, noise), torch.zeros_like(out), draw, mask, out)
    assert bits(out.cpu().numpy()) == bits(np.where(taken, noise, lower))
    assert 0 < taken.sum() < taken.size


@pytest.mark.parametrize("mask", list(MaskType))
def test_a_step_of_sgd_comes_first_and_rounds_once(device: str, mask: MaskType) -> None:
    """u is the CPU kernel's and, where torch rounds once as well, torch's own."""
    rng, size, start, rate = np.random.default_rng(1), 3000, (1 << 33) + 77, 0.0137
    noise, base = NoiseSpec(Law.UNIFORM, 0.01).chunk(KEY, 0, size), base_of(size)
    u = (rng.standard_normal(size) * 10.0 ** rng.uniform(-44, 20, size)).astype(np.float32)
    g = (rng.standard_normal(size) * 10.0 ** rng.uniform(-44, 20, size)).astype(np.float32)
    # Products that a second rounding would lose: -1 + (1 + 2^-12)^2, and neighbours.
    u[::5], g[::5] = -1.0, (1 / rate * (1 + rng.integers(1, 1 << 20, g[::5].size) * 2.0**-23)).astype(np.float32)
    there, out = on(device, u), torch.empty(size, device=device)
    kernels(device).write_weights(
        there,
        on(device, noise),
        on(device, base),
        kernels(device).pack_draws([STREAM], [0.3])[0].to(device),
        mask,
        out,
        start=start,
        gradient=on(device, g),
        rate=rate,
    )
    parameter = nn.Parameter(on(device, u))
    parameter.grad = on(device, g)
    torch.optim.SGD([parameter], lr=rate).step()
    twice = u + np.float32(-rate) * g
    expected = np.empty_like(u)
    progressive_weights(u, noise, base, 0.3, STREAM, mask, expected, start=start, gradient=g, rate=rate)
    assert not np.array_equal(u, twice), "no product here shows how often it is rounded"
    assert bits(there.cpu().numpy()) == bits(u)
    assert bits(out.cpu().numpy()) == bits(expected)
    if _rounds_once(device):
        assert bits(parameter.detach().cpu().numpy()) == bits(u)


def test_a_row_in_memory_decides_what_is_drawn(device: str) -> None:
    """What a captured launch reads at each replay: other words there, another draw; nothing else has changed."""
    noise = NoiseSpec(Law.UNIFORM, 0.01).chunk(KEY, 0, 1500)
    u, base, out = noise / 3, base_of(1500), torch.empty(1500, device=device)
    streams = [Stream(KEY, domain(Purpose.TRAIN_MASK, step)) for step in (1, 2, 3)]
    rows, aimed = kernels(device).pack_draws(streams, [0.1, 0.5, 1.0]).to(device), torch.empty(5, dtype=torch.int32)
    aimed = aimed.to(device)
    there = [on(device, a) for a in (u, noise, base)]
    for stream, q, row in zip(streams, [0.1, 0.5, 1.0], rows, strict=True):
        aimed.copy_(row)
        kernels(device).write_weights(*there, aimed, MaskType.BINARY, out)
        expected = np.empty_like(u)
        progressive_weights(u, noise, base, q, stream, MaskType.BINARY, expected)
        assert bits(out.cpu().numpy()) == bits(expected)


@pytest.mark.parametrize("most", [127, 3, -126])
@pytest.mark.parametrize("multiple", [1.0, 3.0, 3.0**-0.5])
def test_scales_that_follow_u(device: str, multiple: float, most: int) -> None:
    """Those of the codec, and noise that is never rounded, wherever it was before: one leaps from 2^-80 to 2^80."""
    sizes = [5, 3000, 1, 7, 1, 1, 1, 1]
    ends = np.cumsum(sizes)
    parts = [slice(end - size, end) for end, size in zip(ends.tolist(), sizes, strict=True)]
    unit = NoiseSpec(Law.UNIFORM, 1.0).chunk(KEY, 0, int(ends[-1]))
    noise, exponents = on(device, unit), torch.zeros(len(sizes), dtype=torch.int32, device=device)
    rng = np.random.default_rng(2)
    seen = set()
    caps = np.full(len(sizes), most, np.int32)
    told = torch.from_numpy(caps).to(device)
    multiples = torch.full((len(sizes),), multiple, dtype=torch.float64, device=device)
    for last in ([0.0, 3.4e38, 1e-45, 0.0], [np.nan, np.inf, -1e-30, 3.4e38], [3.0, 1e25, 0.0, 0.0]):
        u = (rng.standard_normal(unit.size) * 10.0 ** rng.uniform(-6, 0)).astype(np.float32)
        u[-4:] = last
        kernels(device).rescale(on(device, u), on(device, 0 * unit), parts, multiples, noise, exponents, told)
        means = np.array([mean_magnitude(u[p]) for p in parts], np.float64)
        scales = [2.0 ** int(e) for e in FitsUpdate.exponents(means, multiple, caps)]
        assert bits(noise.cpu().numpy()) == bits(unit * np.repeat(np.array(scales, np.float32), sizes))
        found = exponents.tolist()
        assert [2.0**e for e in found] == scales
        seen.update(scales)
    assert ({2.0**-80, 1.0, 2.0**80} < seen) is (most == 127)
    assert max(seen) <= 2.0 ** max(most, -80)
