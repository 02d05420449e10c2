"""layout.json: what is written is read, and what nobody should have written is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedmrn.errors import RunError
from fedmrn.experiments.run import layout_file
from fedmrn.experiments.run.layout_file import read_layout, write_layout
from fedmrn.experiments.run.runner import run
from fedmrn.experiments.settings import load_setting
from fedmrn.wire.layout import Group, Layout, TensorSpec
from silent import Silent

LAYOUT = Layout.of(
    [
        TensorSpec("norm.weight", (3,), Group.DENSE),
        TensorSpec("norm.mean", (3,), Group.STATS),
        TensorSpec("norm.var", (3,), Group.VARIANCE),
        TensorSpec("0.weight", (3, 2, 1), Group.CODED),
        TensorSpec("scalar", (), Group.CODED),
    ]
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_layout(tmp_path) is None
    write_layout(tmp_path, LAYOUT)
    assert read_layout(tmp_path) == LAYOUT
    first = json.loads((tmp_path / "layout.json").read_text())[0]
    assert first == {"name": "0.weight", "shape": [3, 2, 1], "group": "coded"}


def test_a_run_keeps_the_layout_of_its_model(tmp_path: Path) -> None:
    changes = ["train.rounds=1", "train.clients_per_round=1", "train.local_epochs=1", "data.max_samples=32"]
    experiment = load_setting("digits", changes).experiment("fedavg", 1)
    run(experiment, tmp_path, data_dir=tmp_path, resume=False, progress=Silent())
    layout = read_layout(tmp_path)
    assert layout is not None
    assert {t.name: t.shape for t in layout.tensors}["0.weight"] == (32, 1, 3, 3)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "shape": [2], "group": "coded"} | changes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSON"),
        ("[" * 100_000, "JSON"),
        ("{}", "array"),
        (json.dumps([tensor(name="")]), "0.name"),
        (json.dumps([tensor(name="x" * 1001)]), "0.name"),
        (json.dumps([tensor(name=1)]), "0.name"),
        (json.dumps([tensor(shape=[-1])]), "0.shape.0"),
        (json.dumps([tensor(shape=[1.0])]), "0.shape.0"),
        (json.dumps([tensor(shape=[True])]), "0.shape.0"),
        (json.dumps([tensor(shape=[10**400])]), "0.shape.0"),
        (json.dumps([tensor(shape=[1] * 17)]), "0.shape"),
        (json.dumps([tensor(shape=[1 << 30, 1 << 30])]), "elements"),
        (json.dumps([tensor(group="mask")]), "0.group"),
        (json.dumps([tensor(more=1)]), "0.more"),
        (json.dumps([tensor(), tensor()]), "same name"),
        (json.dumps([tensor(group="stats"), tensor(name="b")]), "order"),
        (json.dumps([tensor(name=str(i)) for i in range((1 << 16) + 1)]), "65536"),
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_layout_that_is_none(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "layout.json").write_text(text)
    with pytest.raises(RunError, match=rf"layout\.json: .*{words}.*; delete it") as caught:
        read_layout(tmp_path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_no_more_is_read_than_a_layout_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_layout(tmp_path, LAYOUT)
    monkeypatch.setattr(layout_file, "MOST_BYTES", 10)
    with pytest.raises(RunError, match=r"layout\.json is larger than 10 bytes"):
        read_layout(tmp_path)


def test_a_link_to_something_endless_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "layout.json").symlink_to("/dev/zero")
    with pytest.raises(RunError, match=r"layout\.json is a link"):
        read_layout(tmp_path)
