"""Statistics frames: exact, of one model, and refused wherever another kind of frame is expected."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys, Float16, Raw
from fedmrn.errors import (
    BoundError,
    EncodeError,
    FrameError,
    LimitError,
    MalformedFrameError,
    NonFiniteError,
    WrongKindError,
    WrongLayoutError,
)
from fedmrn.server.aggregate import Aggregator
from fedmrn.wire.frame import Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import model_frame, read_model, templates
from fedmrn.wire.statistics import of_statistics, read_statistics, statistics_frame

SPECS = [
    TensorSpec("w", (3, 2), Group.CODED),
    TensorSpec("n.weight", (2,), Group.DENSE),
    TensorSpec("n.running_mean", (2,), Group.STATS),
    TensorSpec("n.running_var", (2,), Group.VARIANCE),
]
LAYOUT = Layout.of(SPECS)
VALUES = np.array([0.1, -2.5, 0.0, 3.0], np.float32)


def model(layout: Layout = LAYOUT) -> Frame:
    state = np.linspace(0, 1, layout.size, dtype=np.float32)
    return model_frame(layout, state, method=2, round=4, codecs={}, keys=EncodeKeys(77, 1))


def answer(values: NDArray[np.float32] = VALUES, weight: int = 9) -> Frame:
    return statistics_frame(model(), LAYOUT, values, weight=weight)


def test_what_is_read_is_what_was_written() -> None:
    frame = Frame.from_bytes(answer().to_bytes(), kind=Kind.STATISTICS)
    assert (frame.method, frame.round, frame.noise_key, frame.weight) == (2, 4, 77, 9)
    assert read_statistics(frame, LAYOUT).tobytes() == VALUES.tobytes()
    assert [(s.group, s.count) for s in frame.sections] == [(Group.STATS, 2), (Group.VARIANCE, 2)]
    assert len(frame.to_bytes()) == 56 + 2 * (20 + 8) + 4


def test_a_model_with_variances_alone_or_with_nothing() -> None:
    alone = Layout.of([SPECS[0], SPECS[3]])
    frame = statistics_frame(model(alone), alone, VALUES[2:], weight=1)
    assert read_statistics(frame, alone).tolist() == [0.0, 3.0]
    none = Layout.of(SPECS[:2])
    assert of_statistics(none).size == 0
    assert read_statistics(statistics_frame(model(none), none, VALUES[:0], weight=1), none).size == 0


def test_it_is_no_update_no_model_and_no_broadcast() -> None:
    data = answer().to_bytes()
    for kind in set(Kind) - {Kind.STATISTICS}:
        with pytest.raises(WrongKindError, match=f"kind {kind.name.lower()} was expected, got statistics"):
            Frame.from_bytes(data, kind=kind)
    with pytest.raises(WrongKindError):
        read_model(answer(), LAYOUT)
    with pytest.raises(WrongKindError):
        read_statistics(model(), LAYOUT)
    asked = templates(LAYOUT, dict.fromkeys(Group, Raw()))
    aggregator = Aggregator(LAYOUT, asked, method=2, round=4, max_clients=1)
    with pytest.raises(WrongKindError):
        aggregator.add(answer(), 77)


STATS, VARIANCE = answer().sections


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ((STATS,), MalformedFrameError),
        ((VARIANCE, STATS), MalformedFrameError),
        ((STATS, VARIANCE, Section(0, Role.STATE, Group.DENSE, 2, b"", bytes(8))), MalformedFrameError),
        ((STATS, replace(VARIANCE, count=3, body=bytes(12))), MalformedFrameError),
        ((replace(STATS, codec=Float16.id, body=bytes(4)), VARIANCE), MalformedFrameError),
        ((replace(STATS, params=b"\0"), VARIANCE), MalformedFrameError),
        ((replace(STATS, body=bytes(4)), VARIANCE), MalformedFrameError),
        ((replace(STATS, body=np.array([np.nan, 0], "<f4").tobytes()), VARIANCE), NonFiniteError),
        ((replace(STATS, body=np.array([-65537, 0], "<f4").tobytes()), VARIANCE), BoundError),
        ((STATS, replace(VARIANCE, body=np.array([np.inf, 0], "<f4").tobytes())), NonFiniteError),
        ((STATS, replace(VARIANCE, body=np.array([-1e-9, 0], "<f4").tobytes())), BoundError),
        ((STATS, replace(VARIANCE, body=np.array([2.0**127, 0], "<f4").tobytes())), BoundError),
    ],
)
def test_what_a_hostile_client_may_send(sections: tuple[Section, ...], error: type[FrameError]) -> None:
    frame = Frame.from_bytes(replace(answer(), sections=sections).to_bytes(), kind=Kind.STATISTICS)
    with pytest.raises(error):
        read_statistics(frame, LAYOUT)


def test_limits_hold() -> None:
    assert read_statistics(answer(), LAYOUT, Limits(max_value=2.5))[1] == -2.5
    with pytest.raises(BoundError):
        read_statistics(answer(), LAYOUT, Limits(max_value=2.4))
    with pytest.raises(LimitError, match="weight 9"):
        Frame.from_bytes(answer().to_bytes(), limits=Limits(max_weight=8))
    with pytest.raises(MalformedFrameError, match="weight 0"):
        Frame.from_bytes(replace(answer(), weight=0).to_bytes())
    with pytest.raises(WrongLayoutError):
        read_statistics(answer(), Layout.of(SPECS[1:]))


def test_what_a_client_cannot_send() -> None:
    for values in (np.array([np.nan, 0, 1, 1], np.float32), np.array([0, 0, -1, 1], np.float32)):
        with pytest.raises(EncodeError, match=r"tensor n\.running_.* cannot be calibrated with these samples"):
            answer(values)
    with pytest.raises(EncodeError, match="shape"):
        answer(VALUES[:3])
    with pytest.raises(EncodeError, match="weight"):
        answer(weight=0)
    with pytest.raises(WrongKindError):
        statistics_frame(answer(), LAYOUT, VALUES, weight=1)
