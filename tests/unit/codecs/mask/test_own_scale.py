"""OwnScale: the scale that fits, masks of the noise that it gives, what is refused, and what a round makes of it."""

import math
import struct
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from side_clipping import clipped

import oracle
from fedmrn.cli.show import show_frame
from fedmrn.codecs import (
    CHUNK,
    NOISE_SCALE,
    Codec,
    CodedMask,
    EncodeKeys,
    InterleavedMask,
    MaskedNoise,
    OwnScale,
    RandomCode,
    Raw,
    codec_from,
)
from fedmrn.codecs.scales import mean_magnitude
from fedmrn.errors import BoundError, ConfigError, FrameError, MalformedFrameError, NonFiniteError, PaddingError
from fedmrn.methods import METHODS, method
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

F32 = NDArray[np.float32]
KEYS = EncodeKeys(0xFEED, 42)
LAYOUT = Layout(
    (
        TensorSpec("a", (100, 7), Group.CODED),
        TensorSpec("none", (0, 3), Group.CODED),
        TensorSpec("b", (3, 3), Group.CODED),
        TensorSpec("c", (5,), Group.DENSE),
    )
)
SIZES = LAYOUT.sizes(Group.CODED)
each_mask = pytest.mark.parametrize("mask", MaskType)
each_law = pytest.mark.parametrize("law", Law)


WIDTHS = {MaskType.BINARY: 4, MaskType.SIGNED: 1}
"""Half-widths of uniform noise in means of |u|, as docs/methods.md has them."""


def wanted(magnitude: float, mask: MaskType, law: Law) -> float:
    if (mask, law) == (MaskType.SIGNED, Law.BERNOULLI):
        return math.sqrt(2) * magnitude
    return WIDTHS[mask] * magnitude / (1 if law is Law.UNIFORM else math.sqrt(3))


def codec(mask: MaskType = MaskType.BINARY, law: Law = Law.UNIFORM) -> OwnScale:
    return OwnScale(MaskedNoise(NoiseSpec(law, 1.0), mask))


def normal(size: int, seed: int, spread: float = 0.01) -> F32:
    return (np.random.Generator(np.random.Philox(seed)).standard_normal(size) * spread).astype(np.float32)


def table(*rows: tuple[int, float]) -> bytes:
    return struct.pack("<I", len(rows)) + b"".join(struct.pack("<Qf", *row) for row in rows)


def fitting(magnitude: float, mask: MaskType, law: Law) -> float:
    """The scale for a tensor of this mean magnitude."""
    return codec(mask, law).scale(np.full(1, magnitude, np.float32))


@settings(deadline=None)
@given(st.floats(1e-20, 1e20), st.sampled_from(MaskType), st.sampled_from(Law))
def test_the_scale_is_the_nearest_power_of_two(magnitude: float, mask: MaskType, law: Law) -> None:
    scale = fitting(magnitude, mask, law)
    assert math.frexp(scale)[0] == 0.5
    assert abs(math.log2(scale / wanted(float(np.float32(magnitude)), mask, law))) <= 0.5 + 1e-9


@given(st.floats(2.0**-60, 2.0**60))
def test_signed_bernoulli_noise_is_the_least_power_of_two_that_reaches_the_mean(magnitude: float) -> None:
    magnitude = float(np.float32(magnitude))
    scale = fitting(magnitude, MaskType.SIGNED, Law.BERNOULLI)
    assert scale / 2 * (1 - 1e-9) <= magnitude <= scale * (1 + 1e-9)


def test_binary_masks_have_noise_of_the_same_power_over_the_update_by_every_law() -> None:
    """Mean square over scale^2: uniform 1/3, gaussian and bernoulli 1. Here without rounding: 1.0 is a power of two."""
    for law, power in ((Law.UNIFORM, 1 / 3), (Law.GAUSSIAN, 1.0), (Law.BERNOULLI, 1.0)):
        at = (1 if law is Law.UNIFORM else math.sqrt(3)) / WIDTHS[MaskType.BINARY]
        below, above = (fitting(at * f, MaskType.BINARY, law) for f in (0.71, 1.41))
        assert below == above == 1.0
        n = NoiseSpec(law, 1.0).chunk(3, 0, 1 << 16).astype(np.float64)
        assert (n**2).mean() == pytest.approx(power, rel=0.02)  # 4 standard errors of 2^16 values


