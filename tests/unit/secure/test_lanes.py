"""Packed sums and fixed point: against plain integers, and no sum that wraps around."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmrn.errors import EncodeError, PaddingError
from fedmrn.secure.lanes import Lanes, fixed, lane_type, signed
from fedmrn.secure.session import CLIP, Session


def session(members: int, bits: int, reals: int = 0) -> Session:
    return Session(round=1, members=members, threshold=members, bits=bits, reals=reals, nonce=bytes(16))


@given(st.integers(2, 4096), st.integers(0, 70), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_numbers_come_back_from_the_bits_that_are_said(members: int, bits: int, reals: int, seed: int) -> None:
    of, draw = session(members, bits, reals), np.random.default_rng(seed)
    values = draw.integers(0, 1 << of.width, bits).astype(lane_type(of))
    numbers = Lanes(values, draw.integers(0, 1 << 32, reals, dtype=np.uint32))
    data = numbers.to_bytes(of)
    row = "".join(f"{int(v):0{of.width}b}"[::-1] for v in values)
    packed = bytes(int(row[at : at + 8][::-1], 2) for at in range(0, len(row), 8))
    assert data == packed + b"".join(int(v).to_bytes(4, "little") for v in numbers.reals)
    assert len(data) == of.padded_size
    back = Lanes.from_bytes(data, of)
    assert (back.bits.tolist(), back.reals.tolist()) == (values.tolist(), numbers.reals.tolist())


def test_more_elements_than_a_piece() -> None:
    of = session(1000, 200_003)
    values = np.random.default_rng(1).integers(0, 1 << of.width, of.bits).astype(np.uint16)
    back = Lanes.from_bytes(Lanes(values, np.zeros(0, np.uint32)).to_bytes(of), of)
    assert np.array_equal(back.bits, values)


@pytest.mark.parametrize("members", [2, 3, 4, 7, 8, 100, 127, 128, 1000, 4096])
def test_bits_are_as_many_as_the_sum_needs(members: int) -> None:
    of = session(members, 1)
    assert of.width == int(np.ceil(np.log2(members + 1)))
    assert members < 1 << of.width <= 2 * members + 1


@pytest.mark.parametrize("members", [2, 3, 10, 100, 4096])
def test_the_largest_sums_of_reals_do_not_wrap_around(members: int) -> None:
    of, far = session(members, 1), np.array([1e30, -1e30, CLIP, -CLIP, 0.0], np.float32)
    one = fixed(far, of)
    total = signed((one.astype(np.uint64) * members).astype(np.uint32))
    assert total.tolist() == [members * round(x * 2**of.fraction) for x in (CLIP, -CLIP, CLIP, -CLIP, 0)]


def test_rounding_is_to_the_nearest() -> None:
    of = session(100, 1)
    values = np.array([0.1, -3.25, 2.0**-19, -(2.0**-20)], np.float32)
    assert of.fraction == 18
    assert signed(fixed(values, of)).tolist() == [26214, -851968, 0, 0]
    with pytest.raises(EncodeError, match="NaN or infinite"):
        fixed(np.array([np.nan], np.float32), of)


def test_unused_bits_are_zero() -> None:
    of = session(2, 3)
    with pytest.raises(PaddingError):
        Lanes.from_bytes(b"\x40", of)
