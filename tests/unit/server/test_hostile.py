"""Bytes from outside: each fault has its own error, costs no memory to speak of, and changes nothing.

The frames below are damaged on purpose and sealed again, so that the checksum does not hide the check meant.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import nextafter

import numpy as np
import pytest
from core_examples import LAYOUT, begin, noisy, update

from allocated import allocated
from fedmrn.codecs import CODECS
from fedmrn.errors import (
    BadMagicError,
    BoundError,
    ChecksumError,
    DuplicateFrameError,
    FrameError,
    LimitError,
    MalformedFrameError,
    NonFiniteError,
    PaddingError,
    TrailingBytesError,
    TruncatedFrameError,
    UnknownCodecError,
    UnsupportedVersionError,
    WrongKeyError,
    WrongKindError,
    WrongLayoutError,
    WrongMethodError,
    WrongParametersError,
    WrongRoundError,
)
from fedmrn.server import Round
from fedmrn.server.aggregate import Aggregator
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state
from oracle import HEADER_SIZE, SECTION_SIZE, reseal

GOOD = update(begin(), "ann")
BROADCAST = begin().broadcast("ann")
HUGE = (1 << 63, (1 << 64) - 1)
# Offsets of the header's fields, and of the three sections: mask of 21 bits, 5 floats, 3 floats.
VERSION, KIND, METHOD, TOTAL, ROUND, COUNT, KEY, DIGEST, WEIGHT = 4, 5, 6, 8, 16, 20, 24, 32, 48
CODED = HEADER_SIZE
DENSE = CODED + SECTION_SIZE + 6 + 3
STATS = DENSE + SECTION_SIZE + 20
MASK, FLOATS = CODED + SECTION_SIZE + 6, DENSE + SECTION_SIZE
CODEC, ROLE, GROUP, N_PARAMS, ELEMENTS, N_BODY = 0, 1, 2, 3, 4, 12
MEMORY = 64 << 10


def test_the_offsets_are_right() -> None:
    assert len(GOOD) == STATS + SECTION_SIZE + 12 + 4
    assert [struct.unpack_from("<BBBBQQ", GOOD, at) for at in (CODED, DENSE, STATS)] == [
        (1, 0, 0, 6, 21, 3),
        (0, 0, 1, 0, 5, 20),
        (0, 0, 2, 0, 3, 12),
    ]
    assert reseal(GOOD) == reseal(GOOD, total=True) == GOOD


def _put(offset: int, form: str, value: object, data: bytes = GOOD) -> bytes:
    """The frame with one field overwritten, sealed again."""
    changed = bytearray(data)
    struct.pack_into("<" + form, changed, offset, value)
    assert bytes(changed) != data
    return reseal(bytes(changed))


def _flip(bit: int, data: bytes = GOOD) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _sections(edit: Callable[[list[Section]], list[Section]], data: bytes = GOOD) -> bytes:
    frame = Frame.from_bytes(data)
    return replace(frame, sections=tuple(edit(list(frame.sections)))).to_bytes()


def _section(index: int, **fields: object) -> bytes:
    def edit(sections: list[Section]) -> list[Section]:
        sections[index] = replace(sections[index], **fields)  # type: ignore[arg-type]
        return sections

    return _sections(edit)


Case = tuple[str, bytes, type[FrameError]]


def _cases_of_the_envelope() -> Iterator[Case]:
    yield "magic", b"FMRM" + GOOD[4:], BadMagicError
    yield "magic of a short text", b"no", BadMagicError
    yield "nothing", b"", TruncatedFrameError
    for version in (0, 2, 255):
        yield f"version {version}", _put(VERSION, "B", version), UnsupportedVersionError

    for total in ((1 << 32) + 1, *HUGE):
        yield f"total {total}", _put(TOTAL, "Q", total), LimitError
    for total in (len(GOOD) + 1, 1 << 32):
        yield f"total {total}", _put(TOTAL, "Q", total), TruncatedFrameError
    for total in (0, 59, 60, len(GOOD) - 1):
        yield f"total {total}", _put(TOTAL, "Q", total), TrailingBytesError
    yield "total of a header alone", reseal(GOOD[:56], total=True), MalformedFrameError

    for extra in (b"\0", b"\0" * 20, GOOD):
        yield f"{len(extra)} bytes after the frame", GOOD + extra, TrailingBytesError
        inner = GOOD[:-4] + extra + GOOD[-4:]
        yield f"{len(extra)} bytes before the checksum", reseal(inner, total=True), MalformedFrameError
    yield "checksum", GOOD[:-4] + bytes(4), ChecksumError
    yield "checksum of big-endian order", GOOD[:-4] + GOOD[:-5:-1], ChecksumError


def _cases_of_the_header() -> Iterator[Case]:
    for kind in (0, 8, 255):
        yield f"kind {kind}", _put(KIND, "B", kind), MalformedFrameError
    yield "kind broadcast", _put(KIND, "B", 2), WrongKindError
    yield "kind model", _put(KIND, "B", 3), WrongKindError
    yield "kind saved", _put(KIND, "B", 4), WrongKindError
    yield "kind statistics", _put(KIND, "B", 5), WrongKindError
    yield "a broadcast", BROADCAST, WrongKindError
    for method in (0, 1, 3, 65535):
        yield f"method {method}", _put(METHOD, "H", method), WrongMethodError
    for number in (0, 2, (1 << 32) - 1):
        yield f"round {number}", _put(ROUND, "I", number), WrongRoundError
    for count in (0, 1, 2, 4, 64):
        yield f"{count} sections", _put(COUNT, "I", count), MalformedFrameError
    for count in (65, 1 << 31, (1 << 32) - 1):
        yield f"{count} sections", _put(COUNT, "I", count), LimitError
    key = struct.unpack_from("<Q", GOOD, KEY)[0]
    for other in (0, key ^ 1, key ^ 1 << 63):
        yield f"noise key {other:x}", _put(KEY, "Q", other), WrongKeyError
    yield "bob's noise key", _put(KEY, "Q", Frame.from_bytes(begin().broadcast("bob")).noise_key), WrongKeyError
    for at in (DIGEST, DIGEST + 15):
        yield f"layout digest at {at}", _put(at, "B", GOOD[at] ^ 0x80), WrongLayoutError
    yield "weight 0", _put(WEIGHT, "Q", 0), MalformedFrameError
    for weight in ((1 << 20) + 1, *HUGE):
        yield f"weight {weight}", _put(WEIGHT, "Q", weight), LimitError


def _cases_of_section_headers() -> Iterator[Case]:
    for name, at in (("coded", CODED), ("dense", DENSE), ("stats", STATS)):
        for codec in {0, 1, 2, 9, 10, 255} - {GOOD[at]}:
            yield f"{name}: codec {codec}", _put(at + CODEC, "B", codec), WrongParametersError
        for role in (1, 2, 3, 255):
            yield f"{name}: role {role}", _put(at + ROLE, "B", role), MalformedFrameError
        for group in (4, 255):
            yield f"{name}: group {group}", _put(at + GROUP, "B", group), MalformedFrameError
        for length in {1, 5, 7, 255} - {GOOD[at + N_PARAMS]}:
            yield f"{name}: {length} bytes of parameters", _put(at + N_PARAMS, "B", length), MalformedFrameError
        elements, body = struct.unpack_from("<QQ", GOOD, at + ELEMENTS)
        for count in (0, elements - 1, elements + 1, 1 << 32, 1 << 61, 1 << 62, *HUGE):
            yield f"{name}: {count} elements", _put(at + ELEMENTS, "Q", count), WrongParametersError
        for length in (0, body - 1, body + 1, 1 << 32, (1 << 63) - 1, *HUGE, (1 << 64) - 26):
            yield f"{name}: body of {length}", _put(at + N_BODY, "Q", length), MalformedFrameError
    yield "dense as coded", _put(DENSE + GROUP, "B", 0), MalformedFrameError
    yield "stats as dense", _put(STATS + GROUP, "B", 1), MalformedFrameError


def _cases_of_section_contents() -> Iterator[Case]:
    for at, value in ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 0), (5, 0x3D)):
        yield f"codec parameter byte {at} = {value}", _put(MASK - 6 + at, "B", value), WrongParametersError
    yield "scale NaN", _put(MASK - 4, "f", float("nan")), WrongParametersError
    for params in (b"", GOOD[MASK - 6 : MASK - 1], GOOD[MASK - 6 : MASK] + b"\0", bytes(255)):
        yield f"{len(params)} bytes of parameters, consistent", _section(0, params=params), WrongParametersError
    yield "raw with parameters", _section(1, params=b"\0"), WrongParametersError

    for bit in (5, 6, 7):
        yield f"padding bit {bit}", _put(MASK + 2, "B", GOOD[MASK + 2] | 1 << bit), PaddingError
    for i, size in enumerate((3, 20, 12)):
        for length in (0, size - 1, size + 1, 5000):
            yield f"section {i}: body of {length}, consistent", _section(i, body=bytes(length)), MalformedFrameError
    for name, at in (("first", FLOATS), ("last", FLOATS + 16), ("statistic", STATS + SECTION_SIZE)):
        for value in (float("nan"), float("inf"), -float("inf")):
            yield f"{name} value {value}", _put(at, "f", value), NonFiniteError
        yield f"{name} value signalling NaN", _put(at, "I", 0xFF800001), NonFiniteError
        for value in (65536.0078125, -65536.0078125, 3.4e38):
            yield f"{name} value {value}", _put(at, "f", value), BoundError

    for i in range(3):
        yield f"without section {i}", _sections(lambda s, i=i: s[:i] + s[i + 1 :]), WrongParametersError
        yield f"section {i} twice", _sections(lambda s, i=i: [*s, s[i]]), MalformedFrameError
    yield "without sections", _sections(lambda s: []), WrongParametersError
    yield "reordered", _sections(lambda s: [s[1], s[0], s[2]]), WrongParametersError
    yield "reversed", _sections(lambda s: s[::-1]), WrongParametersError


CASES = [
    *_cases_of_the_envelope(),
    *_cases_of_the_header(),
    *_cases_of_section_headers(),
    *_cases_of_section_contents(),
]


@pytest.fixture
def round_() -> Round:
    """A round in which bob's update was folded already."""
    started = begin()
    started.add("bob", update(started, "bob", weight=3, seed=9))
    return started