def test_the_ends_of_the_scale() -> None:
    for mask in MaskType:
        assert fitting(0.0, mask, Law.UNIFORM) == 2.0**-80
        assert fitting(1e-45, mask, Law.UNIFORM) == 2.0**-80
        assert fitting(3e38, mask, Law.UNIFORM) == 2.0**80


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 100), st.integers(0, 2**32))
def test_the_magnitude_is_the_mean_of_magnitudes(size: int, seed: int) -> None:
    u = normal(size, seed)
    exact = math.fsum(abs(float(x)) for x in u) / size
    assert mean_magnitude(u) == pytest.approx(exact, rel=1e-14)  # at most 100 additions of 2^-53


@each_mask
@each_law
@pytest.mark.parametrize("size", [1, 7, 8, 1000, CHUNK + 3])
def test_a_body_is_the_scale_and_the_mask_of_the_noise_it_gives(mask: MaskType, law: Law, size: int) -> None:
    mine, u = codec(mask, law), normal(size, size)
    scale = mine.scale(u)
    fixed = MaskedNoise(NoiseSpec(law, scale), mask)
    body = mine.encode(u, KEYS)
    assert body == table((size, scale)) + fixed.encode(u, KEYS)
    assert mine.decode(body, size, KEYS.noise).tobytes() == fixed.decode(body[16:], size, KEYS.noise).tobytes()


@each_mask
@each_law
def test_every_tensor_has_its_scale(mask: MaskType, law: Law) -> None:
    """Against noise and scales worked out one element at a time."""
    mine = codec(mask, law)
    u = np.concatenate([normal(700, 1, 0.5), normal(9, 2, 1e-6)])
    body = mine.encode(u, replace(KEYS, sizes=SIZES))
    scales = [mine.scale(u[:700]), mine.scale(u[700:])]
    assert scales[0] > 1000 * scales[1]
    assert oracle.scales(body) == [(700, scales[0]), (9, scales[1])]
    bits = oracle.unpacked(body[28:], 709)
    values = mine.decode(body, 709, KEYS.noise)
    for i, (bit, value) in enumerate(zip(bits, values.tolist(), strict=True)):
        n = oracle.noise(int(law), scales[i >= 700], KEYS.noise, i)
        assert value == (n if bit else -n if mask is MaskType.SIGNED else 0)
    pieces = np.empty(709, np.float32)
    mine.open(body, 709, KEYS.noise, 65536.0).read(0, pieces)
    assert pieces.tobytes() == values.tobytes()


def test_a_scale_that_fits_loses_less_than_one_that_does_not() -> None:
    """The reason for it: two tensors of very unlike updates, the mean of many clients with the same u."""
    u = np.concatenate([normal(2000, 1, 0.5), normal(2000, 2, 0.001)])
    clients = range(200)

    def error(c: Codec) -> list[float]:
        total = np.zeros(u.size)
        for k in clients:
            keys = EncodeKeys(k, k + 1000, (2000, 2000))
            total += c.decode(c.encode(u, keys), u.size, k)
        off = 2 * total / len(clients) - u  # half of the elements are frozen for a client
        return [float((off[part] ** 2).mean() / (u[part] ** 2).mean()) for part in (slice(0, 2000), slice(2000, 4000))]

    own = error(codec())
    assert max(own) < 0.25  # what is beyond the noise, mostly
    for scale in (2.0, 0.004):
        assert max(error(MaskedNoise(NoiseSpec(Law.UNIFORM, scale), MaskType.BINARY))) > 3 * max(own)


@each_mask
def test_extremes(mask: MaskType) -> None:
    mine = codec(mask)
    zeros = mine.encode(np.zeros(9, np.float32), KEYS)
    assert np.abs(mine.decode(zeros, 9, KEYS.noise)).max() <= 2.0**-80
    for u in (np.full(3, 3e38, np.float32), np.array([1e-45, 0, 3e38], np.float32)):
        assert oracle.scales(mine.encode(u, KEYS)) == [(3, 2.0**80)]
    assert oracle.scales(mine.encode(np.full(3, 1e-45, np.float32), KEYS)) == [(3, 2.0**-80)]
    assert mine.decode(mine.encode(np.empty(0, np.float32), KEYS), 0, KEYS.noise).size == 0


