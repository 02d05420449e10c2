"""Bytes from outside: each wrong one is refused by its cause, before anything is made of it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from secure_sums import small

from fedmrn.errors import (
    BadMagicError,
    FrameError,
    LimitError,
    MalformedFrameError,
    TrailingBytesError,
    TruncatedFrameError,
    UnsupportedVersionError,
    WrongKindError,
    WrongMessageError,
)
from fedmrn.secure import SumMember
from fedmrn.secure.records import HEAD_SIZE, ITEM_SIZES, MOST_MEMBERS, RecordKind, SumRecord, by_index, listed
from fedmrn.secure.session import Session

SESSION = Session(round=3, members=3, threshold=2, bits=5, reals=1, nonce=bytes(range(16)))


def test_the_bytes_of_a_setup() -> None:
    head = b"FMSS" + bytes([1, 1, 2, 0, 3, 0, 0, 0]) + SESSION.id + bytes([1, 0, 0, 0])
    body = bytes([3, 0, 2, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]) + bytes(range(16))
    assert SESSION.setup(2) == head + body
    assert Session.read(head + body) == (SESSION, 2)
    assert SESSION.id.hex() == "27785ca42a2dee6bc01362362fdf2abd"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda d: d[:-1], TruncatedFrameError),
        (lambda d: d[: HEAD_SIZE - 1], TruncatedFrameError),
        (lambda d: d + b"\0", TrailingBytesError),
        (lambda d: b"FMRN" + d[4:], BadMagicError),
        (lambda d: d[:4] + b"\2" + d[5:], UnsupportedVersionError),
        (lambda d: d[:5] + b"\2" + d[6:], WrongKindError),
        (lambda d: d[:28] + b"\xff\xff\xff\xff" + d[32:], LimitError),
        (lambda d: d[:28] + bytes(4), MalformedFrameError),
        (lambda d: d[:6] + b"\3" + d[7:], MalformedFrameError),
        (lambda d: d[:12] + b"\0" + d[13:], MalformedFrameError),
        (lambda d: d[:8] + bytes(4) + d[12:], LimitError),
        (lambda d: d[:32] + b"\1\0\1\0" + d[36:], LimitError),
        (lambda d: d[:36] + b"\2\0\2\0" + d[40:], LimitError),
        (lambda d: d[:36] + b"\0\0\2\0" + d[40:], LimitError),
        (lambda d: d[:40] + b"\xff" * 8 + d[48:], LimitError),
        (bytearray, WrongMessageError),
    ],
)
def test_setups_that_cannot_be(change: object, error: type[FrameError]) -> None:
    with pytest.raises(error):
        SumMember.begin(change(SESSION.setup(2)))  # type: ignore[operator]


@given(st.dictionaries(st.integers(0, MOST_MEMBERS - 1), st.binary(min_size=48, max_size=48), max_size=20))
def test_lists_come_back(items: dict[int, bytes]) -> None:
    data = SumRecord(RecordKind.ENVELOPES, 1, 3, SESSION.id, listed(items)).to_bytes()
    assert len(data) == HEAD_SIZE + ITEM_SIZES[RecordKind.ENVELOPES] * len(items)
    assert by_index(SumRecord.from_bytes(data, RecordKind.ENVELOPES, 20), MOST_MEMBERS) == items


@pytest.mark.parametrize("indices", [(1, 0), (1, 1), (0, 3)])
def test_lists_ascend_and_name_clients_of_the_round(indices: tuple[int, ...]) -> None:
    body = b"".join(i.to_bytes(2, "little") for i in indices)
    record = SumRecord(RecordKind.SURVIVORS, 0, 3, SESSION.id, body)
    with pytest.raises(MalformedFrameError, match="follows client"):
        by_index(record, 3)


@given(st.binary(max_size=400))
def test_what_a_client_kept_is_checked_too(data: bytes) -> None:
    with pytest.raises(FrameError):
        SumMember.from_bytes(data)


def test_no_damaged_byte_of_what_was_kept_does_harm() -> None:
    sums = small().keys().shares()
    whole = sums.members[0].to_bytes()
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 255
        with suppress(FrameError):
            SumMember.from_bytes(bytes(data))
    for stop in range(0, len(whole), 7):
        with pytest.raises(FrameError):
            SumMember.from_bytes(whole[:stop])


def test_padded_numbers_have_one_length() -> None:
    sums = small().keys().shares()
    sums.collector.envelopes(0)
    for size, error in ((0, MalformedFrameError), (sums.session.padded_size + 1, LimitError)):
        data = SumRecord(RecordKind.PADDED, 0, sums.session.round, sums.session.id, bytes(size)).to_bytes()
        with pytest.raises(error):
            sums.collector.take_padded(0, data)
