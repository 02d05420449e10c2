"""An app with secure sums: a small model that is all masks, a strategy that keeps its server, and clients' updates."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid
from torch import nn
from torch.nn import functional as F

from fedmrn.federation.report import RoundReport
from fedmrn.flower import FedMRN
from fedmrn.flower.client import attach, reply
from fedmrn.flower.records import broadcast_bytes
from fedmrn.flower.streaming import Streaming
from fedmrn.secure import SecureSum
from fedmrn.server import Server
from fedmrn.torch import LocalRule, ModelLayout
from fedmrn.wire.frame import Frame, Kind

SECRET = bytes(range(16))
OPTIONS = {"noise_key": "round", "scale": 0.02}


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    for i, tensor in enumerate(made.parameters()):
        nn.init.constant_(tensor, 0.01 * (i + 1))
    return made


def initial() -> ArrayRecord:
    return ArrayRecord(model().state_dict())


class Keeping(FedMRN):
    """Keeps the server as it is before each round, and the model after it."""

    folder: Path

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        assert self._server is not None
        (self.folder / f"before-{server_round}").mkdir()
        self._server.save(self.folder / f"before-{server_round}")
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        found = super().aggregate_train(server_round, replies)
        assert self._server is not None
        (self.folder / f"after-{server_round}.bin").write_bytes(self._server.state.tobytes())
        return found


def strategy(folder: Path, threshold: int, nodes: int = 5, **more: Any) -> FedMRN:
    """Every node is asked in each round; threshold 0: sums are not secure."""
    counts: dict[str, Any] = dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), nodes - 1)
    plan = Keeping(
        ModelLayout.of(model()),
        "fedmrn-s",
        OPTIONS,
        secret=SECRET,
        equal=True,
        protect=SecureSum(threshold=threshold) if threshold else None,
        fraction_evaluate=0.0,
        **counts,
        **more,
    )
    plan.folder = folder
    return plan


def plain_state(folder: Path, number: int, nodes: Sequence[int], asked: Sequence[int]) -> bytes:
    """The model after a round in which these nodes' plain updates are folded one at a time, by the same server."""
    scheme = FedMRN(ModelLayout.of(model()), "fedmrn-s", OPTIONS, equal=True).scheme
    server = Server.load(folder / f"before-{number}", ModelLayout.of(model()).layout, scheme)
    again = server.begin(number, asked)
    for node in nodes:
        again.add(node, (folder / f"plain-{number}-{node}.bin").read_bytes())
    return again.finish().tobytes()


def stages(report: RoundReport) -> dict[str, dict[str, int]]:
    """Bytes by kind of message and kind of bytes."""
    return {
        f"{kind.name.lower()} {way}": dict(found)
        for kind, stage in report.stages.items()
        for way, found in (("sent", stage.sent), ("received", stage.received))
    }


def round_of(message: Message) -> int:
    return Frame.from_bytes(broadcast_bytes(message.content, "arrays"), kind=Kind.BROADCAST).round


class _Written:
    """A rule whose update is also written to a file, without pads."""

    def __init__(self, rule: LocalRule, path: Path) -> None:
        self._rule, self._path = rule, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def finish(self, **how: Any) -> Frame:
        frame = self._rule.finish(**how)
        self._path.write_bytes(frame.to_bytes())
        return frame


def train(message: Message, context: Context, place: int, folder: Path) -> Message:
    """One step on samples of the node's place; the plain update is written to a file."""
    made, generator = model(), torch.Generator().manual_seed(place)
    y = torch.randint(0, 3, (8,), generator=generator)
    x = torch.randn(8, 6, generator=generator) + 2 * F.one_hot(y, 6)
    optimizer = attach(made, torch.optim.SGD(made.parameters(), lr=0.1), message, context, steps=1)
    F.cross_entropy(made(x), y).backward()
    optimizer.step()
    path = folder / f"plain-{round_of(message)}-{context.node_id}.bin"
    return reply(_Written(optimizer, path), message, context, weight=len(y))  # type: ignore[arg-type]


class Counted(Streaming):
    """A grid that counts messages, looks for replies, and seconds of each exchange.

    Only what a strategy asks for through `send_and_receive` is counted: who is there is asked apart.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.exchanges: list[dict[str, Any]] = []
        self._began = 0.0

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        kinds = sorted({message.metadata.message_type for message in sent})
        self._began = time.monotonic()
        if sent:
            self.exchanges.append({"kind": " ".join(kinds), "messages": len(sent), "looks": 0, "seconds": 0.0})
        return super().push_messages(sent)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        now = self.exchanges[-1]
        now["looks"] += 1
        if found:
            now["seconds"] = round(time.monotonic() - self._began, 1)
        return found
