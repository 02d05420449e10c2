"""A second implementation, slow and plain: written from docs/wire-format.md, importing nothing of the library.

Random words are Python integers, frames are cut with `struct`, and a float32 is rounded by packing it. Each product
below is of two float32 numbers, exact in a double, so that packing rounds it once.
"""

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from hashlib import blake2b
from itertools import product
from math import e, exp, frexp, log, prod, sqrt
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
ROTATION_DOMAIN = 7 << 32
QUANTISE_DOMAIN = 8 << 32
FROZEN_DOMAIN = 9 << 32
CODEBOOK_DOMAIN = 11 << 32
FLOOR = 2.0**-60
TABLE_FILE = Path(__file__).parents[1] / "src" / "fedmrn" / "numerics" / "gaussian.bin"
TERMS = {
    1: ("warmup", "<d"),
    2: ("rho", "<d"),
    3: ("progressive", "<B"),
    4: ("stochastic", "<B"),
    5: ("backward", "<B"),
    6: ("budget", "<d"),
    7: ("theta", "<d"),
}


def float32(value: float) -> float:
    """Round a double to the nearest float32, ties to even."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


# --- random words ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)  # neighbours come from one call, 256 places apart
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


def read_frame(
    data: bytes, states: dict[int, list[float]] | None = None, public: dict[int, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Cut a valid frame into its fields; sections are decoded where they have a body.

    `states` is the broadcast's state of each group, which codec 8 needs; `public` what codec 15 needs of each group
    (`grid_parts`).
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
        if role == 3:
            section["terms"] = terms(body)
        elif codec == 15:
            section |= grid_parts(group, params, count, body, (public or {})[group])
        elif role != 2:
            section["state"] = (states or {}).get(group, [])
            section["values"] = decode(codec, params, count, body, frame["noise_key"], section["state"])
            section |= parts(codec, params, count, body, frame["noise_key"])
        frame["sections"].append(section)
    assert at == len(data) - CHECKSUM_SIZE
    return frame


def parts(codec: int, params: bytes, count: int, body: bytes, key: int) -> dict[str, Any]:
    """What a body holds beside its values: scales, norms, tables, a path."""
    found: dict[str, Any] = {}
    if codec in (2, 4):
        found["scales"] = scales(body)
    elif codec == 5:
        found["norms"], found["symbols"] = levels_parts(params, count, body)
    elif codec == 6:
        found["scales"], found["indices"], found["dense"], _ = rotated_parts(params, count, body, key)
    elif codec == 12:
        rows = scales(body)
        found = {"scales": rows, **parts(params[0], params[1:], count, body[4 + 12 * len(rows) :], key)}
    elif codec == 13:
        rows, after = scales(body), 4 + 13 * len(scales(body))
        wanted = list(struct.unpack_from(f"{len(rows)}b", body, after - len(rows)))
        found = {"scales": rows, "wanted": wanted, **parts(params[0], params[1:], count, body[after:], key)}
    elif codec == 9 and body[0] == 1:
        found["sizes"], found["frequencies"], _ = coded_parts(params, body)
    elif codec == 14 and body[0] == 1:
        found["sizes"], found["frequencies"], _ = interleaved_parts(params, body)
    elif codec == 11 and body[0] == 1:
        found["sizes"], found["prior"], found["information"], found["path"] = random_parts(params, body)
    return found


A_TENSOR = {32: "caps", 33: "scales"}
"""Terms of an exponent a tensor, by tag."""


def terms(body: bytes) -> list[tuple[str, Any]]:
    """The terms of a broadcast, in the order of their tags."""
    found, at = [], 0
    while at < len(body):
        tag, length = struct.unpack_from("<HI", body, at)
        value = body[at + 6 : at + 6 + length]
        if tag in A_TENSOR:
            found.append((A_TENSOR[tag], list(struct.unpack(f"{length}b", value))))
        else:
            name, form = TERMS[tag]
            found.append((name, struct.unpack(form, value)[0]))
        at += 6 + length
    return found


def encode_terms(found: list[tuple[str, Any]]) -> bytes:
    """The only body that says these terms."""
    tags = {name: (tag, form) for tag, (name, form) in TERMS.items()}
    rows = sorted((*tags[name], value) for name, value in found if name in tags)
    body = b"".join(struct.pack("<HI", tag, struct.calcsize(form)) + struct.pack(form, v) for tag, form, v in rows)
    for tag, exponents in ((tag, dict(found)[name]) for tag, name in A_TENSOR.items() if name in dict(found)):
        body += struct.pack("<HI", tag, len(exponents)) + struct.pack(f"{len(exponents)}b", *exponents)
    return body


def scales(body: bytes) -> list[tuple[int, float]]:
    """The table of scales at the start of a body of codec 2, 12 or 13: (size, scale) of each run."""
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


# --- coded masks ------------------------------------------------------------------------------------------------------


def sizes_of(body: bytes) -> list[int]:
    """The sizes at the start of a body of codec 9, 11 or 14 in mode 1."""
    mode, tensors = struct.unpack_from("<BI", body)
    assert mode == 1
    sizes = list(struct.unpack_from(f"<{tensors}Q", body, 5))
    assert all(sizes)
    return sizes


def coded_parts(params: bytes, body: bytes) -> tuple[list[int], list[int], list[int]]:
    """The sizes, the frequencies and the words of a coded body of codec 9."""
    sizes = sizes_of(body)
    at = 5 + 8 * len(sizes)
    rest = at + sum(numbers_of_buckets(sizes, params[6]))
    assert (len(body) - rest) % 4 == 0
    words = list(struct.unpack_from(f"<{(len(body) - rest) // 4}I", body, rest))
    assert not words or words[-1]
    return sizes, list(body[at:rest]), words


def numbers_of_buckets(sizes: list[int], buckets: int) -> list[int]:
    """How many contexts each tensor has."""
    return [min(max(size // 64, 1), buckets) for size in sizes]


def contexts(params: bytes, key: int, sizes: list[int]) -> list[int]:
    """The context of every element. Each operation on doubles that hold float32 numbers is rounded to float32."""
    law, _, scale, buckets = struct.unpack("<BBfB", params[:7])
    bound = float32(table()[-1] * scale) if law == GAUSSIAN else scale
    found: list[int] = []
    first = 0
    for size, many in zip(sizes, numbers_of_buckets(sizes, buckets), strict=True):
        for i in range(len(found), len(found) + size):
            x = float32(abs(noise(law, scale, key, i)) / bound)
            found.append(first + min(int(float32(x * many)), many - 1))
        first += many
    return found


def order(where: list[int], segment: int = 1 << 20) -> list[int]:
    """The elements in the order of their symbols: by context within each segment."""
    starts = range(0, len(where), segment)
    return [i for s in starts for i in sorted(range(s, min(s + segment, len(where))), key=where.__getitem__)]


def ans_decode(words: list[int], ones: list[int]) -> list[int]:
    """The symbols of an asymmetric numeral system; a one has probability ones[j] / 256. Nothing may be left over."""
    words = list(words)
    state = 0
    for _ in range(min(2, len(words))):
        state = state << 32 | words.pop()
    symbols = []
    for k in ones:
        assert 1 <= k <= 255
        p1 = k << 16
        quantile = state % (1 << 24)
        bit = int(quantile >= (1 << 24) - p1)
        left, p = ((1 << 24) - p1, p1) if bit else (0, (1 << 24) - p1)
        state = p * (state >> 24) + quantile - left
        if state < 1 << 32 and words:
            state = state << 32 | words.pop()
        symbols.append(bit)
    assert state == 0
    assert not words
    return symbols


def ans_encode(symbols: list[int], ones: list[int]) -> list[int]:
    """The only words that decode to these symbols: the steps of `ans_decode`, backwards."""
    words, state = [], 0
    for bit, k in reversed(list(zip(symbols, ones, strict=True))):
        p1 = k << 16
        left, p = ((1 << 24) - p1, p1) if bit else (0, (1 << 24) - p1)
        if state >> 40 >= p:
            words.append(state & MASK32)
            state >>= 32
        state = (state // p << 24) + state % p + left
    while state:
        words.append(state & MASK32)
        state >>= 32
    return words


def decode_mask(params: bytes, count: int, body: bytes, key: int, segment: int = 1 << 20) -> list[int]:
    """The bits of a body of codec 9."""
    if body[0] == 0:
        return unpacked(body[1:], count)
    sizes, frequencies, words = coded_parts(params, body)
    assert sum(sizes) == count <= 1416 * len(body)
    where = contexts(params, key, sizes)
    assert {k for k, frequency in enumerate(frequencies) if frequency} == set(where)
    places = order(where, segment)
    bits = [0] * count
    for i, bit in zip(places, ans_decode(words, [frequencies[where[i]] for i in places]), strict=True):
        bits[i] = bit
    return bits


def encode_mask(params: bytes, sizes: list[int], frequencies: list[int], bits: list[int], key: int) -> bytes:
    """The only body of codec 9 with these sizes and frequencies and these bits."""
    where = contexts(params, key, sizes)
    places = order(where)
    words = ans_encode([bits[i] for i in places], [frequencies[where[i]] for i in places])
    head = struct.pack(f"<BI{len(sizes)}Q", 1, len(sizes), *sizes)
    return head + bytes(frequencies) + struct.pack(f"<{len(words)}I", *words)


# --- interleaved masks ------------------------------------------------------------------------------------------------

BLOCK_OF_CODEC_14 = 1 << 19


def lanes_of(count: int) -> int:
    """The lanes of a block of so many elements."""
    return 2 if count < 1 << 16 else 4


def interleaved_parts(
    params: bytes, body: bytes, block: int = BLOCK_OF_CODEC_14
) -> tuple[list[int], list[int], list[bytes]]:
    """The sizes, the frequencies and the blocks of a coded body of codec 14."""
    sizes = sizes_of(body)
    at = 5 + 8 * len(sizes)
    table = list(body[at : at + sum(numbers_of_buckets(sizes, params[6]))])
    at += len(table)
    many = max(1, -(-sum(sizes) // block))
    lengths = list(struct.unpack_from(f"<{many - 1}I", body, at))
    at += 4 * (many - 1)
    blocks = []
    for length in lengths:
        assert at + length <= len(body)
        blocks.append(body[at : at + length])
        at += length
    assert at <= len(body)
    return sizes, table, [*blocks, body[at:]]


def lanes_decode(block: bytes, ones: list[int]) -> list[int]:
    """The bits of a block; a one has probability ones[j] / 256."""
    return symbols_decode(block, [[256 - k, k] for k in ones], 256)


def symbols_decode(block: bytes, tables: list[list[int]], one: int) -> list[int]:
    """The symbols of a block; symbol s of element j has probability tables[j][s] / one."""
    lanes = lanes_of(len(tables))
    states = list(struct.unpack_from(f"<{lanes}I", block))
    assert all(1 << 16 <= x < 1 << 32 for x in states)
    assert len(block) % 2 == 0
    words = list(struct.unpack_from(f"<{(len(block) - 4 * lanes) // 2}H", block, 4 * lanes))[::-1]
    symbols = []
    for i, frequencies in enumerate(tables):
        x = states[i % lanes]
        symbol = start = 0
        while x % one >= start + frequencies[symbol]:
            start += frequencies[symbol]
            symbol += 1
        x = frequencies[symbol] * (x // one) + x % one - start
        states[i % lanes] = x << 16 | words.pop() if x < 1 << 16 else x
        symbols.append(symbol)
    assert not words
    assert states == [1 << 16] * lanes
    return symbols


def lanes_encode(bits: list[int], ones: list[int]) -> bytes:
    """The only block that decodes to these bits."""
    return symbols_encode(bits, [[256 - k, k] for k in ones], 256)


def symbols_encode(symbols: list[int], tables: list[list[int]], one: int) -> bytes:
    """The only block that decodes to these symbols: the steps of `symbols_decode`, backwards."""
    lanes = lanes_of(len(tables))
    states, words = [1 << 16] * lanes, []
    for i in reversed(range(len(symbols))):
        f, start, x = tables[i][symbols[i]], sum(tables[i][: symbols[i]]), states[i % lanes]
        if x >= f * ((1 << 32) // one):
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = x // f * one + x % f + start
    return struct.pack(f"<{lanes}I{len(words)}H", *states, *reversed(words))


def decode_interleaved(params: bytes, count: int, body: bytes, key: int, block: int = BLOCK_OF_CODEC_14) -> list[int]:
    """The bits of a body of codec 14."""
    if body[0] == 0:
        return unpacked(body[1:], count)
    sizes, frequencies, blocks = interleaved_parts(params, body, block)
    assert 0 < sum(sizes) == count <= 1424 * len(body)
    where = contexts(params, key, sizes)
    assert {k for k, frequency in enumerate(frequencies) if frequency} == set(where)
    ones = [frequencies[k] for k in where]
    bits: list[int] = []
    for k, part in enumerate(blocks):
        bits += lanes_decode(part, ones[k * block : (k + 1) * block])
    return bits


def encode_interleaved(
    params: bytes, sizes: list[int], frequencies: list[int], bits: list[int], key: int, block: int = BLOCK_OF_CODEC_14
) -> bytes:
    """The only body of codec 14 with these sizes and frequencies and these bits."""
    ones = [frequencies[k] for k in contexts(params, key, sizes)]
    blocks = [lanes_encode(bits[at : at + block], ones[at : at + block]) for at in range(0, len(bits), block)]
    head = struct.pack(f"<BI{len(sizes)}Q", 1, len(sizes), *sizes) + bytes(frequencies)
    return head + b"".join(struct.pack("<I", len(part)) for part in blocks[:-1]) + b"".join(blocks)


# --- random codes -----------------------------------------------------------------------------------------------------


def random_parts(params: bytes, body: bytes) -> tuple[list[int], list[int], list[int], bytes]:
    """The sizes, priors, informations and packed path of a body of codec 11 in mode 1."""
    sizes = sizes_of(body)
    at = 5 + 8 * len(sizes)
    many = sum(numbers_of_buckets(sizes, params[6]))
    assert len(body) >= at + 2 * many
    return sizes, list(body[at : at + many]), list(body[at + many : at + 2 * many]), body[at + 2 * many :]


def reads_path_bit(information: list[int], block: int = 1 << 14) -> list[bool]:
    """Whether a path bit is read before each element."""
    found, spent = [], 0
    for i, each in enumerate(information):
        if i % block == 0:
            spent = 256
        found.append(spent >= 256)
        spent += each - 256 * found[-1]
    return found


def candidate_bit(label: int, w: int, prior: int) -> int:
    """The bit of an element with word w under a label."""
    a, c = w % (1 << 16) | 1, w >> 16
    return int((label * a + c >> 8) % 256 < prior)


def follow(
    path: list[int], priors: list[int], information: list[int], words: list[int], log2_states: int, block: int = 1 << 14
) -> list[int]:
    """The mask that a path names. All bits of the path are used."""
    states, left = 1 << log2_states, list(path)
    bits, state, label = [], 0, 0
    for i, reads in enumerate(reads_path_bit(information, block)):
        if i % block == 0:
            state = 0
        if reads:
            b = left.pop(0)
            label = b * states + state
            state = (2 * state + b) % states
        bits.append(candidate_bit(label, words[i], priors[i]))
    assert not left
    return bits


def best_of_all_paths(
    scores: list[int], priors: list[int], information: list[int], words: list[int], log2_states: int
) -> int:
    """The largest sum of scores of a mask that some path names, of one block: every path is tried."""
    many = sum(reads_path_bit(information))
    paths = product((0, 1), repeat=many)
    masks = (follow(list(path), priors, information, words, log2_states) for path in paths)
    return max(sum(s for s, bit in zip(scores, mask, strict=True) if bit) for mask in masks)


def best_by_state(
    scores: list[int], priors: list[int], information: list[int], words: list[int], log2_states: int
) -> int:
    """The same, by dynamic programming: the best sum up to here for each (state, label) that can be reached."""
    states = 1 << log2_states
    best = {(0, 0): 0}
    for i, reads in enumerate(reads_path_bit(information)):
        if reads:
            ways: dict[tuple[int, int], int] = {}
            for (state, _), total in best.items():
                for b in (0, 1):
                    to = ((2 * state + b) % states, b * states + state)
                    ways[to] = max(total, ways.get(to, total))
            best = ways
        best = {
            (state, label): total + scores[i] * candidate_bit(label, words[i], priors[i])
            for (state, label), total in best.items()
        }
    return max(best.values())


def decode_random(params: bytes, count: int, body: bytes, key: int) -> list[int]:
    """The bits of a body of codec 11."""
    if body[0] == 0:
        return unpacked(body[1:], count)
    sizes, prior, information, packed_path = random_parts(params, body)
    assert sum(sizes) == count <= 2048 * len(body)
    where = contexts(params, key, sizes)
    for context, (k, i) in enumerate(zip(prior, information, strict=True)):
        assert (k > 0) == (i > 0) == (context in set(where)), context
    each = [information[k] for k in where]
    path = unpacked(packed_path, sum(reads_path_bit(each)))
    words = [word(key, CODEBOOK_DOMAIN, i) for i in range(count)]
    return follow(path, [prior[k] for k in where], each, words, params[7])


def encode_random(
    params: bytes, sizes: list[int], prior: list[int], information: list[int], path: bytes, bits: list[int], key: int
) -> bytes:
    """The body of codec 11 with these tables and this packed path, which is one that names these bits."""
    head = struct.pack(f"<BI{len(sizes)}Q", 1, len(sizes), *sizes)
    body = head + bytes(prior) + bytes(information) + path
    assert decode_random(params, len(bits), body, key) == bits
    return body


# --- sparse, ternary, levels ------------------------------------------------------------------------------------------


def sparse_values(params: bytes, count: int, body: bytes) -> list[float]:
    """The values of a body of codec 3."""
    density, width, rice = struct.unpack("<fBB", params)
    k = min(count, max(1, int(density * count + 0.5)))
    kept = struct.unpack_from(f"<{k}{'f' if width == 32 else 'e'}", body)
    data = body[k * width // 8 :]
    at, place, values = 0, -1, [0.0] * count

    def bit() -> int:
        nonlocal at
        at += 1
        return data[(at - 1) // 8] >> ((at - 1) % 8) & 1

    for value in kept:
        gap = 0
        while bit():
            gap += 1
        gap = (gap << rice) + sum(bit() << j for j in range(rice))
        place += gap + 1
        values[place] = value
    assert (at + 7) // 8 == len(data)
    assert int.from_bytes(data, "little") >> at == 0
    return values


def encode_sparse(params: bytes, values: list[float]) -> bytes:
    """The only body of codec 3 with these values, of which as many are not zero as are kept."""
    _, width, rice = struct.unpack("<fBB", params)
    places = [i for i, v in enumerate(values) if v]
    bits: list[bool] = []
    for place, last in zip(places, [-1, *places], strict=False):
        gap = place - last - 1
        bits += [True] * (gap >> rice) + [False] + [bool(gap >> j & 1) for j in range(rice)]
    return struct.pack(f"<{len(places)}{'f' if width == 32 else 'e'}", *(values[i] for i in places)) + packed(bits)


def ternary_values(params: bytes, count: int, body: bytes) -> list[float]:
    """The values of a body of codec 4."""
    assert len(params) == 4
    rows = scales(body)
    data = body[4 + 12 * len(rows) :]
    assert len(data) == (count + 4) // 5
    trits = [byte // 3**j % 3 for byte in data for j in range(5)]
    assert max(data) < 243
    assert not any(trits[count:])
    each = [scale for size, scale in rows for _ in range(size)]
    return [(0.0, s, -s)[t] for s, t in zip(each, trits, strict=False)]


def levels_parts(params: bytes, count: int, body: bytes) -> tuple[list[float], list[int]]:
    """The norms and the symbols of a body of codec 5."""
    block, levels = struct.unpack("<IB", params)
    blocks, width = -(-count // block), (2 * levels).bit_length()
    number = int.from_bytes(body[4 * blocks :], "little")
    assert len(body) == 4 * blocks + (count * width + 7) // 8
    assert number >> (count * width) == 0
    return list(struct.unpack_from(f"<{blocks}f", body)), [
        number >> (width * i) & ((1 << width) - 1) for i in range(count)
    ]


def levels_values(params: bytes, count: int, body: bytes) -> list[float]:
    """The values of a body of codec 5: the product is exact in a double, and the quotient is rounded as a fraction."""
    block, levels = struct.unpack("<IB", params)
    norms, symbols = levels_parts(params, count, body)
    assert max(symbols, default=0) <= 2 * levels
    return [float32(norms[i // block] * (v - levels) / levels) for i, v in enumerate(symbols)]


def encode_levels(params: bytes, norms: list[float], symbols: list[int]) -> bytes:
    """The body of codec 5 with these norms and symbols."""
    width = (2 * params[4]).bit_length()
    number = sum(v << (width * i) for i, v in enumerate(symbols))
    return struct.pack(f"<{len(norms)}f", *norms) + number.to_bytes((len(symbols) * width + 7) // 8, "little")


# --- rotations --------------------------------------------------------------------------------------------------------

CENTROIDS = {
    1: [0.797884560802865356],
    2: [0.452780034636492009, 1.5104176084990954],
    3: [0.245094178944221668, 0.756005281205877275, 1.34390927850499988, 2.15194570453698729],
    4: [
        *(0.12839502985114701, 0.388048299490290197, 0.656759118532463381, 0.942340456486961371),
        *(1.25623119734717715, 1.61804638602188263, 2.06901722653138658, 2.73258957099516307),
    ],
}


def blocks_of(kept: int) -> list[int]:
    """The sizes of the blocks of so many positions."""
    found: list[int] = []
    while kept >= 128:
        found.append(min(1 << 16, 1 << (kept.bit_length() - 1)))
        kept -= found[-1]
    return found


def rotated_parts(
    params: bytes, count: int, body: bytes, key: int
) -> tuple[list[float], list[int], list[float], list[int]]:
    """The scales, indices and dense values of a body of codec 6, and which elements are kept."""
    bits, _, keep = struct.unpack("<BBf", params)
    kept = [i for i in range(count) if keep == 1 or word(key, QUANTISE_DOMAIN, i) < keep * 2**32]
    sizes = blocks_of(len(kept))
    coded, tail = sum(sizes), len(kept) - sum(sizes)
    assert len(body) == 4 * len(sizes) + coded * bits // 8 + 4 * tail
    found = list(struct.unpack_from(f"<{len(sizes)}f", body))
    packed_indices = body[4 * len(sizes) : 4 * len(sizes) + coded * bits // 8]
    octets = [int.from_bytes(packed_indices[at : at + bits], "little") for at in range(0, len(packed_indices), bits)]
    indices = [octet >> (bits * j) & ((1 << bits) - 1) for octet in octets for j in range(8)]
    return found, indices, list(struct.unpack_from(f"<{tail}f", body, len(body) - 4 * tail)), kept


def rotated_values(params: bytes, count: int, body: bytes, key: int, limit: float) -> list[float]:
    """The values of a body of codec 6, every operation on float32 numbers rounded by itself."""
    bits, _, keep = struct.unpack("<BBf", params)
    found, indices, dense, kept = rotated_parts(params, count, body, key)
    half = [float32(c) for c in CENTROIDS[bits]]
    book = [-c for c in reversed(half)] + half
    values: list[float] = []
    for scale, size in zip(found, blocks_of(len(kept)), strict=True):
        start = len(values)
        unit = float32(scale / (sqrt(size) * keep))
        x = [float32(book[i] * unit) for i in indices[start : start + size]]
        h = 1
        while h < size and unit:
            for j in range(size):
                if not j & h:
                    x[j], x[j + h] = float32(x[j] + x[j + h]), float32(x[j] - x[j + h])
            h *= 2
        if unit:
            x = [-v if word(key, ROTATION_DOMAIN, start + j) >> 31 else v for j, v in enumerate(x)]
        values += [min(max(v, -limit), limit) for v in x] if unit else [0.0] * size
    values += [min(max(float32(v / keep), -limit), limit) for v in dense]
    out = [0.0] * count
    for i, v in zip(kept, values, strict=True):
        out[i] = v
    return out


def encode_rotated(params: bytes, found: list[float], indices: list[int], dense: list[float]) -> bytes:
    """The body of codec 6 with these scales, indices and dense values."""
    bits = params[0]
    number = sum(index << (bits * k) for k, index in enumerate(indices))
    return (
        struct.pack(f"<{len(found)}f", *found)
        + number.to_bytes(len(indices) * bits // 8, "little")
        + struct.pack(f"<{len(dense)}f", *dense)
    )


# --- bodies -----------------------------------------------------------------------------------------------------------


FLOATS = {0: "f", 10: "e"}
LARGEST = (2 - 2.0**-23) * 2.0**127
"""The largest float32."""


def float8_value(code: int, top: int) -> float:
    """The value of a byte of codec 16."""
    e, m = code >> 4 & 7, code & 15
    magnitude = (16 + m) * 2.0 ** (top - 11 + e) if e else m * 2.0 ** (top - 10)
    return -magnitude if code >> 7 else magnitude


def float8_values(params: bytes, count: int, body: bytes) -> list[float]:
    """The values of codec 16."""
    assert params == b""
    assert len(body) == 1 + count
    (top,) = struct.unpack_from("b", body)
    assert -100 <= top <= 100
    assert 0x80 not in body[1:]
    return [float8_value(code, top) for code in body[1:]]


def encode_float8(values: list[float]) -> bytes:
    """The only body of codec 16 with these values that the library writes: with the least exponent."""
    for top in range(-100, 101):
        known = {float8_value(code, top): code for code in range(256) if code != 0x80}
        if all(v in known for v in values):
            return struct.pack("b", top) + bytes(known[v] for v in values)
    raise AssertionError("no exponent has all of these values")


def decode(
    codec: int, params: bytes, count: int, body: bytes, key: int, state: list[float], limit: float = LARGEST
) -> list[float]:
    """The values of one section's body; `limit` is the reader's, a float32."""
    decoders: dict[int, Callable[[], list[float]]] = {
        3: lambda: sparse_values(params, count, body),
        4: lambda: ternary_values(params, count, body),
        5: lambda: levels_values(params, count, body),
        6: lambda: rotated_values(params, count, body, key, limit),
        7: lambda: [float(bit) for bit in unpacked(body, count)],
        16: lambda: float8_values(params, count, body),
    }
    if codec in decoders:
        return decoders[codec]()
    if codec in FLOATS:
        assert params == b""
        return list(struct.unpack(f"<{count}{FLOATS[codec]}", body))
    if codec in DECODE_SHORTER:
        bits = DECODE_SHORTER[codec](params, count, body, key)
        codec, params, body = 1, params[:6], packed([bit == 1 for bit in bits])
    if codec == 1:
        law, signed, scale = struct.unpack("<BBf", params)
        ns = [noise(law, scale, key, i) for i in range(count)]
        return [n if bit else -n if signed else 0.0 for n, bit in zip(ns, unpacked(body, count), strict=True)]
    if codec == 2:
        assert params in (b"\0", b"\1", b"\2")
        runs = scales(body)
        each = [scale for size, scale in runs for _ in range(size)]
        return [s if bit else -s for s, bit in zip(each, unpacked(body[4 + 12 * len(runs) :], count), strict=True)]
    if codec in (12, 13):
        runs = scales(body)
        rest = decode(params[0], params[1:], count, body[4 + (12 if codec == 12 else 13) * len(runs) :], key, state)
        each = [scale for size, scale in runs for _ in range(size)]
        return [s * v for s, v in zip(each, rest, strict=True)]
    assert (codec, params, len(state)) == (8, b"", count)
    values = iter(struct.unpack(f"<{sum(s != 0 for s in state)}f", body))
    return [next(values) if s != 0 else 0.0 for s in state]


DECODE_SHORTER = {9: decode_mask, 11: decode_random, 14: decode_interleaved}
"""The bits of the codecs that send a mask in fewer bytes."""


def encode_ternary(section: dict[str, Any]) -> bytes:
    """The only body of codec 4 with these scales and values."""
    rows = [struct.pack("<Qf", *row) for row in section["scales"]]
    trits = [0 if v == 0 else 1 if v > 0 else 2 for v in section["values"]]
    data = bytes(sum(t * 3**j for j, t in enumerate(trits[at : at + 5])) for at in range(0, len(trits), 5))
    return struct.pack("<I", len(rows)) + b"".join(rows) + data


ENCODERS: dict[int, Callable[[dict[str, Any]], bytes]] = {
    3: lambda s: encode_sparse(s["params"], s["values"]),
    4: encode_ternary,
    5: lambda s: encode_levels(s["params"], s["norms"], s["symbols"]),
    6: lambda s: encode_rotated(s["params"], s["scales"], s["indices"], s["dense"]),
    7: lambda s: packed([v == 1 for v in s["values"]]),
    16: lambda s: encode_float8(s["values"]),
}


def encode(section: dict[str, Any], key: int) -> bytes:
    """The only body that decodes to the section's values (with its scales, frequencies or path, or for its state)."""
    codec, params, values = section["codec"], section["params"], section["values"]
    if codec in FLOATS:
        return struct.pack(f"<{len(values)}{FLOATS[codec]}", *values)
    if codec == 1:
        law, _, scale = struct.unpack("<BBf", params)
        return packed([v == noise(law, scale, key, i) for i, v in enumerate(values)])
    if codec in (2, 12, 13):
        rows = [struct.pack("<Qf", *row) for row in section["scales"]]
        table = struct.pack("<I", len(rows)) + b"".join(rows)
        each = [scale for size, scale in section["scales"] for _ in range(size)]
        inner = {**section, "codec": params[0], "params": params[1:]}
        inner["values"] = [v / s for v, s in zip(values, each, strict=True)]
        table += struct.pack(f"{len(section.get('wanted', []))}b", *section.get("wanted", []))
        return table + (packed([v > 0 for v in values]) if codec == 2 else encode(inner, key))
    if codec in ENCODERS:
        return ENCODERS[codec](section)
    if codec in DECODE_SHORTER:
        return encode_shorter(section, encode({"codec": 1, "params": params[:6], "values": values}, key), key)
    kept = [v for v, s in zip(values, section["state"], strict=True) if s != 0]
    return struct.pack(f"<{len(kept)}f", *kept)


