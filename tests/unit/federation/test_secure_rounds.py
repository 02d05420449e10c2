"""Secure sums in a simulation: the plain run's model to the bit, every byte by kind, and settings that cannot be."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_federation import federation, rule, run
from torch import nn
from trees import LEAN, fill, server_of, updates

from fedmrn.errors import (
    BelowThresholdError,
    ConfigError,
    DuplicateFrameError,
    UnknownClientError,
    WrongParametersError,
)
from fedmrn.federation import simulation
from fedmrn.federation.setting import Federation
from fedmrn.federation.simulated_sum import SimulatedSum
from fedmrn.federation.transport import Reply
from fedmrn.methods import method
from fedmrn.secure import SecureSum
from fedmrn.server import EdgeRound, Server
from fedmrn.server.summed import MaskSum
from fedmrn.torch import ModelLayout
from fedmrn.wire.layout import Group, Layout, TensorSpec


def setting(
    protect: SecureSum | None = None, *, equal: bool = True, side: str = "float32", **options: Any
) -> Federation:
    given = {"noise_key": "round", "scale": 0.02, **options}
    scheme = method("fedmrn-s").scheme(given, side, equal=equal)
    return replace(federation("fedmrn-s"), scheme=scheme, protect=protect)


def masked_model() -> nn.Module:
    """A model without normalisation layers: all of it is masks."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    for i, tensor in enumerate(model.parameters()):
        nn.init.constant_(tensor, 0.01 * (i + 1))
    return model


def rounds(of: Federation) -> Iterator[simulation.RoundResult]:
    model = masked_model()
    view = ModelLayout.of(model)
    yield from simulation.simulate(of, model, Server.initial(view.layout, of.scheme, view.read()))


@pytest.mark.parametrize("noise", ["bernoulli", "uniform", "gaussian"])
@pytest.mark.parametrize("scale", [0.02, 0.25])
def test_the_model_is_the_plain_one_to_the_bit(noise: str, scale: float) -> None:
    plain = list(rounds(setting(noise=noise, scale=scale)))
    secure = list(rounds(setting(SecureSum(threshold=3), noise=noise, scale=scale)))
    assert [r.state.tobytes() for r in plain] == [r.state.tobytes() for r in secure]
    assert [r.observed for r in plain] == [r.observed for r in secure]
    assert plain[-1].state.tobytes() != plain[0].state.tobytes()


def test_told_scales_follow_the_mean_of_the_wishes() -> None:
    """The first round is the plain one to the bit; later scales follow means of wishes in place of medians."""
    plain = list(rounds(setting(scale="auto")))
    secure = list(rounds(setting(SecureSum(), scale="auto")))
    assert plain[0].state.tobytes() == secure[0].state.tobytes()
    assert plain[0].observed == secure[0].observed
    before, after = ({**r.observed["noise_scale"]} for r in (secure[0], secure[1]))
    assert before != after, "scales were learned"


def test_side_data_is_the_mean_but_for_its_rounding() -> None:
    """Fixed point leaves half a unit of each client's value; nothing is clipped by a median."""
    of = replace(setting(), rounds=1)
    (plain,) = run(of)
    (secure,) = run(replace(of, protect=SecureSum()))
    (unclipped,) = run(replace(of, protect=SecureSum(threshold=4)))
    assert secure.state.tobytes() == unclipped.state.tobytes(), "pads leave no trace"
    assert np.abs(plain.state - secure.state).max() < 0.5
    assert not np.array_equal(plain.state, secure.state)


