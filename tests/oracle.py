"""A second implementation, slow and plain: written from docs/wire-format.md, importing nothing of the library.

Random words are Python integers, frames are cut with `struct`, and a float32 is rounded by packing it. Each product
below is of two float32 numbers, exact in a double, so that packing rounds it once.
"""

import struct
import zlib
from functools import cache
from hashlib import blake2b
from math import e, prod, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

MASK32 = 0xFFFFFFFF
HEADER = "<4sBBHQIIQ16sQ"
SECTION = "<BBBBQQ"
HEADER_SIZE, SECTION_SIZE, CHECKSUM_SIZE = 56, 20, 4
UNIFORM, GAUSSIAN, BERNOULLI = 0, 1, 2
NOISE_DOMAIN = 1 << 32
FINAL_MASK_DOMAIN = 3 << 32
FROZEN_DOMAIN = 9 << 32
TABLE_FILE = Path(__file__).parents[1] / "src" / "fedmrn" / "gaussian.bin"


def float32(value: float) -> float:
    """Round a double to the nearest float32, ties to even."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


# --- random words ---------------------------------------------------------------------------------------------------


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 as published: ten rounds, the key bumped between them."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for round_ in range(10):
        if round_:
            k0, k1 = (k0 + 0x9E3779B9) & MASK32, (k1 + 0xBB67AE85) & MASK32
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (b >> 32) ^ c1 ^ k0, b & MASK32, (a >> 32) ^ c3 ^ k1, a & MASK32
    return c0, c1, c2, c3


def word(key: int, domain: int, i: int) -> int:
    """Element i of a stream: blocks of 1,024 elements, four planes of 256."""
    block, within = divmod(i, 1024)
    plane, j = divmod(within, 256)
    n = block * 256 + j
    counter = (n & MASK32, n >> 32, domain & MASK32, domain >> 32)
    return philox(counter, (key & MASK32, key >> 32))[plane]


def uniform(key: int, domain: int, i: int) -> float:
    """Element i of a stream as a multiple of 2^-24 in [0, 1)."""
    return (word(key, domain, i) >> 8) * 2.0**-24


def derived_key(secret: bytes, *labels: int | str) -> int:
    """Keyed BLAKE2b of labelled, length-prefixed texts."""
    message = b""
    for label in labels:
        text = str(label).encode()
        message += (b"i" if isinstance(label, int) else b"s") + struct.pack("<I", len(text)) + text
    return int.from_bytes(blake2b(message, key=secret, digest_size=8, person=b"fedmrn-key").digest(), "little")


# --- noise ----------------------------------------------------------------------------------------------------------


@cache
def table() -> tuple[float, ...]:
    """The 4,096 quantiles that ship with the library."""
    return struct.unpack("<4096f", TABLE_FILE.read_bytes())


def recomputed_table() -> list[float]:
    """The same quantiles from the standard library's normal distribution."""
    normal = NormalDist()
    return [float32(normal.inv_cdf(0.5 + (i + 0.5) / 8192)) for i in range(4096)]


def noise(law: int, scale: float, key: int, i: int) -> float:
    """Element i of the noise of a key."""
    w, scale = word(key, NOISE_DOMAIN, i), float32(scale)
    if law == UNIFORM:
        return float32((2 * (w >> 8) + 1 - (1 << 24)) * float32(scale * 2.0**-24))
    if law == GAUSSIAN:
        size = float32(table()[w >> 20] * scale)
        return -size if (w >> 19) & 1 else size
    return -scale if w >> 31 else scale


