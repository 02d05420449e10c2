"""Run folders written by hand: a report needs no training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w

from fedmrn.experiments.settings import load_setting

PARAMETERS = 1000
CLIENTS = [0, 3]


def sizes(coded: int) -> dict[str, int]:
    parts = {"coded": coded, "dense": 40, "stats": 20, "header": 30, "checksum": 10}
    return {**parts, "total": sum(parts.values())}


def record(
    number: int, accuracy: float, coded: int = 250, raw: int = 250, density: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """A round of two clients; masks of `coded` bytes that are `raw` bytes without coding."""
    up, down = sizes(coded), sizes(8000)
    found: dict[str, Any] = {"round": number, "accuracy": accuracy, "loss": 1.0, "train_loss": 1.0}
    found |= {"up": up, "down": down, "raw": {"up": sizes(raw), "down": down}}
    found |= {"bits_per_parameter": 8 * up["total"] / (len(CLIENTS) * PARAMETERS), "clients": CLIENTS}
    found |= {"seconds": 1.5} | ({} if density is None else {"density": dict(density)})
    return found


def write_run(
    folder: Path,
    method: str = "fedmrn",
    seed: int = 1,
    accuracies: Sequence[float] = (0.5, 0.8, 0.9),
    *,
    rounds: int = 3,
    changes: Sequence[str] = (),
    coded: int = 250,
    density: Mapping[str, float] | None = None,
    held: Sequence[Sequence[int]] | None = None,
    preset: str = "digits",
    scales: Sequence[Mapping[str, float]] = (),
    calibrated: Sequence[int] = (),
) -> Path:
    """Write the folder of a run on digits that has finished as many rounds as there are accuracies."""
    short = ["train.clients_per_round=2", "data.clients=4", f"train.rounds={rounds}"]
    experiment = load_setting("digits", [*short, *changes]).experiment(method, seed)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(tomli_w.dumps(replace(experiment, preset=preset).as_dict()))
    rows = [record(i, a, coded, 250, density) for i, a in enumerate(accuracies, 1)]
    for row, scale in zip(rows, scales, strict=False):
        row["noise_scale"] = dict(scale)
    for number in calibrated:
        found = {"accuracy": rows[number - 1]["accuracy"] - 0.1, "loss": 1.5, "clients": CLIENTS}
        rows[number - 1]["calibration"] = found | {"up": sizes(0), "down": sizes(8000)}
    lines = [json.dumps(row) for row in rows]
    (folder / "rounds.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if held is not None:
        (folder / "partition.json").write_text(json.dumps(held))
    return folder
