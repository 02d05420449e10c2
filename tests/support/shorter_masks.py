"""What the tests of codecs share that send a mask in fewer bytes."""

import struct

import numpy as np
import pytest
from numpy.typing import NDArray

from allocated import allocated
from fedmrn.codecs import EncodeKeys, ShorterMask
from fedmrn.errors import MalformedFrameError, PaddingError
from fedmrn.numerics.bits import pack_bits
from fedmrn.numerics.masking import MaskType

Bits = NDArray[np.bool_]
KEY = 0xFEDCBA9876543210


def random_bits(count: int, density: float, seed: int = 0) -> Bits:
    return np.random.Generator(np.random.Philox(seed)).random(count) < density


def coded(codec: ShorterMask, bits: Bits, sizes: tuple[int, ...], key: int = KEY) -> bytes:
    """The coded body of a mask, whether it is the shorter one or not."""
    return codec.coded(pack_bits(bits), np.zeros(bits.size, np.float32), EncodeKeys(key, 1, sizes))


def bits_of(codec: ShorterMask, body: bytes, count: int, key: int = KEY) -> Bits:
    return codec.decode(body, count, key) == codec.inner.noise.chunk(key, 0, count)


def head(*sizes: int) -> bytes:
    return struct.pack(f"<BI{len(sizes)}Q", 1, len(sizes), *sizes)


def check_masks_are_those_of_masked_noise(codec: ShorterMask) -> None:
    """What is coded without loss is the mask that the inner codec draws; it is sent as it is where that is shorter."""
    keys, n = EncodeKeys(KEY, 7, (20_000, 30_000)), codec.inner.noise.chunk(KEY, 0, 50_000)
    for share in (0.05, 0.5, 1.5):  # signed: of the way from -n to n
        u = (n * np.float32(share if codec.inner.mask is MaskType.BINARY else 2 * share - 1)).astype(np.float32)
        body, raw = codec.encode(u, keys), codec.inner.encode(u, keys)
        assert (body[0] == 1) is (len(body) < 1 + len(raw))
        assert (body[0] == 1) or body == b"\0" + raw
        assert share == 0.5 or body[0] == 1
        assert codec.decode(body, u.size, KEY).tobytes() == codec.inner.decode(raw, u.size, KEY).tobytes()


def check_refused_without_memory(codec: ShorterMask, body: bytes, count: int, message: str, key: int = KEY) -> None:
    def refused() -> None:
        with pytest.raises(MalformedFrameError, match=message):
            codec.open(body, count, key, 1.0)

    assert allocated(refused) < 64 << 10


def check_plain_bodies(codec: ShorterMask) -> None:
    """A mask that is not coded is checked as one."""
    assert bits_of(codec, b"\0\xff\x01", 9).tolist() == [True] * 9
    for body, error in ((b"\0", MalformedFrameError), (b"\0\xff", MalformedFrameError), (b"\0\xff\x03", PaddingError)):
        with pytest.raises(error):
            codec.open(body, 9, KEY, 1.0)