def encode_shorter(section: dict[str, Any], raw: bytes, key: int) -> bytes:
    """The body of codec 9, 11 or 14 for a mask, coded if the section says how."""
    if "sizes" not in section:
        return b"\0" + raw
    params, bits = section["params"], unpacked(raw, len(section["values"]))
    if section["codec"] in (9, 14):
        write = encode_mask if section["codec"] == 9 else encode_interleaved
        return write(params, section["sizes"], section["frequencies"], bits, key)
    return encode_random(params, *(section[part] for part in ("sizes", "prior", "information", "path")), bits, key)


def write_frame(frame: dict[str, Any]) -> bytes:
    """The bytes of a frame as `read_frame` returns it, its bodies encoded anew from the values."""
    parts = b""
    for s in frame["sections"]:
        body = encode(s, frame["noise_key"]) if "values" in s else encode_terms(s.get("terms", []))
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


def log_change(before: float, after: float) -> float:
    """What an update says of a variance that was `before` in the broadcast."""
    return float32(log(max(after, FLOOR)) - log(max(before, FLOOR)))


def next_variance(before: float, mean: float) -> float:
    """What becomes of a variance by the mean of such changes."""
    return before if mean == 0 else float32(min(max(exp(log(max(before, FLOOR)) + mean), FLOOR), 2.0**126))