def _content(aggregator: Aggregator) -> tuple[object, ...]:
    mean = aggregator.finish().tobytes()  # first: a round's first updates are summed when it is asked for
    return (
        mean,
        aggregator.sums.integers.tobytes(),
        frozenset(aggregator.admission.senders),
        aggregator.count,
        aggregator.total_weight,
    )


def _refused(call: Callable[[], object], error: type[FrameError]) -> None:
    with pytest.raises(FrameError) as caught:
        call()
    assert caught.type is error, caught.value
    assert str(caught.value)


def test_names_of_cases_are_unique() -> None:
    assert len({name for name, _, _ in CASES}) == len(CASES) > 150


@pytest.mark.parametrize(("data", "error"), [pytest.param(d, e, id=name) for name, d, e in CASES])
def test_each_fault_has_its_error(round_: Round, data: bytes, error: type[FrameError]) -> None:
    before = _content(round_.aggregator)
    peak = allocated(lambda: _refused(lambda: round_.add("ann", data), error))
    assert peak < MEMORY + 8 * len(data)
    assert _content(round_.aggregator) == before
    round_.add("ann", GOOD)
    assert _content(round_.aggregator) != before


def test_every_truncation(round_: Round) -> None:
    before = _content(round_.aggregator)
    for size in range(len(GOOD)):
        _refused(lambda size=size: round_.add("ann", GOOD[:size]), TruncatedFrameError)
    assert _content(round_.aggregator) == before


