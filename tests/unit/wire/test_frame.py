import struct

import pytest
from core_examples import LAYOUT, begin, update

import oracle
from fedmrn.errors import ConfigError, LimitError, WrongKindError
from fedmrn.wire.frame import CHECKSUM_SIZE, HEADER_SIZE, SECTION_SIZE, Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group


@pytest.fixture
def data() -> bytes:
    return update(begin(), "ann")


def test_sizes() -> None:
    assert (HEADER_SIZE, SECTION_SIZE, CHECKSUM_SIZE) == (56, 20, 4)
    assert struct.calcsize(oracle.HEADER) == HEADER_SIZE
    assert struct.calcsize(oracle.SECTION) == SECTION_SIZE


def test_there_and_back(data: bytes) -> None:
    frame = Frame.from_bytes(data)
    assert frame.to_bytes() == data
    assert (frame.kind, frame.method, frame.round, frame.weight) == (Kind.UPDATE, 2, 1, 10)
    assert frame.layout_digest == LAYOUT.digest
    assert [(s.role, s.group, s.count) for s in frame.sections] == [
        (Role.UPDATE, Group.CODED, 21),
        (Role.UPDATE, Group.DENSE, 5),
        (Role.UPDATE, Group.STATS, 3),
    ]
    assert Frame.from_bytes(memoryview(bytearray(data))) == frame


def test_the_oracle_reads_and_writes_it(data: bytes) -> None:
    for frame in (data, begin().broadcast("bob")):
        assert oracle.write_frame(oracle.read_frame(frame)) == frame


def test_the_largest_fields_survive() -> None:
    section = Section(255, Role.UPDATE, Group.STATS, (1 << 64) - 1, b"p" * 255, b"body")
    frame = Frame(Kind.UPDATE, 65535, (1 << 32) - 1, (1 << 64) - 1, b"\xff" * 16, 1 << 20, (section,))
    assert Frame.from_bytes(frame.to_bytes()) == frame


def test_a_frame_without_sections() -> None:
    frame = Frame(Kind.UPDATE, 1, 1, 0, bytes(16), 1, ())
    assert len(frame.to_bytes()) == 60
    assert Frame.from_bytes(frame.to_bytes()) == frame


def test_bodies_are_views(data: bytes) -> None:
    source = memoryview(data)
    for section in Frame.from_bytes(source).sections:
        assert isinstance(section.body, memoryview)
        assert section.body.obj is data


def test_account_adds_up(data: bytes) -> None:
    for frame in (data, begin().broadcast("bob")):
        parts = Frame.from_bytes(frame).account()
        assert sum(parts.values()) == len(frame)
        assert list(parts) == ["coded", "dense", "stats", "variance", "header", "checksum"]
    assert Frame.from_bytes(data).account() == {
        "coded": 3,
        "dense": 20,
        "stats": 12,
        "variance": 0,
        "header": 56 + 3 * 20 + 6,
        "checksum": 4,
    }


def test_select() -> None:
    frame = Frame.from_bytes(begin().broadcast("bob"))
    template, state = frame.select(Role.TEMPLATE, Group.DENSE), frame.select(Role.STATE, Group.DENSE)
    assert template is not None
    assert state is not None
    assert (len(template.body), len(state.body)) == (0, 20)
    assert state.template == template
    assert frame.select(Role.UPDATE, Group.DENSE) is None


def test_the_kind_asked_for(data: bytes) -> None:
    broadcast = begin().broadcast("bob")
    assert Frame.from_bytes(data, kind=Kind.UPDATE).kind is Kind.UPDATE
    assert Frame.from_bytes(broadcast, kind=Kind.BROADCAST).kind is Kind.BROADCAST
    with pytest.raises(WrongKindError, match="kind update was expected, got broadcast"):
        Frame.from_bytes(broadcast, kind=Kind.UPDATE)
    with pytest.raises(WrongKindError, match="kind broadcast was expected, got update"):
        Frame.from_bytes(data, kind=Kind.BROADCAST)


def test_limits_are_inclusive(data: bytes) -> None:
    exact = Limits(max_bytes=len(data), max_sections=3, max_weight=10)
    assert Frame.from_bytes(data, limits=exact).weight == 10
    for tight in (
        Limits(max_bytes=len(data) - 1),
        Limits(max_sections=2),
        Limits(max_weight=9),
    ):
        with pytest.raises(LimitError):
            Frame.from_bytes(data, limits=tight)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_bytes": 0},
        {"max_sections": 0},
        {"max_weight": -1},
        {"max_value": 0.0},
        {"max_value": float("inf")},
        {"max_value": float("nan")},
    ],
)
def test_limits_must_limit(fields: dict[str, float]) -> None:
    (name,) = fields
    with pytest.raises(ConfigError, match=f"{name} is (at least 1, got|positive and finite)"):
        Limits(**fields)  # type: ignore[arg-type]