def reseal(data: bytes, *, total: bool = False) -> bytes:
    """A damaged frame with the right checksum again and, if asked for, the right total length."""
    body = bytearray(data[:-CHECKSUM_SIZE])
    if total:
        struct.pack_into("<Q", body, 8, len(data))
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


# --- whole numbers ----------------------------------------------------------------------------------------------------


Table = tuple[int, int, list[int]]
"""The least value, how many there are, and their frequencies; one more is that of escapes."""


def integer_tables(data: bytes, sizes: list[int]) -> tuple[list[Table], int]:
    """The tables of section 10, and where they end."""
    at, tables = 0, []
    for size in sizes:
        if size:
            first, values, escapes = struct.unpack_from("<iBB", data, at)
            assert abs(first) <= 1 << 30
            assert escapes in (0, 1)
            frequencies = list(struct.unpack_from(f"<{values + escapes}H", data, at + 6))
            assert sum(frequencies) == 4096
            assert not escapes or frequencies[-1]
            at += 6 + 2 * len(frequencies)
            tables.append((first, values, frequencies))
    return tables, at


def each_of(tables: list[Table], sizes: list[int]) -> list[Table]:
    """The table of each element."""
    return [table for table, size in zip(tables, [s for s in sizes if s], strict=True) for _ in range(size)]


