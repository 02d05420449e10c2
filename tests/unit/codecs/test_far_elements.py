"""Elements beyond 2^31 and 2^32 are those that the definitions name, without all the elements before them.

Masks of such a length are an anonymous mapping of which only the last pages are written: they take no memory.
"""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from sparse_memory import zeros

import oracle
from fedmrn.codecs import MaskedNoise
from fedmrn.codecs.base import CHUNK, Opened, Plane
from fedmrn.codecs.bernoulli import OpenedBits
from fedmrn.codecs.floats import OpenedFloats, open_floats
from fedmrn.codecs.levels import Levels
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.codecs.mask.masked_noise import OpenedMask
from fedmrn.codecs.scales import TensorScales
from fedmrn.codecs.sign import SignPlane
from fedmrn.codecs.sparse import Sparse
from fedmrn.errors import MalformedFrameError
from fedmrn.numerics import rotation
from fedmrn.numerics.bits import count_ones, packed_size, unpack_trits
from fedmrn.numerics.masking import MaskType, draw_mask, progressive_weights
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, domain

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory that is not there is asked for in Linux's way")

KEY = 0xC0FFEE1234567890
COUNT = 40
FAR = [(1 << 31) - 8, (1 << 32) - 8, (1 << 33) + 1016, (1 << 34) - 8]
"""Where elements, counters (a fourth of them), and 32-bit halves of either wrap."""
CHUNKS = [(1 << 31) - CHUNK, 1 << 31, (1 << 32) - CHUNK, 1 << 32]


