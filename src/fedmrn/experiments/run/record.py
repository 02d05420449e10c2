"""The log of a run, as tables and plots read it; needs no framework."""

import json
from pathlib import Path
from typing import Any

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