def frozen(seed: int, tensors: list[tuple[str, tuple[int, ...], int]]) -> list[float]:
    """The weights of the coded tensors that the masks of codec 7 belong to."""
    values: list[float] = []
    for _, shape, group in tensors:
        size = prod(shape)
        if group == 0 and size:
            scale = float32(e / sqrt(size // shape[0] if len(shape) > 1 else size))
            signs = [word(seed, FROZEN_DOMAIN, len(values) + i) >> 31 for i in range(size)]
            values += [-scale if sign else scale for sign in signs]
    return values


# --- frames ---------------------------------------------------------------------------------------------------------


def crc32(data: bytes) -> int:
    """CRC-32/ISO-HDLC, one bit at a time."""
    c = MASK32
    for byte in data:
        c ^= byte
        for _ in range(8):
            c = (c >> 1) ^ (0xEDB88320 if c & 1 else 0)
    return c ^ MASK32


def layout_digest(tensors: list[tuple[str, tuple[int, ...], int]]) -> bytes:
    """BLAKE2b-128 over (name, shape, group) of each tensor in flat order."""
    message = b""
    for name, shape, group in tensors:
        text = name.encode()
        message += struct.pack("<I", len(text)) + text + bytes((group, len(shape)))
        message += b"".join(struct.pack("<Q", n) for n in shape)
    return blake2b(message, digest_size=16, person=b"fedmrn-layout").digest()


def read_frame(data: bytes, states: dict[int, list[float]] | None = None) -> dict[str, Any]:
    """Cut a valid frame into its fields; sections are decoded where they have a body.

    `states` is the broadcast's state of each group, which codec 8 needs.
    """
    names = ("magic", "version", "kind", "method", "total", "round", "count", "noise_key", "layout", "weight")
    frame: dict[str, Any] = dict(zip(names, struct.unpack_from(HEADER, data), strict=True))
    assert frame["magic"] == b"FMRN"
    assert frame["version"] == 1
    assert frame["total"] == len(data)
    assert crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0]
    at, frame["sections"] = HEADER_SIZE, []
    for _ in range(frame["count"]):
        codec, role, group, n_params, count, n_body = struct.unpack_from(SECTION, data, at)
        at += SECTION_SIZE
        params, body = data[at : at + n_params], data[at + n_params : at + n_params + n_body]
        at += n_params + n_body
        section = {"codec": codec, "role": role, "group": group, "elements": count, "params": params, "body": body}
        if role != 2:
            section["state"] = (states or {}).get(group, [])
            section["values"] = decode(codec, params, count, body, frame["noise_key"], section["state"])
        if role == 0 and codec == 2:
            section["scales"] = scales(body)
        frame["sections"].append(section)
    assert at == len(data) - CHECKSUM_SIZE
    return frame


def scales(body: bytes) -> list[tuple[int, float]]:
    """The table of scales at the start of a body of codec 2: (size, scale) of each run."""
    (runs,) = struct.unpack_from("<I", body)
    return [struct.unpack_from("<Qf", body, 4 + 12 * k) for k in range(runs)]


def unpacked(body: bytes, count: int) -> list[int]:
    """The bits of a mask."""
    assert len(body) == (count + 7) // 8
    assert int.from_bytes(body, "little") >> count == 0
    return [body[i // 8] >> (i % 8) & 1 for i in range(count)]


def packed(bits: list[bool]) -> bytes:
    """The mask with these bits."""
    return sum(bit << i for i, bit in enumerate(bits)).to_bytes((len(bits) + 7) // 8, "little")


def decode(codec: int, params: bytes, count: int, body: bytes, key: int, state: list[float]) -> list[float]:
    """The values of one section's body."""
    if codec == 0:
        assert params == b""
        return list(struct.unpack(f"<{count}f", body))
    if codec == 1:
        law, signed, scale = struct.unpack("<BBf", params)
        ns = [noise(law, scale, key, i) for i in range(count)]
        return [n if bit else -n if signed else 0.0 for n, bit in zip(ns, unpacked(body, count), strict=True)]
    if codec == 2:
        assert params in (b"\0", b"\1", b"\2")
        runs = scales(body)
        each = [scale for size, scale in runs for _ in range(size)]
        return [s if bit else -s for s, bit in zip(each, unpacked(body[4 + 12 * len(runs) :], count), strict=True)]
    if codec == 7:
        assert len(params) == 8
        return [float(bit) for bit in unpacked(body, count)]
    assert (codec, params, len(state)) == (8, b"", count)
    values = iter(struct.unpack(f"<{sum(s != 0 for s in state)}f", body))
    return [next(values) if s != 0 else 0.0 for s in state]


def encode(section: dict[str, Any], key: int) -> bytes:
    """The only body that decodes to the section's values (with its scales, or for its state)."""
    codec, params, values = section["codec"], section["params"], section["values"]
    if codec == 0:
        return struct.pack(f"<{len(values)}f", *values)
    if codec == 1:
        law, _, scale = struct.unpack("<BBf", params)
        return packed([v == noise(law, scale, key, i) for i, v in enumerate(values)])
    if codec == 2:
        rows = [struct.pack("<Qf", *row) for row in section["scales"]]
        return struct.pack("<I", len(rows)) + b"".join(rows) + packed([v > 0 for v in values])
    if codec == 7:
        return packed([v == 1 for v in values])
    kept = [v for v, s in zip(values, section["state"], strict=True) if s != 0]
    return struct.pack(f"<{len(kept)}f", *kept)


def write_frame(frame: dict[str, Any]) -> bytes:
    """The bytes of a frame as `read_frame` returns it, its bodies encoded anew from the values."""
    parts = b""
    for s in frame["sections"]:
        body = encode(s, frame["noise_key"]) if "values" in s else b""
        fields = (s["codec"], s["role"], s["group"], len(s["params"]), s["elements"], len(body))
        parts += struct.pack(SECTION, *fields) + s["params"] + body
    data = struct.pack(
        HEADER,
        b"FMRN",
        1,
        frame["kind"],
        frame["method"],
        HEADER_SIZE + len(parts) + CHECKSUM_SIZE,
        frame["round"],
        len(frame["sections"]),
        frame["noise_key"],
        frame["layout"],
        frame["weight"],
    )
    return data + parts + struct.pack("<I", crc32(data + parts))


def reseal(data: bytes, *, total: bool = False) -> bytes:
    """A damaged frame with the right checksum again and, if asked for, the right total length."""
    body = bytearray(data[:-CHECKSUM_SIZE])
    if total:
        struct.pack_into("<Q", body, 8, len(data))
    return bytes(body) + struct.pack("<I", zlib.crc32(body))