def test_every_truncation_made_consistent(round_: Round) -> None:
    """The declared length and the checksum fit the shorter frame: its sections no longer do."""
    before = _content(round_.aggregator)
    for size in range(HEADER_SIZE + 4, len(GOOD)):
        shorter = reseal(GOOD[:size], total=True)
        _refused(lambda data=shorter: round_.add("ann", data), MalformedFrameError)
    assert _content(round_.aggregator) == before


def _error_of_flip(bit: int) -> type[FrameError]:
    byte = bit // 8
    if byte < VERSION:
        return BadMagicError
    if byte == VERSION:
        return UnsupportedVersionError
    if TOTAL <= byte < ROUND:
        changed = struct.unpack_from("<Q", _flip(bit), TOTAL)[0]
        if changed > 1 << 32:
            return LimitError
        return TruncatedFrameError if changed > len(GOOD) else TrailingBytesError
    return ChecksumError


def test_every_bit_flip(round_: Round) -> None:
    """The checksum finds every one that the checks before it do not."""
    before = _content(round_.aggregator)
    for bit in range(8 * len(GOOD)):
        _refused(lambda bit=bit: round_.add("ann", _flip(bit)), _error_of_flip(bit))
    assert _content(round_.aggregator) == before


def _is_free(bit: int) -> bool:
    """Whether a client may choose this bit as it likes: weight up to the cap, mask bits, float bits in range."""
    byte, data = bit // 8, _flip(bit)
    if WEIGHT <= byte < WEIGHT + 8:
        return 1 <= struct.unpack_from("<Q", data, WEIGHT)[0] <= 1 << 20
    if MASK <= byte < MASK + 3:
        return bit - 8 * MASK < 21
    for start, size in ((FLOATS, 20), (STATS + SECTION_SIZE, 12)):
        if start <= byte < start + size:
            return abs(struct.unpack_from("<f", data, byte - (byte - start) % 4)[0]) <= 65536
    return False


