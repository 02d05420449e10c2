"""Rounds whose model is calibrated by its clients: repeatable, resumable, every byte counted."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_federation import METHODS, federation, records, run, small_model

from fedmrn.errors import ConfigError, FrameError, WorkerError
from fedmrn.federation.setting import Federation
from fedmrn.federation.transport import Message, MessageKind, Reply, Transport
from fedmrn.torch import ModelLayout, calibrate
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group

every_method = pytest.mark.parametrize("name", [*METHODS, "fedpm"])


@every_method
def test_the_last_model_alone_changes_and_training_does_not(name: str) -> None:
    never, last, every = (run(federation(name, calibrate=when)) for when in ("never", "last", "every"))
    assert records(never[:2]) == records(last[:2])
    assert [r.calibrated is not None for r in last] == [False, False, True]
    assert all(r.calibrated for r in every)
    view = ModelLayout.of(small_model())
    trained = slice(0, view.layout.trainable)
    for results in (last, every):
        for one, other in zip(results, never, strict=True):
            # Batch norm trains by its batches' own statistics, so the weights are the same bits.
            assert one.state[trained].tobytes() == other.state[trained].tobytes()
            assert one.train_loss == other.train_loss
            if one.calibrated:
                assert one.state.tobytes() != other.state.tobytes()
                assert one.exchanges == other.exchanges
    assert (last[2].calibrated.accuracy, last[2].calibrated.loss) == (never[2].accuracy, never[2].loss)


def test_the_state_has_the_statistics_of_all_samples_of_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle calibrates the same model on the samples of the round's clients, all in one batch."""
    monkeypatch.setattr(Federation, "clipping", None)
    setting = federation("fedavg", calibrate="last", rounds=1)
    result = run(setting)[0]
    model = small_model()
    view = ModelLayout.of(model)
    view.write(result.state)
    calibrate(model, [setting.train_x[np.concatenate([setting.parts[c] for c in result.clients])]])
    found, expected = (v[view.layout.trainable :] for v in (result.state, view.read()))
    means = view.layout.span(Group.STATS).stop - view.layout.trainable
    np.testing.assert_allclose(found[:means], expected[:means], rtol=1e-4, atol=1e-6)
    # Clients and the oracle divide by one less than the values they have: 16 positions of 3 to 16 samples.
    np.testing.assert_allclose(found[means:], expected[means:], rtol=0.03)


def test_every_byte_is_counted() -> None:
    tape: list[tuple[int, bytes]] = []
    setting = federation("fedmrn", calibrate="last", rounds=1)
    with setting.in_process(small_model()) as inner:
        result = run(setting, transport=Listening(inner, tape))[0]
    kinds = [(client, Frame.from_bytes(data).kind) for client, data in tape]
    assert kinds == [(c, k) for c in result.clients for k in (Kind.MODEL, Kind.STATISTICS)]
    sizes = [len(data) for _, data in tape]
    assert sum(result.calibrated.down.values()) == sum(sizes[::2])
    assert sum(result.calibrated.up.values()) == sum(sizes[1::2])
    assert result.calibrated.clients == result.clients
    assert result.calibrated.up["coded"] == result.calibrated.up["dense"] == 0


class Listening:
    """Writes down what is asked and answered in calibration; and may answer otherwise."""

    def __init__(self, inner: Transport, tape: list[tuple[int, bytes]], **change: object) -> None:
        self._inner, self._tape, self._change = inner, tape, change

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        asked = []

        def noted() -> Iterator[Message]:
            for message in messages:
                asked.append(message)
                yield message

        for reply in self._inner.ask(noted()):
            if reply.kind is MessageKind.CALIBRATE:
                self._tape += [(reply.client, asked[-1].data), (reply.client, reply.data)]
                reply = replace(reply, **self._change)  # noqa: PLW2901
            yield reply


@every_method
@pytest.mark.parametrize("first", [2, 3])
def test_a_run_goes_on_as_if_it_had_never_stopped(name: str, first: int) -> None:
    setting = federation(name, calibrate="every")
    whole = run(setting)
    rest = run(setting, whole[first - 2].state, first=first, carried=whole[first - 2].carried)
    assert records(rest) == records(whole[first - 1 :])


def test_the_random_state_of_the_caller_stays() -> None:
    before = torch.get_rng_state()
    run(federation("fedmrn", calibrate="every", rounds=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"error": "no samples"}, WorkerError, "calibrate: no samples"),
        ({"data": b"FMRN"}, FrameError, "too few"),
        ({"client": 99}, FrameError, "was not asked"),
    ],
)
def test_a_client_that_fails_ends_the_simulation(change: dict[str, object], error: type[Exception], text: str) -> None:
    setting = federation("fedavg", calibrate="last", rounds=1)
    with setting.in_process(small_model()) as inner, pytest.raises(error, match=text):
        run(setting, transport=Listening(inner, [], **change))


def test_a_client_that_is_silent_is_named() -> None:
    setting = federation("fedavg", calibrate="last", rounds=1)

    class Silent(Listening):
        def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
            return (
                r for r in super().ask(messages) if r.kind is MessageKind.TRAIN or r.client != setting.sampled(1)[1]
            )

    with (
        setting.in_process(small_model()) as inner,
        pytest.raises(WorkerError, match=f"client {setting.sampled(1)[1]}$"),
    ):
        run(setting, transport=Silent(inner, []))


def test_when_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="calibrate 'evry' does not exist; did you mean 'every'"):
        federation("fedavg", calibrate="evry")
    assert not any(map(federation("fedavg").calibrates, (1, 2, 3)))
    assert isinstance(federation("fedavg", calibrate="last"), Federation)