def bits_at(start: int, count: int = CHUNK) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A mask that is random in `count` elements from `start` on, and these."""
    found = np.random.default_rng(start).random(count) < 0.5
    packed = zeros(packed_size(start + count))
    packed[start >> 3 :] = np.packbits(found, bitorder="little")
    return packed, found


@pytest.mark.parametrize("start", FAR)
def test_words(start: int) -> None:
    dom = domain(Purpose.NOISE)
    assert Stream(KEY, dom).words(start, start + COUNT).tolist() == [
        oracle.word(KEY, dom, start + i) for i in range(COUNT)
    ]


@pytest.mark.parametrize("start", FAR)
@pytest.mark.parametrize("law", Law)
def test_noise(law: Law, start: int) -> None:
    expected = [oracle.noise(law, 0.01, KEY, start + i) for i in range(COUNT)]
    assert NoiseSpec(law, 0.01).chunk(KEY, start, start + COUNT).tolist() == expected


@pytest.mark.parametrize("start", FAR)
def test_signs_of_a_rotation(start: int) -> None:
    x, dom = np.ones(COUNT, np.float32), domain(Purpose.ROTATION)
    rotation.random_signs(x, np.uint64(KEY), start)
    assert x.tolist() == [1.0 - 2 * (oracle.word(KEY, dom, start + i) >> 31) for i in range(COUNT)]


@pytest.mark.parametrize("start", FAR)
def test_masks_that_are_drawn(start: int) -> None:
    u, noise, dom = np.full(COUNT, 0.005, np.float32), np.full(COUNT, 0.01, np.float32), domain(Purpose.FINAL_MASK)
    found = draw_mask(u, noise, Stream(KEY, dom), start, MaskType.BINARY)
    assert found.tolist() == [oracle.uniform(KEY, dom, start + i) < 0.5 for i in range(COUNT)]


@pytest.mark.parametrize("start", FAR)
def test_progressive_masks(start: int) -> None:
    """u is half the noise and q is 1: each element is the noise or zero, by its own draw."""
    u, noise, dom = np.full(COUNT, 0.5, np.float32), np.ones(COUNT, np.float32), domain(Purpose.TRAIN_MASK)
    out = np.empty(COUNT, np.float32)
    progressive_weights(u, noise, np.zeros(COUNT, np.float32), 1.0, Stream(KEY, dom), MaskType.BINARY, out, start=start)
    assert out.tolist() == [float(oracle.uniform(KEY, dom, start + i) < 0.5) for i in range(COUNT)]


@pytest.mark.parametrize("start", CHUNKS)
@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("mask", MaskType)
def test_a_mask_is_read_and_folded(law: Law, mask: MaskType, start: int) -> None:
    packed, bits = bits_at(start)
    opened = OpenedMask(MaskedNoise(NoiseSpec(law, 0.01), mask), KEY, packed)
    out, total = np.empty(CHUNK, np.float32), np.zeros(CHUNK, np.int64)
    opened.read(start, out)
    lower = -1.0 if mask is MaskType.SIGNED else 0.0
    some = [0, 1, 2, CHUNK // 2, CHUNK - 1]
    expected = [oracle.noise(law, 0.01, KEY, start + i) * (1.0 if bits[i] else lower) for i in some]
    assert out[some].tolist() == expected
    opened.fold(start, 2.0**40, True, total)
    assert total.tolist() == np.rint(out.astype(np.float64) * 2.0**40).astype(np.int64).tolist()


@pytest.mark.parametrize("start", CHUNKS)
def test_ones_are_counted(start: int) -> None:
    packed, bits = bits_at(start)
    assert count_ones(packed, start + 3, start + CHUNK - 5) == int(bits[3:-5].sum())
    assert count_ones(packed, start - 100, start) == 0


@pytest.mark.parametrize("start", CHUNKS)
def test_bits_and_signs(start: int) -> None:
    packed, bits = bits_at(start)
    readers: list[tuple[Opened, NDArray[np.float32]]] = [
        (OpenedBits(packed), bits.astype(np.float32)),
        (SignPlane(packed), np.where(bits, np.float32(1), np.float32(-1))),
    ]
    for opened, expected in readers:
        out = np.empty(CHUNK, np.float32)
        opened.read(start, out)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("start", CHUNKS)
def test_trits(start: int) -> None:
    data = zeros((start + CHUNK) // 5 + 1)
    first = start // 5
    data[first:] = np.random.default_rng(1).integers(0, 243, data.size - first)
    found = unpack_trits(data, start, start + CHUNK)
    for i in (0, 1, 2, 3, 4, 5, CHUNK - 1):
        assert found[i] == int(data[(start + i) // 5]) // 3 ** ((start + i) % 5) % 3


@pytest.mark.parametrize("start", CHUNKS)
def test_scales_of_tensors(start: int) -> None:
    """The last tensor begins in the midst of the chunk."""
    scales = TensorScales(np.array([5, start + 7, start + CHUNK], np.int64), np.array([1, 2, 3], np.float32))
    out = np.empty(CHUNK, np.float32)
    scales.spread(start, out)
    assert out.tolist() == [2.0] * 7 + [3.0] * (CHUNK - 7)
    assert [scales.at(i) for i in (4, start + 6, start + 7)] == [1.0, 2.0, 3.0]
    read, rest = TensorScales.split(scales.to_bytes(), start + CHUNK, 0, 10.0)
    assert read.ends.tolist() == scales.ends.tolist()
    assert not len(rest)


@pytest.mark.parametrize("start", CHUNKS)
def test_contexts_of_tensors(start: int) -> None:
    sizes = np.array([start - 100, 100 + 64, CHUNK - 64], np.int64)
    contexts = Contexts.of(NoiseSpec(Law.UNIFORM, 1.0), KEY, sizes, 4)
    found = contexts.part(start, start + CHUNK)
    for i in (0, 63, 64, CHUNK - 1):
        buckets = 2 if i < 64 else 4
        first = 4 if i < 64 else 6
        noise = abs(oracle.noise(Law.UNIFORM, 1.0, KEY, start + i))
        assert found[i] == first + min(int(np.float32(noise) * np.float32(buckets)), buckets - 1)


@pytest.mark.parametrize("start", CHUNKS)
def test_levels(start: int) -> None:
    """Three bits a symbol, in blocks of another length than the chunk's."""
    codec, count = Levels(3, 5000), start + CHUNK
    first, last = start // 5000, -(-count // 5000)
    symbols = np.random.default_rng(1).integers(0, 7, CHUNK)
    text = int("".join(f"{s:03b}" for s in symbols[::-1]), 2).to_bytes(CHUNK * 3 // 8, "little")
    body = zeros(4 * last + (count * 3 + 7) // 8)
    norms = body[: 4 * last].view(np.float32)
    norms[first:] = np.arange(1, last - first + 1)
    packed = body[4 * last :]
    packed[start * 3 // 8 :] = np.frombuffer(text, np.uint8)
    opened = type(codec.open(b"", 0, KEY, 1e6))(codec, norms, packed)
    out = np.empty(CHUNK, np.float32)
    opened.read(start, out)
    for i in (0, 1, 4999, 5000, CHUNK - 1):
        norm = (start + i) // 5000 - first + 1
        assert out[i] == np.float32((int(symbols[i]) - 3) * norm / 3)


@pytest.mark.parametrize("start", CHUNKS)
def test_places_of_a_sparse_vector(start: int) -> None:
    """2^-20 of the elements are kept; the gaps before the last ones are as long as the vector."""
    codec, count = Sparse(2.0**-20, 32, 30), start + CHUNK
    k = codec.kept(count)
    places = [*range(k - 2), start + 3, count - 1]
    gaps = np.diff(places, prepend=-1) - 1
    bits = "".join("1" * (g >> 30) + "0" + f"{g & (1 << 30) - 1:030b}"[::-1] for g in gaps.tolist())
    code = int(bits[::-1], 2).to_bytes((len(bits) + 7) // 8, "little")
    body = np.arange(1, k + 1, dtype="<f4").tobytes() + code
    opened = codec.open(body, count, KEY, 1e6)
    out, kept = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    opened.read(start, out)
    opened.plane(Plane.KEPT).read(start, kept)
    assert np.flatnonzero(out).tolist() == np.flatnonzero(kept).tolist() == [3, CHUNK - 1]
    assert out[[3, CHUNK - 1]].tolist() == [k - 1, k]


def test_floats_beyond_16_gigabytes() -> None:
    start = 1 << 32
    body = zeros(4 * (start + CHUNK))
    values = np.arange(CHUNK, dtype=np.float32)
    body[4 * start :] = values.view(np.uint8)
    opened = OpenedFloats(body.data, np.dtype("<f4"))
    out = np.empty(CHUNK, np.float32)
    opened.read(start, out)
    assert np.array_equal(out, values)
    with pytest.raises(MalformedFrameError, match="bytes"):
        open_floats(body.data, "<f4", start, 1.0, "raw")


def test_blocks_of_a_rotation_cover_any_count() -> None:
    for count in ((1 << 31) + 12345, (1 << 32) + 65):
        at = 0
        for start, size in rotation.blocks(count):
            assert start == at
            at += size
        assert 0 <= count - at < rotation.SMALLEST
