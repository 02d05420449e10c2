"""Frames of more than 4 GiB, whose bodies are zeros that take no memory: written, read, and refused by default."""

import struct
import sys
import zlib

import numpy as np
import pytest
from sparse_memory import zeros

from fedmrn.codecs import EncodeKeys, InterleavedMask, MaskedNoise, codec_from
from fedmrn.codecs.base import CHUNK
from fedmrn.codecs.mask import shorter_mask
from fedmrn.errors import EncodeError, LimitError, MalformedFrameError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.wire.frame import CHECKSUM_SIZE, HEADER_SIZE, SECTION_SIZE, Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec

COUNT = (1 << 30) + 1000
"""Elements of float32: 4,000 bytes more than 4 GiB."""
LAYOUT = Layout.of([TensorSpec("w", (COUNT,), Group.CODED)])


def checksum(parts: list[bytes | memoryview]) -> int:
    """The slow way, a megabyte at a time."""
    crc = 0
    for part in parts:
        for at in range(0, len(part), 1 << 20):
            crc = zlib.crc32(part[at : at + (1 << 20)], crc)
    return crc


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory that is not there is asked for in Linux's way")
def test_a_frame_of_more_than_4_gigabytes() -> None:
    at = HEADER_SIZE + SECTION_SIZE
    size = at + 4 * COUNT + CHECKSUM_SIZE
    data = zeros(size)
    data[-8:-4] = np.frombuffer(struct.pack("<f", 1.5), np.uint8)  # the last element
    section = Section(0, Role.STATE, Group.CODED, COUNT, b"", data[at:-CHECKSUM_SIZE].data)
    head, section_head, params, body, crc = Frame(Kind.MODEL, 1, 7, 5, LAYOUT.digest, 0, (section,)).parts()
    assert size > 1 << 32
    assert struct.unpack_from("<Q", head, 8)[0] == size
    assert struct.unpack_from("<QQ", section_head, 4) == (COUNT, 4 * COUNT)
    assert struct.unpack("<I", crc)[0] == checksum([head, section_head, params, body])
    data[:at] = np.frombuffer(bytes(head) + bytes(section_head), np.uint8)
    data[-CHECKSUM_SIZE:] = np.frombuffer(crc, np.uint8)
    with pytest.raises(LimitError, match=rf"declares {size} bytes; .* limits=Limits\(max_bytes=\.\.\.\)"):
        Frame.from_bytes(data.data)
    with pytest.raises(LimitError):
        Frame.from_bytes(data.data, limits=Limits(max_bytes=size - 1))
    frame = Frame.from_bytes(data.data, kind=Kind.MODEL, limits=Limits(max_bytes=size))
    assert frame.account()["coded"] == 4 * COUNT
    (found,) = frame.sections
    assert (found.count, len(found.body)) == (COUNT, 4 * COUNT)
    opened = codec_from(found.codec, found.params).open(found.body[-4 * CHUNK :], CHUNK, 0, 2.0)
    last = np.empty(CHUNK, np.float32)
    opened.read(0, last)
    assert last[-1] == 1.5


def test_contexts_that_32_bits_do_not_tell_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = InterleavedMask(MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY), 16)
    u = np.zeros(4096, np.float32)
    u[:8] = 0.01
    keys = EncodeKeys(1, 2, (2048, 2048))
    body = codec.encode(u, keys)
    monkeypatch.setattr(shorter_mask, "MOST_CONTEXTS", 31)
    with pytest.raises(EncodeError, match="2 tensors have 32 contexts"):
        codec.encode(u, keys)
    with pytest.raises(MalformedFrameError, match="2 tensors have 32 contexts"):
        codec.open(body, u.size, 1, 1.0)