def decode_integers(data: bytes, sizes: list[int], block: int = 1 << 19) -> list[int]:
    """The numbers of section 10."""
    tables, at = integer_tables(data, sizes)
    each = each_of(tables, sizes)
    many = -(-len(each) // block)
    lengths = struct.unpack_from(f"<{many}I", data, at)
    at += 4 * many
    symbols: list[int] = []
    for k, length in enumerate(lengths):
        assert at + length <= len(data)
        here = [frequencies for _, _, frequencies in each[k * block : (k + 1) * block]]
        symbols += symbols_decode(data[at : at + length], here, 4096)
        at += length
    assert (len(data) - at) % 4 == 0
    escapes = list(struct.unpack_from(f"<{(len(data) - at) // 4}i", data, at))[::-1]
    found = []
    for s, (first, values, _) in zip(symbols, each, strict=True):
        number = first + s if s < values else escapes.pop()
        assert (s < values) == (first <= number < first + values)
        found.append(number)
    assert not escapes
    return found


def encode_integers(numbers: list[int], sizes: list[int], tables: list[Table], block: int = 1 << 19) -> bytes:
    """The only bytes of section 10 with these tables and these numbers."""
    each = each_of(tables, sizes)
    inside = [first <= n < first + values for n, (first, values, _) in zip(numbers, each, strict=True)]
    symbols = [
        n - first if known else values for n, known, (first, values, _) in zip(numbers, inside, each, strict=True)
    ]
    blocks = [
        symbols_encode(symbols[at : at + block], [table[2] for table in each[at : at + block]], 4096)
        for at in range(0, len(numbers), block)
    ]
    escapes = [n for n, known in zip(numbers, inside, strict=True) if not known]
    heads = [
        struct.pack("<iBB", first, values, len(fs) - values) + struct.pack(f"<{len(fs)}H", *fs)
        for first, values, fs in tables
    ]
    lengths = struct.pack(f"<{len(blocks)}I", *map(len, blocks))
    return b"".join([*heads, lengths, *blocks, struct.pack(f"<{len(escapes)}i", *escapes)])


# --- public models ----------------------------------------------------------------------------------------------------

NOTHING = bytes(8)


def grid_digest(values: list[float]) -> bytes:
    """The digest of values, of starting weights too."""
    return blake2b(struct.pack(f"<{len(values)}f", *values), digest_size=8, person=b"fedmrn-public").digest()


def run_tag(run: bytes) -> bytes:
    """What names a run in a public model."""
    return blake2b(run, digest_size=8, person=b"fedmrn-run-tag").digest()


def grid_heading(params: bytes) -> dict[str, Any]:
    """The parameters of codec 15."""
    flags, number, base, run, start, digest = struct.unpack("<BII8s8s8s", params)
    assert flags < 4
    assert flags & 1 or not base
    assert flags & 2 or start == NOTHING
    return {
        "number": number,
        "base": base if flags & 1 else None,
        "run": run.hex(),
        "start_digest": start.hex() if flags & 2 else None,
        "digest": digest.hex(),
    }


def encode_grid_heading(heading: dict[str, Any]) -> bytes:
    """The only parameters that say this."""
    differs, starts = heading["base"] is not None, heading["start_digest"] is not None
    return struct.pack(
        "<BII8s8s8s",
        differs + 2 * starts,
        heading["number"],
        heading["base"] if differs else 0,
        bytes.fromhex(heading["run"]),
        bytes.fromhex(heading["start_digest"]) if starts else NOTHING,
        bytes.fromhex(heading["digest"]),
    )


def shared_tables(sizes: list[int]) -> list[int]:
    """The sizes of what shares a table: neighbours, until they have 4,096 elements."""
    found = [0]
    for size in sizes:
        if found[-1] >= 4096:
            found.append(0)
        found[-1] += size
    if len(found) > 1 and found[-1] < 4096:
        found[-2:] = [sum(found[-2:])]
    return [size for size in found if size]


def in_other_steps(numbers: list[int], old: list[int], new: list[int]) -> list[int]:
    """The numbers of the same values, of half-way ones the larger; steps are those of each element."""
    found = []
    for n, a, b in zip(numbers, old, new, strict=True):
        found.append(n << (a - b) if a >= b else (n + (1 << (b - a - 1))) >> (b - a))
        assert abs(found[-1]) < 1 << 24
    return found


def place_of(variance: float) -> int:
    """The place of a variance on its grid."""
    bits = struct.unpack("<I", struct.pack("<f", variance))[0] if variance else 0
    return min((bits + (1 << 16)) >> 17, 0x7F7FFFFF >> 17)


def grid_value(number: int, step: int, start: float, group: int) -> float:
    """One value of a public model: the sum of two float32 numbers, rounded once."""
    if group != 3:
        return float32(start + number * 2.0**step)
    place = place_of(start) + number
    assert 0 <= place << 17 < 0x7F800000
    return struct.unpack("<f", struct.pack("<I", place << 17))[0]


def grid_parts(group: int, params: bytes, count: int, body: bytes, known: dict[str, Any]) -> dict[str, Any]:
    """What a section of codec 15 says.

    `known` has the sizes of the group's tensors, `start` where the run's starting weights are known, and `base_steps`
    and `base_numbers` of the public model that is held.
    """
    heading, sizes = grid_heading(params), [size for size in known["sizes"] if size]
    assert sum(sizes) == count
    steps = list(struct.unpack_from(f"{len(sizes)}b", body))
    assert all(step == 17 if group == 3 else -80 <= step <= 80 for step in steps)
    rest, runs = body[len(sizes) :], shared_tables(sizes)
    tables, numbers = integer_tables(rest, runs)[0], decode_integers(rest, runs)
    found: dict[str, Any] = {**heading, "sizes": sizes, "steps": steps, "tables": tables}
    each = [step for step, size in zip(steps, sizes, strict=True) for _ in range(size)]
    if heading["base"] is not None:
        old = [step for step, size in zip(known["base_steps"], sizes, strict=True) for _ in range(size)]
        found["differences"] = numbers
        before = in_other_steps(known["base_numbers"], old, each)
        numbers = [a + b for a, b in zip(before, numbers, strict=True)]
    assert all(abs(n) < 1 << 24 for n in numbers)
    start = [0.0] * count
    if heading["start_digest"] is not None:
        start = known["start"]
        assert grid_digest(start).hex() == heading["start_digest"]
    found["numbers"] = numbers
    found["values"] = [grid_value(n, step, s, group) for n, step, s in zip(numbers, each, start, strict=True)]
    assert grid_digest(found["values"]).hex() == heading["digest"]
    return found


def encode_grid(section: dict[str, Any]) -> bytes:
    """The only body of codec 15 with these steps, tables and numbers, or differences."""
    assert encode_grid_heading(section) == section["params"]
    numbers = section["numbers"] if section["base"] is None else section["differences"]
    steps = struct.pack(f"{len(section['steps'])}b", *section["steps"])
    return steps + encode_integers(numbers, shared_tables(section["sizes"]), section["tables"])


ENCODERS[15] = encode_grid


# --- a tree of servers ----------------------------------------------------------------------------------------------


def whole_numbers(data: bytes, count: int) -> tuple[list[int], bytes]:
    """Whole numbers of 64 bits in blocks of 128, and the bytes after them."""
    sizes = [min(128, count - at) for at in range(0, count, 128)]
    heads, data = data[: 2 * len(sizes)], data[2 * len(sizes) :]
    widths = heads[1::2]
    length = (sum(size * width for size, width in zip(sizes, widths, strict=True)) + 7) // 8
    bits, found = int.from_bytes(data[:length], "little"), list[int]()
    for size, shift, width in zip(sizes, heads[::2], widths, strict=True):
        block = list[int]()
        for _ in range(size):
            x = bits % (1 << width)
            bits >>= width
            block.append((x - (1 << width) if width and x >> (width - 1) else x) << shift)
        assert all(x % (1 << shift) == 0 for x in block)
        assert not any(block) or any((x >> shift) % 2 for x in block), "the shift is the largest"
        left = [x >> shift for x in block]
        assert not width or not all(-(1 << width) <= 4 * x < 1 << width for x in left) or (width == 1 and any(left)), (
            "the width is the least"
        )
        found += block
    assert bits == 0
    return found, data[length:]


def plan_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The plan of an assignment, and the bytes after it."""
    names = ("clients", "flags", "max_bytes", "max_sections", "max_weight", "max_value", "planes")
    form = "<IBQIQdB"
    plan: dict[str, Any] = dict(zip(names, struct.unpack_from(form, data), strict=True))
    at = struct.calcsize(form)
    plan["planes"], at = [*data[at : at + plan["planes"]]], at + plan["planes"]
    if plan["flags"] & 4:
        plan["weight"], plan["cap_flags"], scales, values = struct.unpack_from("<QBII", data, at)
        at += 17
        caps = struct.unpack_from(f"<{scales + values}h", data, at)
        plan["scales"], plan["values"], at = [*caps[:scales]], [*caps[scales:]], at + 2 * len(caps)
    plan["bytes"] = data[:at]
    return plan, data[at:]


def read_assignment(data: bytes) -> dict[str, Any]:
    """An assignment: its plan, and (index, name, noise key) of each client."""
    frame = tree_frame(data)
    assert frame["kind"] == 7
    last = frame["sections"][-1]
    assert (last["role"], last["codec"], last["group"], last["params"]) == (13, 0, 0, b"\1")
    frame["plan"], rest = plan_of(last["body"])
    frame["clients"] = []
    for _ in range(last["elements"]):
        index, key, length = struct.unpack_from("<IQI", rest)
        frame["clients"].append((index, rest[16 : 16 + length].decode(), key))
        rest = rest[16 + length :]
    assert rest == b""
    return frame


def plan_digest(assignment: dict[str, Any], bound_to: bytes = b"") -> bytes:
    """What all nodes of a round agree on."""
    plan = bytearray(assignment["plan"]["bytes"])
    plan[4] &= ~(2 | 8)
    message = assignment["layout"] + struct.pack("<HI", assignment["method"], assignment["round"]) + plan
    for s in assignment["sections"]:
        if s["role"] == 2:
            head = struct.pack("<BBBQ", s["codec"], s["group"], len(s["params"]), s["elements"])
            message += head + s["params"]
    return blake2b(message + bound_to, digest_size=16, person=b"fedmrn-plan").digest()


def tree_frame(data: bytes) -> dict[str, Any]:
    """A frame of kind 6 or 7, its sections as they are."""
    names = ("magic", "version", "kind", "method", "total", "round", "count", "noise_key", "layout", "weight")
    frame: dict[str, Any] = dict(zip(names, struct.unpack_from(HEADER, data), strict=True))
    assert (frame["magic"], frame["version"], frame["total"]) == (b"FMRN", 1, len(data))
    assert crc32(data[:-4]) == struct.unpack("<I", data[-4:])[0]
    at, frame["sections"] = HEADER_SIZE, []
    for _ in range(frame["count"]):
        codec, role, group, n_params, count, n_body = struct.unpack_from(SECTION, data, at)
        at += SECTION_SIZE
        params, body = data[at : at + n_params], data[at + n_params : at + n_params + n_body]
        at += n_params + n_body
        frame["sections"].append(
            {"codec": codec, "role": role, "group": group, "elements": count, "params": params, "body": body}
        )
    assert at == len(data) - CHECKSUM_SIZE
    return frame


def read_partial(data: bytes) -> dict[str, Any]:
    """A partial sum: members, what waits, sums, observations, and the report."""
    found = tree_frame(data)
    assert found["kind"] == 6
    members, *parts, report = found["sections"]
    version, plan, s, v = struct.unpack("<B16sII", members["params"])
    assert (members["role"], members["codec"], members["group"], version) == (8, 0, 0, 1)
    n, rest, columns = members["elements"], members["body"], list[list[int]]()
    for size in (n, n, s * n, v * n):
        column, rest = whole_numbers(rest, size)
        columns.append(column)
    assert rest == b""
    found |= {"plan": plan, "members": [], "weights": columns[1], "kept": {}, "sums": {}, "tally": []}
    for gap in columns[0]:
        found["members"].append((found["members"][-1] if found["members"] else -1) + 1 + gap)
    for name, k, column in (("scales", s, columns[2]), ("values", v, columns[3])):
        found[name] = [[column[t * n + i] for t in range(k)] for i in range(n)]
    for part in parts:
        rest = part["body"]
        if part["role"] == 9:
            lengths, rest = whole_numbers(rest, n)
            ends = [sum(lengths[: i + 1]) for i in range(n)]
            assert sum(lengths) == len(rest)
            found["kept"][part["group"]] = [rest[end - k : end] for end, k in zip(ends, lengths, strict=True)]
            continue
        if part["role"] == 11:
            found["tally"], rest = whole_numbers(rest, part["elements"])
        else:
            assert part["role"] == 10
            planes = found["sums"][part["group"]] = []
            for fine in part["params"]:
                whole, rest = whole_numbers(rest, part["elements"])
                finer, rest = whole_numbers(rest, part["elements"]) if fine else (None, rest)
                planes.append((whole, finer))
        assert rest == b""
    assert report["role"] == 12
    rest, found["floors"], found["refusals"] = report["body"], [], []
    for _ in range(report["params"][0]):
        found["floors"].append([*struct.unpack_from("<9Q", rest)])
        rest = rest[72:]
    for _ in range(report["elements"]):
        client, times, length = struct.unpack_from("<IIB", rest)
        found["refusals"].append([client, times, rest[9 : 9 + length].decode()])
        rest = rest[9 + length :]
    assert rest == b""
    return found


def unit_exponent(bound: float, plan: dict[str, Any]) -> int:
    """e of the unit 2^-e in which values up to a bound are summed, times weights that count."""
    return 62 - frexp(bound)[1] - (plan["clients"] * counted(plan["max_weight"], plan)).bit_length()


def counted(weight: int, plan: dict[str, Any]) -> int:
    """What a weight counts."""
    if not plan["flags"] & 1:
        return 1
    return min(weight, plan["weight"]) if plan["flags"] & 4 and not plan["cap_flags"] & 4 else weight


def in_units(value: float, weight: int, exponent: int, clients: int) -> tuple[int, int]:
    """A value times a weight, rounded to units, and what that leaves, in finer ones."""
    exact = Fraction(value) * weight * Fraction(2) ** exponent
    whole = round(exact)  # to even, where it is half-way
    return whole, round((exact - whole) * 2 ** min(51, 63 - clients.bit_length()))
