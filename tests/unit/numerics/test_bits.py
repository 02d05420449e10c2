import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmrn.errors import PaddingError
from fedmrn.numerics.bits import check_padding, count_ones, pack_bits, packed_size, unpack_bits
from fedmrn.numerics.rng import Stream

SIZES = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 1000]


def test_the_least_significant_bit_comes_first() -> None:
    assert pack_bits(np.array([True] + 7 * [False])) == b"\x01"
    assert pack_bits(np.array([False, True, True])) == b"\x06"
    assert pack_bits(np.array(8 * [False] + [True])) == b"\x00\x01"


@pytest.mark.parametrize("count", SIZES)
def test_there_and_back(count: int) -> None:
    mask = Stream(count, 0).words(0, count) % 2 == 1
    data = pack_bits(mask)
    assert len(data) == packed_size(count) == -(-count // 8)
    assert int.from_bytes(data, "little") == sum(int(b) << i for i, b in enumerate(mask))
    found = unpack_bits(data, count)
    assert found.dtype == np.bool_
    assert np.array_equal(found, mask)
    assert np.array_equal(unpack_bits(memoryview(data), count), mask)


@pytest.mark.parametrize("count", [c for c in SIZES if c % 8])
def test_every_padding_bit_is_refused(count: int) -> None:
    clean = bytearray(packed_size(count))
    check_padding(clean, count)
    for bit in range(count % 8, 8):
        dirty = bytearray(clean)
        dirty[-1] |= 1 << bit
        with pytest.raises(PaddingError):
            check_padding(dirty, count)
        with pytest.raises(PaddingError):
            unpack_bits(bytes(dirty), count)
    used = bytearray(clean)
    used[-1] = (1 << count % 8) - 1
    check_padding(used, count)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 0), (1, 9), (2, 8), (3, 16)])
def test_wrong_lengths(size: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} bits take"):
        check_padding(bytes(size), count)
    with pytest.raises(ValueError, match=f"{count} bits take"):
        unpack_bits(bytes(size), count)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_counting_ones_of_a_range(bits: list[bool], start: int, stop: int) -> None:
    packed = np.frombuffer(pack_bits(np.array(bits, np.bool_)), np.uint8)
    stop = min(stop, len(bits))
    assert count_ones(packed, start, stop) == sum(bits[start:stop])
