"""Pooled statistics: those of all samples together, and no client moves them far."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.errors import (
    ConfigError,
    DuplicateFrameError,
    EmptyRoundError,
    RoundOrderError,
    UnknownClientError,
    WrongKeyError,
    WrongKindError,
    WrongMethodError,
    WrongRoundError,
)
from fedmrn.methods import method
from fedmrn.server import Clipping, Server
from fedmrn.server.calibration import Calibration, pooled
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_model
from fedmrn.wire.statistics import statistics_frame

LAYOUT = Layout.of(
    [
        TensorSpec("w", (3,), Group.CODED),
        TensorSpec("n.running_mean", (2,), Group.STATS),
        TensorSpec("positions", (2,), Group.STATS),
        TensorSpec("n.running_var", (2,), Group.VARIANCE),
    ]
)
START = np.array([1, 2, 3, 0, 0, 0.1, -7, 1, 1], np.float32)
TRAINED = 3


def server(name: str = "fedavg", clipping: Clipping | None = Clipping(), **how: object) -> Server:  # noqa: B008
    scheme = method(name).scheme(**how)
    return Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, START), bytes(16), run=bytes(16), clipping=clipping)


def of_samples(samples: NDArray[np.float64]) -> NDArray[np.float32]:
    """What a client with these samples, of two channels, sends; the table of positions as it is."""
    return np.concatenate([samples.mean(0), START[5:7], samples.var(0)]).astype(np.float32)


def answer(calibration: Calibration, values: NDArray[np.float32], weight: int = 1) -> bytes:
    return statistics_frame(calibration.frame, LAYOUT, values, weight=weight).to_bytes()


def test_the_result_is_of_all_samples_together() -> None:
    """The oracle has all samples at once: clients of several sizes, each of another mean."""
    random = np.random.default_rng(1)
    parts = [random.normal(shift, 1 + shift / 4, (size, 2)) for shift, size in ((0, 40), (1, 70), (2, 100), (3, 50))]
    subject = server(clipping=None)
    calibration = subject.calibrate(range(4))
    for client in (2, 0, 3, 1):
        calibration.add(client, answer(calibration, of_samples(parts[client]), len(parts[client])))
    state = calibration.finish()
    everything = np.concatenate(parts)
    # Float32 of each client's two numbers, and of the result.
    np.testing.assert_allclose(state[3:5], everything.mean(0), rtol=2.0**-22)
    np.testing.assert_allclose(state[7:9], everything.var(0), rtol=2.0**-21)
    assert np.array_equal(state[[0, 1, 2, 5, 6]], START[[0, 1, 2, 5, 6]]), "nothing else has moved"
    assert subject.state is state
    assert subject.round == 0


def test_the_order_of_answers_does_not_matter() -> None:
    random = np.random.default_rng(2)
    parts = [random.normal(size=(9, 2)) for _ in range(5)]
    ends = []
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
        calibration = server().calibrate(range(5))
        for client in order:
            calibration.add(client, answer(calibration, of_samples(parts[client]), client + 1))
        ends.append(calibration.finish().tobytes())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("sign", [1, -1])
def test_one_hostile_client_moves_them_no_farther_than_others_are_apart(sign: int) -> None:
    rows = np.array([of_samples(np.random.default_rng(i).normal(size=(50, 2))) for i in range(9)])
    evil = rows.copy()
    evil[8] = [sign * 60000.0, sign * -60000.0, 5.0, 5.0, 2.0**100, 0.0]
    weights = np.ones(9)
    good, found = (pooled(LAYOUT, r, weights, Clipping()) for r in (rows, evil))
    apart = np.abs(evil[:, :2] - np.median(evil[:, :2], axis=0)).max(axis=1)
    farthest = 4 * np.sort(apart)[4]
    assert np.abs(found[:2] - good[:2]).max() <= 2 * farthest / 9
    assert np.array_equal(found[2:4], START[5:7]), "where all others agree it moves nothing"
    # A variance within a factor of four of the median counts a ninth; and its clipped mean adds what it is apart.
    assert (
        found[4:] <= (8 * rows[:8, 4:].max(0) + 4 * np.median(evil[:, 4:], axis=0)) / 9 + farthest**2 / 9 * 1.01 + 0.05
    ).all()
    assert (found[4:] > rows[:8, 4:].min(0) * 8 / 9).all()
    assert np.abs(pooled(LAYOUT, evil, weights, None)[0]) > 6000, "without clipping it does"


def test_weights_are_capped_and_may_count_alike() -> None:
    values = [np.array([i, 0, *START[5:7], 1, 1], np.float32) for i in (0, 1, 2)]
    found = {}
    for name, subject, weights in (
        ("claims", server(), (10, 10, 1 << 20)),
        ("four times the median", server(), (10, 10, 40)),
        ("alike", server(equal=True), (10, 10, 1 << 20)),
    ):
        calibration = subject.calibrate("abc")
        for client, row, weight in zip("abc", values, weights, strict=True):
            calibration.add(client, answer(calibration, row, weight))
        found[name] = calibration.finish()[3]
    assert found["claims"] == found["four times the median"] == np.float32((1 + 2 * 4) / 6)
    assert found["alike"] == 1


def test_a_variance_of_zero_stays_and_a_single_client_is_taken_at_its_word() -> None:
    calibration = server().calibrate([0])
    values = np.array([5, -6, 1, 2, 0, 7], np.float32)
    calibration.add(0, answer(calibration, values))
    assert calibration.finish()[TRAINED:].tolist() == values.tolist()


def test_a_compressed_model_leaves_what_nobody_found_otherwise() -> None:
    """Positions of 0.1 travel as float16; clients send back what they got, and the state keeps its own."""
    subject = server(down="float16")
    calibration = subject.calibrate([0])
    shown = read_model(calibration.frame, LAYOUT)[TRAINED:]
    assert shown[2] != START[5]
    calibration.add(0, answer(calibration, np.array([1, 1, *shown[2:4], 2, 2], np.float32)))
    assert calibration.finish()[TRAINED:].tolist() == [1, 1, *START[5:7].tolist(), 2, 2]


def test_what_does_not_belong_is_refused_and_the_rest_counts() -> None:
    calibration = server().calibrate([0, 1])
    good = answer(calibration, START[TRAINED:])
    frame = Frame.from_bytes(good)
    with pytest.raises(UnknownClientError):
        calibration.add(2, good)
    for changed, error in (
        (replace(frame, method=2), WrongMethodError),
        (replace(frame, round=1), WrongRoundError),
        (replace(frame, noise_key=frame.noise_key ^ 1), WrongKeyError),
        (replace(frame, kind=Kind.UPDATE, sections=()), WrongKindError),
    ):
        with pytest.raises(error):
            calibration.add(0, changed.to_bytes())
    assert calibration.answered == ()
    calibration.add(0, good)
    with pytest.raises(DuplicateFrameError):
        calibration.add(0, good)
    assert np.array_equal(calibration.finish(), START)


def test_it_lies_between_two_rounds() -> None:
    subject = server()
    calibration = subject.calibrate([0])
    with pytest.raises(EmptyRoundError):
        calibration.finish()
    round_ = subject.begin(1, [0])
    with pytest.raises(RoundOrderError, match="between two rounds"):
        subject.calibrate([0])
    calibration.add(0, answer(calibration, START[TRAINED:]))
    with pytest.raises(RoundOrderError):
        calibration.finish()
    broadcast = Frame.from_bytes(round_.broadcast(0))
    update = encode_update(broadcast, LAYOUT, np.zeros(LAYOUT.size, np.float32), weight=1, sampling_key=0)
    round_.add(0, update.to_bytes())
    round_.finish()
    with pytest.raises(RoundOrderError):
        calibration.finish()
    later = subject.calibrate([0])
    assert later.frame.round == 1
    assert later.frame.noise_key != calibration.frame.noise_key
    later.add(0, answer(later, np.array([1, 1, *START[5:7], 2, 2], np.float32)))
    later.finish()
    subject.begin(2, [0])


def test_nobody_and_nothing_to_calibrate() -> None:
    with pytest.raises(ConfigError, match="at least one client"):
        server().calibrate([])
    bare = Layout.of([TensorSpec("w", (3,), Group.CODED)])
    subject = Server(bare, method("fedavg").scheme(), START[:3], bytes(16))
    with pytest.raises(ConfigError, match="no running statistics"):
        subject.calibrate([0])


def test_the_clip_of_variances_is_a_factor_of_four() -> None:
    rows = np.array([[0, 0, 0, 0, v, 1] for v in (1, 1, 1, 1, 1e6)], np.float32)
    rows[:4, 5] = [1, 2, 3, 4]  # so that the middle client is apart
    found = pooled(LAYOUT, rows, np.ones(5), Clipping())
    assert found[4] == pytest.approx((4 + np.exp(log(4))) / 5)
