"""The moments of a server's optimizer come back to the bit, and damaged files are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_federation import federation, records, run, small_model

from fedmrn.errors import RunError
from fedmrn.experiments.moments import restore_moments, save_moments
from fedmrn.frame import Frame
from fedmrn.layout import Group, Layout, TensorSpec
from fedmrn.methods import METHODS
from fedmrn.server_optimizer import Adam, Momentum, ServerOptimizer
from fedmrn.torch import ModelLayout

LAYOUT = Layout.of([TensorSpec("w", (4, 3), Group.CODED), TensorSpec("scale", (3,), Group.DENSE)])
METHOD = METHODS["fedmrn"].id


@pytest.mark.parametrize("done", [1, 2])
@pytest.mark.parametrize("optimizer", [Momentum(0.5, 0.9), Adam(0.01, 0.9, 0.99, 0.001)])
def test_a_run_goes_on_with_the_moments_of_its_server(tmp_path: Path, done: int, optimizer: ServerOptimizer) -> None:
    layout = ModelLayout.of(small_model()).layout
    setting = federation("fedmrn", scheme=METHODS["fedmrn"].scheme({"scale": 0.02}, optimizer=optimizer))
    whole = run(setting)
    for each in whole[: done + 1]:  # killed after the moments of the next round and before its checkpoint
        save_moments(tmp_path, layout, METHODS["fedmrn"].id, each.round, each.moments)
    state, slots = whole[done - 1].state, optimizer.slots
    moments = restore_moments(tmp_path, layout, done, slots)
    assert records(run(setting, state, first=done + 1, moments=moments)) == records(whole[done:])
    assert records(run(setting, state, first=done + 1)) != records(whole[done:]), "they do matter"


def test_only_the_moments_of_two_rounds_are_kept(tmp_path: Path) -> None:
    moments = np.ones((1, LAYOUT.trainable), np.float32)
    for number in range(1, 5):
        save_moments(tmp_path, LAYOUT, METHOD, number, moments)
    save_moments(tmp_path, LAYOUT, METHOD, 5, moments[:0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moments-3.bin", "moments-4.bin"]
    assert restore_moments(tmp_path, LAYOUT, 0, 1) is None
    assert restore_moments(tmp_path, LAYOUT, 4, 0) is None


@pytest.mark.parametrize("damage", ["missing", "flipped", "shorter", "another round", "other slots", "other model"])
def test_moments_that_cannot_be_used(tmp_path: Path, damage: str) -> None:
    moments, path, slots = np.ones((1, LAYOUT.trainable), np.float32), tmp_path / "moments-2.bin", 1
    layout = Layout.of([*LAYOUT.tensors[:-1], replace(LAYOUT.tensors[-1], name="x")])
    save_moments(tmp_path, layout if damage == "other model" else LAYOUT, METHOD, 2, moments)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    elif damage == "shorter":
        path.write_bytes(data[:-1])
    elif damage == "another round":
        path.write_bytes(replace(Frame.from_bytes(data), round=1).to_bytes())
    elif damage == "other slots":
        slots = 2
    with pytest.raises(RunError, match=r"moments-2\.bin"):
        restore_moments(tmp_path, LAYOUT, 2, slots)
