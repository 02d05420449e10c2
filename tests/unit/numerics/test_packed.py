import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError, PaddingError
from fedmrn.numerics.packed import BLOCK, pack_numbers, unpack_numbers

I64 = NDArray[np.int64]
LEAST, MOST = -(1 << 63), (1 << 63) - 1


def slow_pack(numbers: list[int]) -> bytes:
    """By the text of the wire format, with whole numbers of any size."""
    blocks = [numbers[at : at + BLOCK] for at in range(0, len(numbers), BLOCK)]
    heads, bodies = b"", b""
    for block in blocks:
        shift = width = 0
        if any(block):
            while all(x % (2 << shift) == 0 for x in block):
                shift += 1
            left = [x >> shift for x in block]
            while not all(-(1 << width) <= 2 * x < 1 << width for x in left):
                width += 1
            bits = sum((x % (1 << width)) << (i * width) for i, x in enumerate(left))
            bodies += bits.to_bytes((len(block) * width + 7) // 8, "little")
        heads += bytes([shift, width])
    return heads + bodies


def read(data: bytes, count: int) -> I64:
    out = np.full(count, 77, np.int64)
    assert unpack_numbers(memoryview(data), out) == len(data)
    return out


whole = st.integers(LEAST, MOST) | st.integers(-3, 3) | st.integers(0, 62).map(lambda e: -(1 << e)) | st.just(LEAST)


@settings(deadline=None)
@given(st.lists(whole, max_size=40), st.integers(0, 63))
def test_it_is_what_the_text_says(numbers: list[int], shift: int) -> None:
    numbers = [x >> shift << shift for x in numbers]
    data = pack_numbers(np.array(numbers, np.int64))
    assert data == slow_pack(numbers)
    assert read(data, len(numbers)).tolist() == numbers


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("bits", [0, 1, 7, 33, 62])
def test_any_length(count: int, bits: int) -> None:
    draws = np.random.Generator(np.random.Philox([count, bits]))
    numbers = draws.integers(-(1 << bits), 1 << bits, count) if bits else np.zeros(count, np.int64)
    numbers[BLOCK:] >>= bits // 2
    data = pack_numbers(numbers)
    assert data == slow_pack(numbers.tolist())
    assert np.array_equal(read(data, count), numbers)


def test_known_bytes() -> None:
    """4, -8 and 12 are 1, -2 and 3 times 2^2: three bits each, 001 110 011 from the right."""
    assert pack_numbers(np.array([4, -8, 12], np.int64)).hex() == "0203" + "f100"
    assert pack_numbers(np.zeros(5, np.int64)).hex() == "0000"
    assert pack_numbers(np.full(9, -1, np.int64)).hex() == "0001" + "ff01"


def test_what_follows_is_left() -> None:
    data = pack_numbers(np.arange(10, dtype=np.int64))
    assert unpack_numbers(memoryview(data + b"more"), np.empty(10, np.int64)) == len(data)


NUMBERS = np.array([4, -8, 12], np.int64)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("", MalformedFrameError),
        ("02", MalformedFrameError),
        ("0203", MalformedFrameError),
        ("0203f1", MalformedFrameError),
        ("0204" + "310e", MalformedFrameError),  # a bit too wide
        ("0104" + "c206", MalformedFrameError),  # a shift too small
        ("0100", MalformedFrameError),  # zeros have neither
        ("0140" + 24 * "00", MalformedFrameError),  # 65 bits
        ("0341" + 25 * "00", MalformedFrameError),
        ("0203f102", PaddingError),
    ],
)
def test_there_is_one_encoding(data: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        unpack_numbers(memoryview(bytes.fromhex(data)), np.empty(3, np.int64))