def test_every_bit_flip_sealed_again(round_: Round) -> None:
    """What is left to a client is exactly its weight, its mask and its dense values."""
    fold = round_.aggregator
    before = _content(fold)
    free = 0
    for bit in range(8 * (len(GOOD) - 4)):
        data = reseal(_flip(bit))
        if _is_free(bit):
            free += 1
            fresh = begin()
            fresh.add("ann", data)
            assert fresh.aggregator.count == 1
        else:
            with pytest.raises(FrameError):
                round_.add("ann", data)
    assert free > 21 + 20
    assert _content(fold) == before


def test_the_largest_value_is_accepted(round_: Round) -> None:
    for value in (65536.0, -65536.0):
        begin().add("ann", _put(FLOATS, "f", value))
    assert np.float32(65536.0078125) == np.nextafter(np.float32(65536), np.float32(np.inf))
    assert nextafter(65536.0, np.inf) < 65536.0078125


def test_an_extra_section() -> None:
    layout = Layout.of([TensorSpec("w", (21,), Group.CODED)])
    round_ = begin(layout=layout)
    good = update(round_, "ann", layout)
    dense = Section(0, Role.UPDATE, Group.DENSE, 1, b"", bytes(4))
    for edit in (lambda s: [*s, dense], lambda s: [dense, *s], lambda s: [dense]):
        _refused(lambda edit=edit: round_.add("ann", _sections(edit, good)), WrongParametersError)
    round_.add("ann", good)


def test_a_frame_twice(round_: Round) -> None:
    """Refused by the round, which knows the client, and by the fold, which knows the key."""
    bob = update(round_, "bob", weight=3, seed=9)
    before = _content(round_.aggregator)
    _refused(lambda: round_.add("bob", bob), DuplicateFrameError)
    frame = Frame.from_bytes(bob)
    _refused(lambda: round_.aggregator.add(frame, frame.noise_key), DuplicateFrameError)
    assert _content(round_.aggregator) == before


def test_frames_that_no_bytes_give(round_: Round) -> None:
    """The fold checks again what the parser checked, for callers who build frames themselves."""
    frame = Frame.from_bytes(GOOD)
    before = _content(round_.aggregator)
    fold = round_.aggregator
    for wrong, error in (
        (replace(frame, kind=Kind.BROADCAST), WrongKindError),
        (replace(frame, weight=0), LimitError),
        (replace(frame, weight=-1), LimitError),
        (replace(frame, weight=(1 << 20) + 1), LimitError),
    ):
        _refused(lambda wrong=wrong: fold.add(wrong, frame.noise_key), error)
    assert _content(fold) == before


def test_more_frames_than_planned() -> None:
    round_ = begin(clients=("ann",))
    round_.add("ann", GOOD)
    frame = replace(Frame.from_bytes(GOOD), noise_key=1)
    before = _content(round_.aggregator)
    _refused(lambda: round_.aggregator.add(frame, 1), LimitError)
    assert _content(round_.aggregator) == before


def test_a_fault_in_the_last_section_leaves_the_first_unfolded(round_: Round) -> None:
    """All bodies are checked before any is folded."""
    before = round_.aggregator.sums.integers.copy()
    _refused(lambda: round_.add("ann", _put(len(GOOD) - 8, "f", float("nan"))), NonFiniteError)
    assert np.array_equal(round_.aggregator.sums.integers, before)


