"""The log of a run, as tables and plots read it; needs no framework."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmrn.federation.account import Account, total

if TYPE_CHECKING:
    from fedmrn.federation.simulation import RoundResult

Record = dict[str, Any]
"""A line of rounds.jsonl."""
_KEYS = {"accuracy", "loss", "train_loss", "up", "down", "bits_per_parameter", "clients", "seconds"}
"""What a line must have; `raw` and `by_client` are missing in runs from before they were counted."""


def read_records(folder: Path) -> list[Record]:
    """Return the whole lines of rounds.jsonl, as far as they count up from round 1."""
    path = folder / "rounds.jsonl"
    records: list[Record] = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(record, dict) or record.get("round") != len(records) + 1 or not record.keys() >= _KEYS:
            break
        records.append(record)
    return records


def to_record(result: "RoundResult") -> Record:
    """Return a round as plain values: everything but `seconds` is a function of the configuration and the seed.

    `up` and `down` hold the bytes of all clients together by part, `raw` what the same would have taken without coding
    (`fedmrn.wire.messages.plain`), and `by_client` the bytes of each client, in the order of `clients`. What the
    codec says of each coded tensor stands under its own name (`fedmrn.codecs.Observable`), such as `density`.
    """
    exchanges = result.exchanges
    return {
        "round": result.round,
        "accuracy": result.accuracy,
        "loss": result.loss,
        "train_loss": result.train_loss,
        "up": _with_total(result.up),
        "down": _with_total(result.down),
        "raw": {
            "up": _with_total(total(e.raw_up for e in exchanges)),
            "down": _with_total(total(e.raw_down for e in exchanges)),
        },
        "by_client": {"up": _columns([e.up for e in exchanges]), "down": _columns([e.down for e in exchanges])},
        "bits_per_parameter": result.bits_per_parameter,
        **result.observed,
        "clients": result.clients,
        "seconds": round(result.seconds, 3),
    }


def _columns(accounts: Sequence[Account]) -> dict[str, list[int]]:
    return {"coded": [a["coded"] for a in accounts], "total": [sum(a.values()) for a in accounts]}


def _with_total(account: Account) -> Account:
    return {**account, "total": sum(account.values())}
