"""Whole numbers come back from their code, here and by a decoder made from the wire format; damage is refused."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import oracle
from allocated import allocated
from fedmrn.errors import MalformedFrameError
from fedmrn.numerics import blocks
from fedmrn.numerics.integers import decode_integers, encode_integers

LARGEST = (1 << 31) - 1
small = st.integers(-9, 9)
numbers = st.one_of(small, small, st.integers(-300, 300), st.integers(-LARGEST - 1, LARGEST))
vectors = st.lists(st.one_of(st.lists(small, max_size=90), st.lists(numbers, max_size=40)), max_size=5)


def drawn(count: int, spread: float, seed: int = 0) -> NDArray[np.int32]:
    normal = np.random.Generator(np.random.Philox(seed)).standard_normal(count)
    return np.rint(normal * spread).astype(np.int32)


@settings(deadline=None, max_examples=300)
@given(vectors)
def test_numbers_come_back(parts: list[list[int]]) -> None:
    whole, sizes = np.array([n for part in parts for n in part], np.int32), [len(part) for part in parts]
    data = encode_integers(whole, sizes)
    assert np.array_equal(decode_integers(data, sizes), whole)
    assert oracle.decode_integers(data, sizes) == whole.tolist()
    assert oracle.encode_integers(whole.tolist(), sizes, oracle.integer_tables(data, sizes)[0]) == data


def test_every_length() -> None:
    for count in range(301):
        whole, sizes = drawn(count, 2.0, count), [count // 3, 0, count - count // 3]
        data = encode_integers(whole, sizes)
        assert oracle.decode_integers(data, sizes) == decode_integers(data, sizes).tolist() == whole.tolist()


@pytest.mark.parametrize("count", [127, 128, 129, 255, 256, 257, 900])
def test_blocks(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors begin and end inside of blocks, and at odd lanes."""
    monkeypatch.setattr(blocks, "BLOCK", 128)
    whole, sizes = drawn(count, 1.0), [1, 100, 3, count - 104]
    whole[50] = 1 << 20
    data = encode_integers(whole, sizes)
    assert oracle.decode_integers(data, sizes, 128) == decode_integers(data, sizes).tolist() == whole.tolist()


@pytest.mark.parametrize("count", [65_535, 65_536, (1 << 19) + 1])
def test_around_the_numbers_of_lanes_and_blocks(count: int) -> None:
    whole, sizes = drawn(count, 1.5), [count - 77, 77]
    data = encode_integers(whole, sizes)
    assert np.array_equal(decode_integers(data, sizes), whole)
    assert oracle.decode_integers(data, sizes) == whole.tolist()


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_threads_change_nothing(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drawn((1 << 21) + 5, 3.0)
    expected = encode_integers(whole, [whole.size])
    monkeypatch.setattr(blocks, "cores", lambda: cores)
    assert encode_integers(whole, [whole.size]) == expected
    assert np.array_equal(decode_integers(expected, [whole.size]), whole)


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.5, 8.0])
def test_numbers_cost_their_entropy(spread: float) -> None:
    """To within a hundredth of a bit: tables, states and rounded frequencies included."""
    count = 1 << 20
    whole = drawn(count, spread)
    _, times = np.unique(whole, return_counts=True)
    entropy = -(times / count * np.log2(times / count)).sum()
    assert entropy <= 8 * len(encode_integers(whole, [count])) / count <= entropy + 0.01


def test_what_does_not_change_costs_a_table() -> None:
    data = encode_integers(np.full(100_000, -3, np.int32), [60_000, 40_000])
    assert len(data) == 2 * (6 + 2) + 4 + 4 * 4
    assert (decode_integers(data, [60_000, 40_000]) == -3).all()


@pytest.mark.parametrize("table", [(2, 0, 0, 4096), (2, 0, 4096, 0), (3, 0, 0, 0, 4096), (1, 1, 0, 4096)])
def test_one_symbol_may_have_all_of_a_table(table: tuple[int, ...]) -> None:
    """Whichever it is: its numbers change no state, and those of the tensor after it are read in their lanes."""
    after, escapes = drawn(50, 1.0), table[1]
    other = encode_integers(after, [50])
    data = struct.pack(f"<iBB{len(table) - 2}H", 7, *table)
    both = data + other + struct.pack("<8i", *range(1000, 1008)) * escapes
    found = decode_integers(both, [8, 50])
    assert found[8:].tolist() == after.tolist()
    assert found.tolist() == oracle.decode_integers(both, [8, 50])


@pytest.mark.parametrize("tensors", [1, 7, 600])
def test_many_tensors(tensors: int) -> None:
    """Constant ones among them, and numbers that lie far outside of any window."""
    parts = [drawn(300, [0.0, 1.0, 30.0, 3e5, 1e9][k % 5] / 4, k) for k in range(tensors)]
    parts[-1] = np.arange(-128, 127, dtype=np.int32)
    whole, sizes = np.concatenate(parts), [part.size for part in parts]
    data = encode_integers(whole, sizes)
    assert np.array_equal(decode_integers(data, sizes), whole)
    assert oracle.decode_integers(data, sizes) == whole.tolist()


