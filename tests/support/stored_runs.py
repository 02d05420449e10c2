"""Runs of four rounds as records keep them."""

from fedmrn.results.records import Provenance, StoredRun

ORIGIN = Provenance(processor="a processor", torch="2.0", precision="float32", date="2026-01-31", code="1.0")
FEDAVG = {1: [0.5, 0.6, 0.7, 0.8], 2: [0.4, 0.6, 0.75, 0.85], 3: [0.45, 0.55, 0.65, 0.9]}
MASKS = {1: [0.3, 0.61, 0.71, 0.82], 2: [0.2, 0.6, 0.74, 0.84], 3: [0.25, 0.5, 0.66, 0.93]}


def stored(method: str, seed: int, accuracy: list[float], **more) -> StoredRun:
    up = 4_000_000 if method == "fedavg" else 130_000
    values = {"setting": "fmnist-iid", "lr": 0.1, "up": up, "down": 4_000_000, "clients": 10, "parameters": 100_000}
    return StoredRun(**{**values, "method": method, "seed": seed, "accuracy": accuracy, **more})
