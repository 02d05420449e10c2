"""The loop over the rounds of a simulated federation: every broadcast and every update goes through its bytes.

A round is a pure function of (seed, round, state): a run that was stopped goes on to the identical result, whatever
transport carries its messages and in whatever order replies come.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedmrn.errors import WorkerError
from fedmrn.federation.account import Account, Exchange, total
from fedmrn.federation.calibration import Calibrated, calibrate_all
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.federation.setting import Federation, Memory
from fedmrn.federation.simulated_sum import SimulatedSum
from fedmrn.federation.transport import Reply, Transport
from fedmrn.server import Carried, Server
from fedmrn.server.publisher import Sent
from fedmrn.torch import ModelLayout, evaluate
from fedmrn.torch.loop import channels_last
from fedmrn.wire.frame import OWN_LIMITS
from fedmrn.wire.statistics import of_statistics


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A simulated round's result: accuracy and losses of the new model, and every byte both ways.

    Attributes:
        round: its number, from 1.
        accuracy, loss: of the new global model on the test samples, None where the round is not tested
            (`Federation.tests`); what the accuracy is, the objective says.
        train_loss: mean over clients of their last local epoch.
        exchanges: the bytes of each client's frames, in the order of `clients`.
        bits_per_parameter: 8 * bytes of all update frames / (clients * trainable parameters).
        clients: who took part.
        seconds: wall time, evaluation included.
        state: the server's new state, float32, shape (d,).
        sample: the update frame of the last client.
        memory: what the clients of this round keep, for methods whose clients do.
        carried: what the server keeps beside the state.
        observed: what the codec says of each coded tensor (`Server.observed`); empty where it says nothing.
        calibrated: how the model was before it was calibrated, and what that cost; None if it was not.
        public: how each client was sent the public model, in the order of `clients`; empty where there is none.
        shown: what clients are shown of the state, and what is evaluated: the public model where there is one.
    """

    round: int
    accuracy: float | None
    loss: float | None
    train_loss: float
    exchanges: list[Exchange] = field(repr=False)
    bits_per_parameter: float
    clients: list[int]
    seconds: float
    state: NDArray[np.float32] = field(repr=False)
    sample: bytes = field(repr=False)
    memory: Memory = field(repr=False, default_factory=dict)
    carried: Carried = field(repr=False, default_factory=lambda: Carried(np.zeros((0, 0), np.float32)))
    observed: dict[str, dict[str, float]] = field(repr=False, default_factory=dict)
    calibrated: Calibrated | None = None
    public: list[Sent] = field(default_factory=list)
    shown: NDArray[np.float32] = field(repr=False, default_factory=lambda: np.zeros(0, np.float32))

    @property
    def up(self) -> Account:
        """Bytes by part of the update frames, all clients together."""
        return total(exchange.up for exchange in self.exchanges)

    @property
    def down(self) -> Account:
        """Bytes by part of the broadcast frames, all clients together."""
        return total(exchange.down for exchange in self.exchanges)


def simulate(
    federation: Federation,
    model: nn.Module,
    state: NDArray[np.float32],
    *,
    transport: Transport | None = None,
    first: int = 1,
    memory: Memory | None = None,
    carried: Carried | None = None,
    on_client: Callable[[int], None] = lambda _: None,
    workers: int = 1,
) -> Generator[RoundResult]:
    """Run rounds first..rounds, yielding each result.

    Args:
        federation: the setting.
        model: the architecture, on the device that trains and evaluates; its values are overwritten.
        state: of the server before round `first`; `Server.initial` gives the first.
        transport: carries the messages; by default to clients on this machine.
        first: the first round to run.
        memory: what clients keep from rounds before `first`.
        carried: what the server kept beside the state before `first`; by default what a run starts with.
        on_client: called after each reply with the number of replies of the round so far.
        workers: without a transport of one's own, processes that train clients at the same time, each with the
            framework's present number of threads; 1: this one. The results do not depend on it. Close the iterator to
            end them before it does. A script that asks for more than 1 runs under `if __name__ == "__main__":`, as
            each of them imports it.

    Raises:
        FrameError, UsageError, EncodeError: as the parts do.
        UnusableModelError: a round leads to a model that is not finite.
        WorkerError: a client failed or did not answer, or a worker process was lost.
    """
    view = ModelLayout.of(model, federation.choose)
    server = Server(
        view.layout,
        federation.scheme,
        state,
        secret_of(federation.seed),
        run=run_of(federation.seed),
        round=first - 1,
        clipping=federation.clipping,
        limits=OWN_LIMITS,
        carried=carried,
    )
    memory, held = dict(memory or {}), dict[int, bytes]()
    federation = federation.tested_on(view.device)
    if server.publisher is not None:
        view.write(server.publisher.start)  # as clients build it, even if this object was trained in rounds before

    def kept(client: int) -> bytes:
        """Return what a client keeps of public models: in a run that goes on, what one has that lost nothing."""
        if server.publisher is None:
            return b""
        return held.get(client) or server.publisher.held_by(client).to_bytes()

    with federation.in_process(model, workers) if transport is None else nullcontext(transport) as carrier:
        for number in range(first, federation.rounds + 1):
            started = time.perf_counter()
            conduct = Conduct(server.begin(number, federation.sampled(number)), view.layout.trainable, by_client=True)
            chosen, sums = federation.sampled(number), None
            if federation.protect is not None:
                sums = SimulatedSum(federation.protect, server, conduct, chosen)
            replies = _train_all(chosen, conduct, carrier, memory, kept, on_client, sums)
            held.update({reply.client: reply.held for reply in replies})
            if sums is not None:
                sums.finish()
            conduct.finish()
            calibrated = None
            if federation.calibrates(number) and of_statistics(view.layout).size:
                calibrated = _calibrated(federation, model, server, conduct, carrier, kept)
            result = _result(federation, model, server, conduct, replies, started, calibrated)
            memory.update(result.memory)
            yield result