def test_more_symbols_than_sixteen_bits_count() -> None:
    whole, sizes = np.tile(np.arange(250, dtype=np.int32), 300), [250] * 300
    data = encode_integers(whole, sizes)
    assert np.array_equal(decode_integers(data, sizes), whole)


@pytest.mark.parametrize("far", [LARGEST, -LARGEST - 1, 1 << 30, 5000])
def test_a_window_is_where_the_numbers_are(far: int) -> None:
    """One number far off, and the others around a number far from 0: still a table, and one escape."""
    whole = drawn(20_000, 2.0) + np.int32(700_000)
    near = len(encode_integers(whole, [whole.size]))
    whole[77] = far
    data = encode_integers(whole, [whole.size])
    assert len(data) <= near + 12
    assert near < whole.size * 3.3 / 8
    assert np.array_equal(decode_integers(data, [whole.size]), whole)


def test_vectors_that_are_refused() -> None:
    with pytest.raises(ValueError, match="tensors of 3 elements in a vector of 4"):
        encode_integers(np.zeros(4, np.int32), [1, 2])
    with pytest.raises(ValueError, match="tensors of 4 elements in a vector of 4"):
        encode_integers(np.zeros(4, np.int32), [5, -1])
    with pytest.raises(ValueError, match="a vector of int32 is coded, got int64"):
        encode_integers(np.zeros(4, np.int64), [4])
    strided = np.arange(20, dtype=np.int32)[::2]
    strided.flags.writeable = False
    assert np.array_equal(decode_integers(encode_integers(strided, [10]), [10]), strided)


def test_rare_far_numbers_escape() -> None:
    """Each costs some six bytes, and not a table that reaches to it."""
    whole = drawn(100_000, 1.0)
    near = len(encode_integers(whole, [whole.size]))
    whole[[5, 500, 50_000]] = (1000, -LARGEST - 1, LARGEST)
    assert len(encode_integers(whole, [whole.size])) <= near + 3 * 8
    assert np.array_equal(decode_integers(encode_integers(whole, [whole.size]), [whole.size]), whole)


def test_more_values_than_a_table_has() -> None:
    for whole in (np.arange(-4000, 4000, dtype=np.int32), np.arange(300, dtype=np.int32) * 1000):
        assert np.array_equal(decode_integers(encode_integers(whole, [whole.size]), [whole.size]), whole)


# --- what is refused --------------------------------------------------------------------------------------------------

SIZES = [60, 40]


def written() -> bytes:
    whole = drawn(100, 1.5)
    whole[[3, 70]] = (4000, -5000)
    return encode_integers(whole, SIZES)


def refused(data: bytes) -> bool:
    try:
        found = decode_integers(data, SIZES)
    except MalformedFrameError:
        with pytest.raises((AssertionError, IndexError, struct.error)):
            oracle.decode_integers(data, SIZES)
        return True
    assert oracle.decode_integers(data, SIZES) == found.tolist()
    return False


def test_every_truncation_and_every_addition_is_refused() -> None:
    data = written()
    assert not refused(data)
    assert all(refused(data[:length]) for length in range(len(data)))
    for more in (b"\0", b"\0\0", b"\0\0\0", bytes(4), struct.pack("<i", 9999)):
        assert refused(data + more)


def test_every_bit_flip_is_refused_or_read_alike() -> None:
    data = written()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        refused(bytes(changed))


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60), st.lists(st.integers(0, 1 << 20), max_size=4))
def test_noise_is_refused_or_read(data: bytes, sizes: list[int]) -> None:
    def check() -> None:
        with contextlib.suppress(MalformedFrameError):
            assert decode_integers(data, sizes).size == sum(sizes)

    assert allocated(check) < 8 * sum(sizes) + (1 << 18)


def test_tables_that_cannot_be() -> None:
    states = struct.pack("<III", 8, 1 << 16, 1 << 16)  # the length of the block, and its states
    good = struct.pack("<iBBH", 5, 1, 0, 4096) + states
    assert decode_integers(good, [9]).tolist() == [5] * 9
    for table in (
        struct.pack("<iBBH", 5, 1, 0, 4095),
        struct.pack("<iBBHH", 5, 2, 0, 4096, 1),
        struct.pack("<iBBH", 5, 1, 2, 4096),
        struct.pack("<iBB", 5, 0, 0),
        struct.pack("<iBBHH", 5, 1, 1, 4096, 0),
        struct.pack("<iBBH", (1 << 30) + 1, 1, 0, 4096),
    ):
        with pytest.raises(MalformedFrameError, match="table"):
            decode_integers(table + states, [9])
    with pytest.raises(MalformedFrameError, match="no tables of 2 tensors"):
        decode_integers(b"", [1, 1])
    assert decode_integers(b"", [0, 0]).size == 0
