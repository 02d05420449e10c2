"""A round's line of rounds.jsonl: what codecs say of tensors stands in it under their names."""

import numpy as np

from fedmrn.experiments.run.record import to_record
from fedmrn.federation.account import Exchange
from fedmrn.federation.simulation import RoundResult

BYTES = {"coded": 1, "dense": 2, "stats": 3, "header": 4, "checksum": 5}


def record(observed: dict[str, dict[str, float]]) -> dict[str, object]:
    exchange = Exchange(BYTES, BYTES, BYTES, BYTES)
    state = np.zeros(1, np.float32)
    return to_record(RoundResult(1, 0.5, 0.7, 0.6, [exchange], 1.0, [3], 0.25, state, b"", observed=observed))


def test_observations_stand_under_their_names_between_bits_and_clients() -> None:
    said = {"density": {"w": 0.5}, "noise_scale": {"w": 0.25}, "something new": {"w": 3.0}}
    found = record(said)
    keys = list(found)
    at = keys.index("bits_per_parameter") + 1
    assert keys[at:] == [*said, "clients", "seconds"]
    assert {name: found[name] for name in said} == said
    assert list(record({})) == [k for k in keys if k not in said]