def test_every_byte_is_counted_by_kind() -> None:
    (first, *_) = rounds(setting(SecureSum(threshold=3)))
    n, coded = 4, sum(p.numel() for p in masked_model().parameters())
    for exchange in first.exchanges:
        up, down = exchange.up, exchange.down
        assert up["coded"] == -(-coded * 3 // 8)
        assert (up["header"], up["checksum"]) == (32, 0)
        assert up["keys"] == 32 + 192
        assert up["shares"] == 32 + (n - 1) * 50
        assert up["unmasking"] == 32 + n * 18
        assert down["keys"] == 32 + 36
        assert down["shares"] == (32 + n * 162) + (32 + (n - 1) * 50)
        assert down["unmasking"] == 32 + n * 2
        assert exchange.raw_up["coded"] == -(-coded // 8)
    assert first.bits_per_parameter == pytest.approx(8 * (32 + -(-coded * 3 // 8)) / coded)


def test_a_client_that_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is the plain sum of the others, to the bit."""
    take, loop = SimulatedSum.take, simulation._train_all
    lost: list[int] = []

    def all_but_the_second(sums: SimulatedSum, reply: Reply) -> None:
        if len(lost) == 1 and reply.client not in lost:
            take(sums, reply)
            return
        lost.append(reply.client)

    monkeypatch.setattr(SimulatedSum, "take", all_but_the_second)
    of = replace(setting(SecureSum(threshold=3)), rounds=1)
    (secure,) = rounds(of)

    def without(chosen: list[int], conduct: Any, transport: Any, memory: Any, *rest: Any) -> list[Reply]:
        replies = [r for r in transport.ask(conduct.train(c) for c in chosen) if r.client not in lost]
        for reply in replies:
            conduct.take(reply)
        return replies

    monkeypatch.setattr(simulation, "_train_all", without)
    (plain,) = rounds(replace(of, protect=None))
    assert len(lost) == 1
    assert secure.state.tobytes() == plain.state.tobytes()
    assert secure.observed == plain.observed
    monkeypatch.setattr(simulation, "_train_all", loop)
    monkeypatch.setattr(SimulatedSum, "take", lambda *_: None)
    with pytest.raises(BelowThresholdError, match="0 of 4 clients answered"):
        list(rounds(of))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"equal": False}, "set equal = true"),
        ({"noise_key": "client"}, 'set noise_key = "round"'),
        ({"coding": "entropy"}, 'coding "raw"'),
    ],
)
def test_schemes_that_cannot_be_summed(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        list(rounds(setting(SecureSum(), **options)))


def test_side_data_is_float32() -> None:
    with pytest.raises(ConfigError, match="leave side"):
        run(replace(setting(SecureSum(), side="float16"), rule=rule))


@pytest.mark.parametrize("number", [1, 2])
def test_a_round_of_one_sum_takes_nothing_else(number: int) -> None:
    """Neither an update nor an edge's sum; and no sum has a client that answers at an edge."""
    server = server_of("fedmrn-s", {"noise_key": "round"}, layout=LEAN)
    if number == 2:
        first = server.begin(1, range(4))
        fill(first, range(4), updates(first), LEAN)
        first.finish()
    round_ = server.begin(number, range(4))
    sent = updates(round_)
    edge = EdgeRound.from_bytes(round_.assign({"e": [3]})["e"], LEAN, threads=1)
    edge.add(3, sent[3])
    one, none = np.ones(LEAN.size, np.uint8), np.zeros(0, np.int64)
    total = MaskSum(clients=(0, 1), ones=one, side=none, fraction=20, wishes=np.zeros(1, np.int64))
    with pytest.raises(UnknownClientError, match="answers at edge e"):
        round_.add_sum(replace(total, clients=(0, 3)))
    round_.add_sum(total)
    for other in (lambda: round_.add(2, sent[2]), lambda: round_.merge("e", edge.partial())):
        with pytest.raises(DuplicateFrameError, match="of single updates or of one sum"):
            other()
    round_.give_up("e")
    with pytest.raises(DuplicateFrameError, match="of single updates or of one sum"):
        round_.add_sum(replace(total, clients=(2, 3)))
    assert round_.answered == {0, 1}
    assert round_.aggregator.count == 2
    round_.finish()


def test_wishes_are_averaged_and_rounded() -> None:
    """Of 3 clients: sums of powers of two above what was told; halves go up."""
    total = MaskSum(
        clients=("ann", "bob", "cyd"),
        ones=np.zeros(1, np.uint8),
        side=np.zeros(0, np.int64),
        fraction=20,
        wishes=np.array([0, 1, 2, 3, -1, -2, -24]),
    )
    found = total.wanted_scales((-5, -5, -5, -5, -5, -5, -80))
    assert found is not None
    assert found.tolist() == [-5, -5, -4, -4, -5, -6, -88]
    assert replace(total, wishes=None).wanted_scales(()) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ones": np.array([4], np.uint8)}, "more bits are set"),
        ({"side": np.array([3 * 64 * 2**20 + 1])}, "beyond what 3 clients can"),
        ({"side": np.array([-3 * 64 * 2**20 - 1])}, "beyond what 3 clients can"),
        ({"wishes": np.array([25])}, "beyond what 3 clients can"),
        ({"wishes": np.array([-25])}, "beyond what 3 clients can"),
    ],
)
def test_sums_that_no_clients_can_have(change: dict[str, Any], why: str) -> None:
    """A client that lies may set a sum to anything; what is out of its range is seen, of each of its parts."""
    layout = Layout.of([TensorSpec("w", (1,), Group.CODED), TensorSpec("norm", (1,), Group.DENSE)])
    whole = MaskSum(
        clients=("ann", "bob", "cyd"),
        ones=np.array([3], np.uint8),
        side=np.array([3 * 64 * 2**20]),
        fraction=20,
        wishes=np.array([-24]),
    )
    whole.check(layout)
    replace(whole, side=-whole.side, wishes=None).check(layout)
    with pytest.raises(WrongParametersError, match=why):
        replace(whole, **change).check(layout)


@pytest.mark.parametrize("threshold", [0, 1, 0.5, 1.5, -2, True, "half"])
def test_thresholds_that_cannot_be(threshold: Any) -> None:
    with pytest.raises(ConfigError, match="the threshold of secure sums"):
        SecureSum(threshold=threshold)


def test_what_a_threshold_means() -> None:
    assert [SecureSum().needed(n) for n in (2, 3, 4, 10, 100)] == [2, 2, 3, 7, 67]
    assert [SecureSum(threshold=2).needed(n) for n in (2, 3, 10)] == [2, 2, 7]
    assert SecureSum(threshold=1.0).needed(7) == 7
    for n in (1, 4):
        with pytest.raises(ConfigError, match="cannot be of"):
            SecureSum(threshold=5).needed(n)