BAD = {
    "zero": (table((9, 0.0)) + b"\0\0", MalformedFrameError),
    "not a power of two": (table((9, 0.75)) + b"\0\0", MalformedFrameError),
    "a power of two and a bit": (table((9, 1.0000001)) + b"\0\0", MalformedFrameError),
    "too small": (table((9, 2.0**-81)) + b"\0\0", MalformedFrameError),
    "subnormal": (table((9, 2.0**-140)) + b"\0\0", MalformedFrameError),
    "above the limit": (table((9, 2.0**17)) + b"\0\0", BoundError),
    "negative": (table((9, -1.0)) + b"\0\0", BoundError),
    "nan": (table((9, math.nan)) + b"\0\0", NonFiniteError),
    "infinite": (table((9, math.inf)) + b"\0\0", NonFiniteError),
    "sizes that do not add up": (table((8, 1.0)) + b"\0\0", MalformedFrameError),
    "an empty tensor": (table((0, 1.0), (9, 1.0)) + b"\0\0", MalformedFrameError),
    "a short mask": (table((9, 1.0)) + b"\0", MalformedFrameError),
    "a long mask": (table((9, 1.0)) + b"\0\0\0", MalformedFrameError),
    "a set unused bit": (table((9, 1.0)) + b"\0\2", PaddingError),
    "more rows than bytes": (struct.pack("<I", 1 << 31) + b"\0\0", MalformedFrameError),
    "nothing": (b"", MalformedFrameError),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    body, error = BAD[name]
    with pytest.raises(FrameError) as caught:
        codec().open(body, 9, 1, 65536.0)
    assert type(caught.value) is error


def test_the_limit_is_on_values() -> None:
    """Gaussian noise of scale 2^14 goes up to 2^15.9, of scale 2^15 beyond 2^16."""
    mine = codec(law=Law.GAUSSIAN)
    mine.open(table((9, 2.0**14)) + b"\0\0", 9, 1, 65536.0)
    with pytest.raises(BoundError, match="32768"):
        mine.open(table((9, 2.0**15)) + b"\0\0", 9, 1, 65536.0)
    codec().open(table((9, 2.0**16)) + b"\0\0", 9, 1, 65536.0)


def test_parameters() -> None:
    inner = codec().masked
    for mine in (inner, CodedMask(inner, 5), InterleavedMask(inner, 5), RandomCode(inner, 3, 10, 1.5)):
        params = OwnScale(mine).params()
        assert params == bytes([mine.id]) + mine.params()
        assert codec_from(12, params) == OwnScale(mine)
    other = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.5), MaskType.BINARY)
    with pytest.raises(ConfigError, match=r"scale 1 otherwise, got 0\.5"):
        OwnScale(other)
    for wrong in (b"", b"\0", b"\1" + other.params(), b"\x0c" + codec().params(), bytes([Raw.id]), b"\1\0"):
        with pytest.raises(MalformedFrameError):
            codec_from(12, wrong)


def test_another_mask_below() -> None:
    inner = codec().masked
    nearer = replace(inner, stochastic=False)
    assert codec().over(nearer) == OwnScale(nearer)
    assert OwnScale(CodedMask(inner, 5)).over(nearer) == OwnScale(CodedMask(nearer, 5))


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if "scale" in m.options])
def test_the_word_auto(name: str) -> None:
    fixed, own = (method(name).scheme(o).codecs[Group.CODED] for o in ({"scale": 1.0}, {"scale": "auto"}))
    assert isinstance(own, OwnScale)
    assert own.inner == fixed
    assert method(name).resolve({"scale": "auto"})["scale"] == "auto"
    if "coding" in method(name).options:
        coded = method(name).scheme({"scale": "auto", "coding": "entropy", "noise": "bernoulli"}).codecs[Group.CODED]
        assert isinstance(coded, OwnScale)
        assert isinstance(coded.inner, InterleavedMask)
        assert coded.masked.noise.law is Law.BERNOULLI


def test_what_auto_does_not_go_with() -> None:
    scheme = method("fedmrn").scheme()
    with pytest.raises(ConfigError, match=r"own-scale lets each client choose the scale of a noise that all share"):
        replace(scheme, shared_key=True)
    with pytest.raises(ConfigError, match="scale"):
        method("fedmrn").resolve({"scale": "automatic"})


