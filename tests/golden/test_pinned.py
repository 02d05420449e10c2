"""Vectors fixed with version 1 of the format: noise, mask draws, keys, a frame. A change of any is a new version.

The first values are checked against the slow oracle too; the hashes cover what it is too slow for.
"""

from hashlib import sha256

import numpy as np
import pytest

import oracle
from fedmrn.codecs import EncodeKeys, MaskedNoise
from fedmrn.numerics.masking import MaskType, draw_mask, progressive_weights
from fedmrn.numerics.noise import GAUSSIAN_SHA256, Law, NoiseSpec, gaussian_table
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.grid import Points
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.public import PublicModel, public_sections, tag_of

KEY = 0x0123456789ABCDEF
SIZE = 40_000


def _digest(array: np.ndarray) -> str:
    return sha256(array.astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()[:32]


NOISE = {
    Law.UNIFORM: (
        "9857e99cb68c7e372bfd450fbc71aa08",
        ["0x1.9e1eb00000000p-8", "-0x1.43e9520000000p-10", "0x1.09d7c00000000p-7", "0x1.b9380a0000000p-10"],
    ),
    Law.GAUSSIAN: (
        "7c7224b48754628966abc1c845020ee8",
        ["0x1.b360200000000p-7", "-0x1.7c220e0000000p-8", "-0x1.1213aa0000000p-6", "-0x1.0a96de0000000p-7"],
    ),
    Law.BERNOULLI: (
        "fd4642bb777b890e802601fbe4c23a61",
        ["-0x1.47ae140000000p-7", "0x1.47ae140000000p-7", "-0x1.47ae140000000p-7", "-0x1.47ae140000000p-7"],
    ),
}


@pytest.mark.parametrize("law", Law)
def test_noise(law: Law) -> None:
    digest, first = NOISE[law]
    values = NoiseSpec(law, 0.01).chunk(KEY, 0, SIZE)
    assert [v.hex() for v in values[:4].tolist()] == first
    assert [oracle.noise(law, 0.01, KEY, i).hex() for i in range(4)] == first
    assert _digest(values) == digest


def test_gaussian_table_is_the_normal_quantiles() -> None:
    """Within one unit in the last place: the standard library may differ from the exact quantile by a little."""
    ours = gaussian_table()
    theirs = np.array(oracle.recomputed_table(), np.float32)
    assert ours.shape == (4096,)
    assert np.abs(ours.view(np.int32) - theirs.view(np.int32)).max() <= 1
    assert sha256(ours.astype("<f4").tobytes()).hexdigest() == GAUSSIAN_SHA256
    assert (ours > 0).all()
    assert (np.diff(ours) > 0).all()
    assert round(float(np.mean(ours.astype(np.float64) ** 2)), 5) == 0.99984


MASKS = {MaskType.BINARY: "744933133d56a505ddcd68c803cc30e1", MaskType.SIGNED: "fd3ed59605f66c2d7ba376e403edd0ac"}


def _update() -> np.ndarray:
    return Stream(7, 7).uniform(0, SIZE) * np.float32(0.04) - np.float32(0.02)


@pytest.mark.parametrize("mask", MaskType)
def test_mask_draw(mask: MaskType) -> None:
    noise = NoiseSpec(Law.UNIFORM, 0.01).chunk(KEY, 0, SIZE)
    drawn = draw_mask(_update(), noise, Stream(99, domain(Purpose.FINAL_MASK)), 0, mask)
    assert _digest(np.packbits(drawn, bitorder="little")) == MASKS[mask]
    body = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), mask).encode(_update(), EncodeKeys(KEY, 99))
    assert sha256(body).hexdigest()[:32] == MASKS[mask]


PROGRESSIVE = {MaskType.BINARY: "c4e984ddc29b97a970462bf131d6f4fe", MaskType.SIGNED: "8c16ed23f4d2ff894f8a8d2acb9b2e54"}