def _train_all(
    chosen: Sequence[int],
    conduct: Conduct,
    transport: Transport,
    memory: Memory,
    held: Callable[[int], bytes],
    on_client: Callable[[int], None],
    sums: SimulatedSum | None,
) -> list[Reply]:
    """Let a round's clients train and fold what they send; return their replies in order of `chosen`.

    Of the updates only that of the last of them is kept.
    """
    replies: dict[int, Reply] = {}
    number = conduct.report.round
    for reply in transport.ask(conduct.train(client, kept=memory.get(client), held=held(client)) for client in chosen):
        if sums is None or reply.error is not None:
            conduct.take(reply)
        else:
            sums.take(reply)
        if reply.error is not None:
            raise WorkerError(f"round {number}: {conduct.report.failed[-1]}")
        if "train_loss" not in reply.metrics:
            raise WorkerError(f"round {number}: the reply of client {reply.client} lacks the metric train_loss")
        replies[reply.client] = reply if reply.client == chosen[-1] else replace(reply, data=b"")
        on_client(len(replies))
    missing = [client for client in chosen if client not in replies]
    if missing:
        raise WorkerError(f"round {number}: no reply came from client {', '.join(map(str, missing))}")
    return [replies[client] for client in chosen]


def _result(
    federation: Federation,
    model: nn.Module,
    server: Server,
    conduct: Conduct,
    replies: Sequence[Reply],
    started: float,
    calibrated: Calibrated | None,
) -> RoundResult:
    """Evaluate the new model, where the round is tested, and return the round's result.

    `started` is when the round did, by `time.perf_counter`.
    """
    view, report = ModelLayout.of(model, federation.choose), conduct.report
    accuracy, loss = _evaluated(federation, model, server)
    return RoundResult(
        round=report.round,
        accuracy=accuracy,
        loss=loss,
        train_loss=sum(reply.metrics["train_loss"] for reply in replies) / len(replies),
        exchanges=[conduct.exchanges[reply.client] for reply in replies],
        bits_per_parameter=8 * report.up / (len(replies) * view.layout.trainable),
        clients=[reply.client for reply in replies],
        seconds=time.perf_counter() - started,
        state=server.state,
        shown=server.shown,
        sample=replies[-1].data,
        memory={reply.client: reply.kept for reply in replies if reply.kept is not None},
        carried=server.carried,
        observed=server.observed,
        calibrated=calibrated,
        public=[report.public[reply.client] for reply in replies if report.public],
    )


def _calibrated(
    federation: Federation,
    model: nn.Module,
    server: Server,
    conduct: Conduct,
    transport: Transport,
    held: Callable[[int], bytes],
) -> Calibrated:
    """Let the round's clients calibrate the new model; return how it was before, and what that cost."""
    accuracy, loss = _evaluated(federation, model, server)
    stage = calibrate_all(server, conduct, transport, federation.sampled(server.round), held)
    return Calibrated(accuracy=accuracy, loss=loss, clients=list(stage.asked), up=stage.received, down=stage.sent)


def _evaluated(federation: Federation, model: nn.Module, server: Server) -> tuple[float, float] | tuple[None, None]:
    """Return accuracy and loss of the models that the server's state stands for: their mean; None where not tested."""
    if not federation.tests(server.round):
        return None, None
    view = ModelLayout.of(model, federation.choose)
    quick = federation.training.channels_last and view.device.type == "cpu"
    test = partial(evaluate, layout=channels_last) if quick else evaluate
    scores = []
    for values in server.models(server.round):
        view.write(values)
        scores.append(test(model, federation.test_x, federation.test_y, objective=federation.objective))
    accuracy, loss = (fmean(column) for column in zip(*scores, strict=True))
    return accuracy, loss
