"""What a server keeps beside its state comes back to the bit, and damaged files are named."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from small_federation import federation, records, run, small_model

from fedmrn.cli.show import show_frame
from fedmrn.errors import RunError
from fedmrn.experiments.run.carried import restore_carried, save_carried
from fedmrn.methods import METHODS
from fedmrn.server import Carried
from fedmrn.server.optimizer import Adam, Momentum, ServerOptimizer
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec

LAYOUT = Layout.of([TensorSpec("w", (4, 3), Group.CODED), TensorSpec("scale", (3,), Group.DENSE)])
ROW = METHODS["fedmrn"]
SCHEME = ROW.scheme(optimizer=Momentum(1.0, 0.9))


@pytest.mark.parametrize("done", [1, 2])
@pytest.mark.parametrize("scale", [0.02, "auto"])
@pytest.mark.parametrize("optimizer", [None, Momentum(0.5, 0.9), Adam(0.01, 0.9, 0.99, 0.001)])
def test_a_run_goes_on_with_what_its_server_kept(
    tmp_path: Path, done: int, scale: object, optimizer: ServerOptimizer | None
) -> None:
    layout = ModelLayout.of(small_model()).layout
    scheme = ROW.scheme({"scale": scale}, optimizer=optimizer)
    setting = federation("fedmrn", scheme=scheme)
    whole = run(setting)
    for each in whole[: done + 1]:  # killed after the file of the next round and before its checkpoint
        save_carried(tmp_path, layout, ROW.id, each.round, each.carried)
    state = whole[done - 1].state
    carried = restore_carried(tmp_path, layout, done, scheme)
    assert records(run(setting, state, first=done + 1, carried=carried)) == records(whole[done:])
    if optimizer is not None:
        assert records(run(setting, state, first=done + 1)) != records(whole[done:]), "it does matter"
    else:
        assert not list(tmp_path.iterdir())


def test_only_the_files_of_two_rounds_are_kept(tmp_path: Path) -> None:
    kept = Carried(np.ones((1, LAYOUT.trainable), np.float32))
    for number in range(1, 5):
        save_carried(tmp_path, LAYOUT, ROW.id, number, kept)
    save_carried(tmp_path, LAYOUT, ROW.id, 5, Carried(kept.moments[:0]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["carried-3.bin", "carried-4.bin"]
    assert (restore_carried(tmp_path, LAYOUT, 4, SCHEME).moments == 1).all()
    assert (restore_carried(tmp_path, LAYOUT, 0, SCHEME).moments == 0).all()
    assert not restore_carried(tmp_path, LAYOUT, 9, ROW.scheme()).moments.size


def _shown(frame: Frame) -> str:
    text = StringIO()
    show_frame(Console(file=text, width=200), frame, len(frame.to_bytes()))
    return text.getvalue().partition("layout digest")[2]


def test_a_file_of_values_is_not_shown_as_a_mask(tmp_path: Path) -> None:
    save_carried(tmp_path, LAYOUT, ROW.id, 2, Carried(np.ones((1, LAYOUT.trainable), np.float32)))
    kept = Frame.from_bytes((tmp_path / "carried-2.bin").read_bytes())
    shown = _shown(kept)
    assert f"bytes: values {4 * LAYOUT.trainable}, side data 0" in shown
    assert "coded values" in shown
    assert "mask" not in shown
    assert "update" not in shown
    codec = ROW.scheme().codecs[Group.CODED]
    mask = Section(codec.id, Role.UPDATE, Group.CODED, 12, codec.params(), bytes(2))
    shown = _shown(replace(kept, sections=(mask,)))
    assert "bytes: mask 2, side data 0" in shown
    assert "coded update" in shown


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "No such file"),
        ("flipped", "checksum"),
        ("shorter", ""),
        ("another round", "of another round, than its name says: of round 1"),
        ("other setting", f"for this model and setting it must have {2 * LAYOUT.trainable}"),
        ("other model", "it is for a model with other tensors"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, damage: str, words: str) -> None:
    kept, path, scheme = (
        Carried(np.ones((1, LAYOUT.trainable), np.float32)),
        tmp_path / "carried-2.bin",
        SCHEME,
    )
    layout = Layout.of([*LAYOUT.tensors[:-1], replace(LAYOUT.tensors[-1], name="x")])
    save_carried(tmp_path, layout if damage == "other model" else LAYOUT, ROW.id, 2, kept)
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])
    elif damage == "shorter":
        path.write_bytes(data[:-1])
    elif damage == "another round":
        path.write_bytes(replace(Frame.from_bytes(data), round=1).to_bytes())
    elif damage == "other setting":
        scheme = ROW.scheme(optimizer=Adam(0.01, 0.9, 0.99, 0.001))
    with pytest.raises(RunError, match=rf"carried-2\.bin cannot be used \(.*{words}.*delete checkpoint\.bin to start"):
        restore_carried(tmp_path, LAYOUT, 2, scheme)


def test_what_another_version_or_setting_kept_is_not_passed_over(tmp_path: Path) -> None:
    save_carried(tmp_path, LAYOUT, ROW.id, 2, Carried(np.ones((1, LAYOUT.trainable), np.float32)))
    assert not restore_carried(tmp_path, LAYOUT, 1, ROW.scheme()).moments.size
    with pytest.raises(RunError, match=r"carried-2\.bin is of a setting .* older version; delete checkpoint\.bin"):
        restore_carried(tmp_path, LAYOUT, 2, ROW.scheme())
