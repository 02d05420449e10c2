"""What a run's folder tells of the run: its settings, and a line for each part of a round that is over."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from enum import StrEnum
from typing import Any

from flwr.app import MetricRecord

from fedmrn.federation.report import RoundReport, Stage
from fedmrn.federation.transport import MessageKind
from fedmrn.methods import Method
from fedmrn.server import Clipping
from fedmrn.server.publisher import Sent
from fedmrn.server.scheme import Scheme


class RoundPart(StrEnum):
    """What a line is about."""

    ASKED = "asked"
    """Who is asked to train."""
    TRAIN = "train"
    EVALUATE = "evaluate"
    """By nodes."""
    TEST = "test"
    """By the server's own function."""


@dataclass(frozen=True, kw_only=True)
class KeptLine:
    """One part of a round that is over.

    Attributes:
        metrics: what the strategy returned; None for none.
        nodes: who is asked.
        report: what came of the round so far.
    """

    metrics: MetricRecord | None = None
    nodes: tuple[int, ...] = ()
    report: RoundReport | None = None


def settings_of(
    method: Method,
    options: Mapping[str, Any] | None,
    side: str,
    down: object,
    scheme: Scheme,
    clipping: Clipping | None,
) -> dict[str, object]:
    """Return what may not change when a run goes on, by name, as JSON has it.

    Args:
        method, options, side, down, clipping: as the strategy was given them.
        scheme: that they make.
    """
    values: dict[str, object] = {"method": method.name}
    values |= {f"options.{name}": value for name, value in method.resolve(options).items()}
    values |= {"side": side, "down": scheme.grid or down, "optimizer": scheme.optimizer}
    values |= {"equal": not scheme.weighted, "clipping": clipping}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: object) -> object:
    """Return numbers, truth values and words as they are, and objects by what they say of themselves."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value) if is_dataclass(value) else type(value).__qualname__


def text_of(part: RoundPart, round: int, line: KeptLine) -> bytes:
    """Return a line with its end."""
    values: dict[str, object] = {"part": part, "round": round}
    values["metrics"] = None if line.metrics is None else dict(line.metrics)
    if line.nodes:
        values["nodes"] = line.nodes
    if line.report is not None:
        values["report"] = asdict(line.report)
    return json.dumps(values, default=sorted).encode() + b"\n"  # sorted: sets


def line_of(values: dict[str, Any]) -> KeptLine:
    """Return what a line holds, from its values.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: they are not those of a line.
    """
    metrics, report = values["metrics"], values.get("report")
    return KeptLine(
        metrics=None if metrics is None else MetricRecord(metrics),
        nodes=tuple(map(int, values.get("nodes", ()))),
        report=None if report is None else _report(report),
    )


def _report(values: dict[str, Any]) -> RoundReport:
    stages = {
        MessageKind(kind): Stage(
            asked=_by_client(stage["asked"]),
            answered=set(map(int, stage["answered"])),
            replies=_by_client(stage["replies"]),
            sent={part: int(size) for part, size in stage["sent"].items()},
            received={part: int(size) for part, size in stage["received"].items()},
        )
        for kind, stage in values["stages"].items()
    }
    public = {int(client): Sent(how) for client, how in values["public"].items()}
    return RoundReport(**{**values, "stages": stages, "public": public})


def _by_client(values: dict[str, Any]) -> dict[int, int]:
    return {int(client): int(times) for client, times in values.items()}