@pytest.mark.parametrize("name", ["fedavg", "fedmrn"])
def test_large_frames_cost_no_memory(name: str) -> None:
    """A million elements, a fault at the very end: refused with a few pieces of 16,384 floats, not a copy."""
    layout = Layout.of([TensorSpec("w", (1 << 20,), Group.CODED), TensorSpec("s", (3,), Group.STATS)])
    round_ = begin(name, layout)
    good = update(round_, "ann", layout)
    last = len(good) - 8
    bad = _put(last, "f", float("nan"), good)
    assert allocated(lambda: _refused(lambda: round_.add("ann", bad), NonFiniteError)) < 256 << 10
    for damaged, error in ((good[:-1], TruncatedFrameError), (_flip(8 * last, good), ChecksumError)):
        assert allocated(lambda d=damaged, e=error: _refused(lambda: round_.add("ann", d), e)) < MEMORY
    assert not round_.aggregator.sums.integers.any()


# --- the same towards a client ---------------------------------------------------------------------------------------


def _answer(data: bytes) -> None:
    frame = Frame.from_bytes(data, kind=Kind.BROADCAST)
    read_state(frame, LAYOUT)
    encode_update(frame, LAYOUT, noisy(LAYOUT.size, 1), weight=1, sampling_key=1)


TEMPLATE, STATE = HEADER_SIZE, HEADER_SIZE + 3 * SECTION_SIZE + 6


@pytest.mark.parametrize(
    ("data", "error"),
    [
        pytest.param(d, e, id=name)
        for name, d, e in (
            ("an update", GOOD, WrongKindError),
            ("weight", _put(WEIGHT, "Q", 1, BROADCAST), MalformedFrameError),
            ("huge weight", _put(WEIGHT, "Q", HUGE[1], BROADCAST), LimitError),
            ("layout", _put(DIGEST, "B", BROADCAST[DIGEST] ^ 1, BROADCAST), WrongLayoutError),
            ("role update", _put(TEMPLATE + ROLE, "B", 0, BROADCAST), MalformedFrameError),
            ("role terms", _put(TEMPLATE + ROLE, "B", 3, BROADCAST), MalformedFrameError),
            ("role unknown", _put(TEMPLATE + ROLE, "B", 4, BROADCAST), MalformedFrameError),
            ("two states of a group", _put(STATE + GROUP, "B", 1, BROADCAST), MalformedFrameError),
            ("template with a body", _put(TEMPLATE + N_BODY, "Q", 1, BROADCAST), MalformedFrameError),
            (
                "template with a body, consistent",
                _sections(lambda s: [replace(s[0], body=b"\0\0\0"), *s[1:]], BROADCAST),
                MalformedFrameError,
            ),
            ("template of unknown codec", _put(TEMPLATE + CODEC, "B", max(CODECS) + 1, BROADCAST), UnknownCodecError),
            ("state of unknown codec", _put(STATE + CODEC, "B", max(CODECS) + 1, BROADCAST), UnknownCodecError),
            ("template for another count", _put(TEMPLATE + ELEMENTS, "Q", HUGE[0], BROADCAST), MalformedFrameError),
            ("state of another count", _put(STATE + ELEMENTS, "Q", HUGE[1], BROADCAST), MalformedFrameError),
            ("state of another codec", _put(STATE + CODEC, "B", 1, BROADCAST), MalformedFrameError),
            ("law unknown", _put(TEMPLATE + SECTION_SIZE, "B", 3, BROADCAST), MalformedFrameError),
            ("mask type unknown", _put(TEMPLATE + SECTION_SIZE + 1, "B", 2, BROADCAST), MalformedFrameError),
            ("scale 0", _put(TEMPLATE + SECTION_SIZE + 2, "f", 0.0, BROADCAST), MalformedFrameError),
            ("scale NaN", _put(TEMPLATE + SECTION_SIZE + 2, "f", float("nan"), BROADCAST), MalformedFrameError),
            ("scale infinite", _put(TEMPLATE + SECTION_SIZE + 2, "f", float("inf"), BROADCAST), MalformedFrameError),
            ("state NaN", _put(STATE + SECTION_SIZE, "f", float("nan"), BROADCAST), NonFiniteError),
        )
    ],
)
def test_each_fault_of_a_broadcast(data: bytes, error: type[FrameError]) -> None:
    _answer(BROADCAST)
    assert allocated(lambda: _refused(lambda: _answer(data), error)) < MEMORY + 8 * len(data)


def test_every_truncation_of_a_broadcast() -> None:
    for size in range(len(BROADCAST)):
        _refused(lambda size=size: _answer(BROADCAST[:size]), TruncatedFrameError)
