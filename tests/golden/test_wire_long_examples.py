"""docs/wire-format.md, section 9.21: bodies by formulas, read and written by the library and the independent reader."""

import re
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import oracle
from fedmrn.codecs import CHUNK, CodedMask, EncodeKeys, Levels, Rotated, codec_from
from fedmrn.codecs.mask.contexts import Contexts
from fedmrn.numerics.bits import pack_bits

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")
SECTION = DOCUMENT.split("### 9.21 Long vectors\n")[1]
KEY = int(re.search(r"The noise key is 0x([0-9a-f]{16}) throughout", SECTION)[1], 16)
ROWS = re.findall(
    r"^\| ([A-F]) \| (\d+) \| `([0-9a-f]+)` \| ([\d,]+) \| ([\d,]+) \| `(\w+)` \| `(\w+)` \|$", SECTION, re.M
)
SIZES = [16_000, 4_000]


def octets(count: int) -> bytes:
    return bytes((167 * j + 13) % 256 for j in range(count))


def levels(params: bytes, count: int) -> bytes:
    norms = [(k + 1) * 2.0**-5 for k in range(-(-count // 128))]
    return oracle.encode_levels(params, norms, [5 * i % 15 for i in range(count)])


def rotated(params: bytes, count: int) -> bytes:
    bits, _, keep = struct.unpack("<BBf", params)
    kept = sum(keep == 1 or oracle.word(KEY, oracle.QUANTISE_DOMAIN, i) < keep * 2**32 for i in range(count))
    sizes = oracle.blocks_of(kept)
    scales = [2.0 ** -(k + 1) for k in range(len(sizes))]
    dense = [(k - 58) * 2.0**-10 for k in range(kept - sum(sizes))]
    packed = octets(sum(sizes) * bits // 8)
    return struct.pack(f"<{len(scales)}f", *scales) + packed + struct.pack(f"<{len(dense)}f", *dense)


def wanted_bits(count: int) -> list[int]:
    return [int(37 * i % 101 < 20) for i in range(count)]


def coded(params: bytes, count: int) -> bytes:
    bits, where = wanted_bits(count), oracle.contexts(params, KEY, SIZES)
    frequencies = []
    for context in range(max(where) + 1):
        chosen = [bit for bit, at in zip(bits, where, strict=True) if at == context]
        frequencies.append(min(255, max(1, round(256 * sum(chosen) / len(chosen)))))
    return oracle.encode_mask(params, SIZES, frequencies, bits, KEY)


def random_code(params: bytes, count: int) -> bytes:
    where = oracle.contexts(params, KEY, SIZES)
    used = sum(oracle.reads_path_bit([100] * count))
    assert f"a path of {used:,} bits p_0, p_1" in SECTION
    path = oracle.packed([bool(octet >> j & 1) for octet in octets((used + 7) // 8) for j in range(8)][:used])
    head = struct.pack("<BI2Q", 1, 2, *SIZES)
    return head + bytes([64] * (max(where) + 1)) + bytes([100] * (max(where) + 1)) + path


BODIES: dict[str, Callable[[bytes, int], bytes]] = {
    "A": lambda params, count: octets(count // 8),
    "B": levels,
    "C": rotated,
    "D": rotated,
    "E": coded,
    "F": random_code,
}


def test_the_table_has_its_rows() -> None:
    assert [row[0] for row in ROWS] == list(BODIES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_long_bodies_decode_to_what_the_document_says(row: tuple[str, ...]) -> None:
    name, number, params, elements, length, digest, digest_of_values = row
    codec, count = codec_from(int(number), bytes.fromhex(params)), int(elements.replace(",", ""))
    body = BODIES[name](codec.params(), count)
    assert len(body) == int(length.replace(",", ""))
    assert sha256(body).hexdigest() == digest
    values = codec.decode(body, count, KEY)
    assert sha256(values.astype("<f4").tobytes()).hexdigest() == digest_of_values
    assert np.array(oracle.decode(codec.id, codec.params(), count, body, KEY, []), "<f4").tobytes() == values.tobytes()


def test_the_library_writes_the_coded_mask() -> None:
    (row,) = (row for row in ROWS if row[0] == "E")
    codec = codec_from(9, bytes.fromhex(row[2]))
    assert isinstance(codec, CodedMask)
    count = sum(SIZES)
    mask = pack_bits(np.array(wanted_bits(count), np.bool_))
    contexts = Contexts.of(codec.inner.noise, KEY, np.array(SIZES, np.int64), codec.buckets)
    written = codec.coded(mask, np.zeros(count, np.float32), EncodeKeys(KEY, 1, tuple(SIZES)))
    assert contexts.count > 2
    assert sha256(written).hexdigest() == row[5]


def test_the_rows_go_beyond_every_block() -> None:
    counts = {row[0]: int(row[3].replace(",", "")) for row in ROWS}
    kinds = {row[0]: codec_from(int(row[1]), bytes.fromhex(row[2])) for row in ROWS}
    assert counts["A"] > 1 << 16
    assert isinstance(kinds["B"], Levels)
    assert isinstance(kinds["C"], Rotated)
    assert len(set(oracle.blocks_of(counts["C"]))) == 3
    assert max(oracle.blocks_of(counts["C"])) == 1 << 16
    assert min(counts["E"], counts["F"]) > CHUNK  # a second block of a random code