@pytest.mark.parametrize("coding", ["raw", "entropy"])
def test_a_round(coding: str) -> None:
    """The state moves by the weighted mean of what is decoded; the server tells density and scales."""
    scheme = method("fedmrn").scheme({"scale": "auto", "coding": coding})
    state = normal(LAYOUT.size, 5)
    server = Server(LAYOUT, scheme, state, bytes(16), run=bytes(16))
    assert server.carried.moments.size == 0
    round_ = server.begin(1, range(3))
    total, weights, scales, ones, dense = np.zeros(709), 0, [], np.zeros(2), []
    for client, spread in enumerate((0.01, 0.02, 0.03)):
        u = normal(LAYOUT.size, client, spread)
        asked = Frame.from_bytes(round_.broadcast(client))
        frame = encode_update(asked, LAYOUT, u, weight=client + 1, sampling_key=client)
        section = next(s for s in frame.sections if s.group is Group.CODED)
        mine = codec_from(section.codec, section.params)
        values = mine.decode(section.body, section.count, asked.noise_key)
        total += (client + 1) * values.astype(np.float64)
        dense.append(u[709:].astype(np.float64))
        weights += client + 1
        scales.append([s for _, s in oracle.scales(bytes(section.body))])
        ones += [np.count_nonzero(values[:700]), np.count_nonzero(values[700:])]
        round_.add(client, frame.to_bytes())
    after = round_.finish()
    # No scale is more than twice the median, so that only dense values are clipped.
    mean = np.concatenate([total, np.array([1, 2, 3]) @ clipped(np.array(dense))]) / weights
    assert np.abs(after - (state + mean)).max() < 1e-7  # a float32 of about 0.1
    assert list(server.observed) == ["density", "noise_scale"], "the order in a round's record"
    density, noise_scale = server.observed.values()
    assert noise_scale.keys() == density.keys() == {"a", "b"}
    means = np.exp2(np.log2(scales).mean(axis=0))
    assert list(noise_scale.values()) == pytest.approx(means.tolist())
    assert list(density.values()) == pytest.approx((ones / 3 / [700, 9]).tolist())


def test_methods_without_it_tell_no_scales() -> None:
    server = Server(LAYOUT, method("fedmrn").scheme({"scale": 0.01}), normal(LAYOUT.size, 5), bytes(16), run=bytes(16))
    round_ = server.begin(1, [0])
    frame = encode_update(
        Frame.from_bytes(round_.broadcast(0)), LAYOUT, normal(LAYOUT.size, 1), weight=1, sampling_key=1
    )
    round_.add(0, frame.to_bytes())
    round_.finish()
    assert list(server.observed) == ["density"]


def test_partial_sums_add_up() -> None:
    scheme = method("fedmrn").scheme({"scale": "auto"})
    server = Server(LAYOUT, scheme, normal(LAYOUT.size, 5), bytes(16), run=bytes(16))
    together, halves = server.begin(1, range(2)), [server.begin(1, range(2)) for _ in range(2)]
    for client in range(2):
        asked = Frame.from_bytes(together.broadcast(client))
        u = normal(LAYOUT.size, client, 0.01 * 8**client)
        data = encode_update(asked, LAYOUT, u, weight=1, sampling_key=client).to_bytes()
        together.add(client, data)
        halves[client].add(client, data)
    halves[0].aggregator.merge(halves[1].aggregator)
    assert halves[0].aggregator.observed() == together.aggregator.observed() != {}


def test_a_table_cut_otherwise_is_taken_at_its_word() -> None:
    """A client may cut its table otherwise than at tensors; what the server tells is the scale of a first element."""
    sizes, scales = [5, 600, 104], [1.0, 0.5, 0.25]
    mask = np.packbits(np.arange(709) % 3 == 0, bitorder="little").tobytes()
    opened = codec().open(table(*zip(sizes, scales, strict=True)) + mask, 709, 1, 65536.0)
    out, unit = np.empty(709, np.float32), codec().masked.noise.chunk(1, 0, 709)
    opened.read(0, out)
    expected = np.where(np.arange(709) % 3 == 0, unit * np.repeat(scales, sizes), 0)
    assert np.array_equal(out, expected.astype(np.float32))
    starts = [slice(i, i + 1) for i in (0, 4, 5, 700)]
    assert opened.observed(starts)[NOISE_SCALE] == [0, 0, -1, -2], "exponents of 1, 1, 1/2 and 1/4"


def test_draws_are_the_clients_own() -> None:
    u = normal(1000, 3)
    one, two = (codec().encode(u, EncodeKeys(1, sampling)) for sampling in (1, 2))
    assert one[:16] == two[:16]
    assert one != two


@pytest.mark.parametrize("inner", ["plain", "coded"])
def test_what_inspect_says(inner: str) -> None:
    mine = codec() if inner == "plain" else OwnScale(CodedMask(codec().masked))
    u = np.concatenate([normal(700, 1, 0.5), normal(9, 2, 1e-6)])
    body = mine.encode(u, replace(KEYS, sizes=SIZES))
    section = Section(mine.id, Role.UPDATE, Group.CODED, 709, mine.params(), body)
    frame = Frame(Kind.UPDATE, 2, 1, KEYS.noise, bytes(16), 1, (section,))
    text = StringIO()
    show_frame(Console(file=text, width=200), frame, len(frame.to_bytes()))
    scales = [s for _, s in oracle.scales(body)]
    ones = np.count_nonzero(mine.decode(body, 709, KEYS.noise)) / 709
    said = f"binary, uniform {min(scales):.6g} to {max(scales):.6g}; {ones:.1%} ones"
    assert said in text.getvalue()