@pytest.mark.parametrize("mask", MaskType)
def test_progressive_draw(mask: MaskType) -> None:
    noise = NoiseSpec(Law.UNIFORM, 0.01).chunk(KEY, 0, SIZE)
    base, out = Stream(8, 8).uniform(0, SIZE), np.empty(SIZE, np.float32)
    progressive_weights(base + _update(), noise, base, 0.4, Stream(99, domain(Purpose.TRAIN_MASK, 5)), mask, out)
    assert _digest(out) == PROGRESSIVE[mask]


def test_derived_keys() -> None:
    assert derive_key(b"secret of a test", "noise", 1, 0) == 0xBD8BDDFD47A98AB5
    assert derive_key(b"secret of a test", "noise", 1, "0") == 0x2C04A24DF6EC794E
    assert derive_key(2**500 + 1) == 0x69CA437C1B6C8D37
    assert derive_key(0, "x") == 0xEE2A638DAD566079


def test_frame_bytes() -> None:
    layout = Layout.of([TensorSpec("w", (3, 3), Group.CODED), TensorSpec("b", (1,), Group.DENSE)])
    codec = MaskedNoise(NoiseSpec(Law.BERNOULLI, 0.5), MaskType.SIGNED)
    frame = Frame(
        Kind.UPDATE,
        3,
        2,
        KEY,
        layout.digest,
        5,
        (
            Section(1, Role.UPDATE, Group.CODED, 9, codec.params(), b"\x35\x01"),
            Section(0, Role.UPDATE, Group.DENSE, 1, b"", b"\0\0\x80?"),
        ),
    )
    assert frame.to_bytes().hex() == (
        "464d524e0101030070000000000000000200000002000000efcdab8967452301"
        "34a42cfbcd3b7082b5314be7fc6c47e805000000000000000100000609000000"
        "00000000020000000000000002010000003f3501000001000100000000000000"
        "04000000000000000000803f86f033ba"
    )


PUBLIC = {
    "whole": (4499, "305479e48bcbfa417c79d9f44af15e2b", "2e8b8c360ba4d2940a010bd80bbed90b"),
    "difference": (759, "c709f940547fd961845e7f5c0b7ea2c1", "2e8b8c360ba4d2940a010bd80bbed90b"),
}
"""Bytes of the sections of a public model, and digests of these and of its values."""


def _public(number: int) -> PublicModel:
    """The first model, or the second: a tenth of the numbers changed, a few are far, and steps are finer."""
    layout = Layout.of(
        [
            TensorSpec("w", (100, 90), Group.CODED),
            TensorSpec("b", (90,), Group.CODED),
            TensorSpec("n", (90,), Group.DENSE),
            TensorSpec("v", (90,), Group.VARIANCE),
        ]
    )
    before = np.floor(Stream(6, 6).uniform(0, layout.size) * 9).astype(np.int32)
    changes = (Stream(7, 7).uniform(0, layout.size) < 0.1 * number).astype(np.int32)
    changes[::1000] += 100_000 * number
    parts = {}
    for group, exponents in ((Group.CODED, (-9, -11)), (Group.DENSE, (-12,)), (Group.VARIANCE, (17,))):
        finer, where = 0 if group is Group.VARIANCE else number, layout.span(group)
        change = np.minimum(changes[where], 1) if group is Group.VARIANCE else changes[where]
        parts[group] = Points(np.array(exponents, np.int8) - np.int8(finer), (before[where] << finer) + change)
    return PublicModel(layout, number, parts, Stream(5, 5).uniform(0, layout.size))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models(name: str) -> None:
    base, model = _public(0), _public(1)
    sections = public_sections(model, tag_of(b"run"), base if name == "difference" else None)
    data = b"".join(s.params + bytes(s.body) for s in sections)
    found = len(data), sha256(data).hexdigest()[:32], _digest(model.values)
    assert found == PUBLIC[name]
