"""machine.json: a line for each machine that a run went on with; damaged files are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from fedmrn.errors import RunError
from fedmrn.experiments.run import machine as module
from fedmrn.experiments.run.machine import Machine, note_machine, read_machines, this_machine

HERE = Machine(processor="A", device="cpu", torch="2.0", fedmrn="1.0", date="2026-01-31")


def test_this_machine_is_named() -> None:
    found = this_machine("cpu")
    assert found.device == "cpu"
    assert found.torch.startswith("2.")
    assert found.processor
    assert len(found.date) == len("2026-01-31")


def test_a_processor_without_a_name_in_the_systems_file(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: A: B\nmodel name : C\n")
    assert module._processor(tmp_path / "cpuinfo").startswith("A: B, ")
    assert module._processor(tmp_path / "absent").endswith("cores")
    assert module._version("no-such-package") == "not installed"


def test_the_same_machine_is_noted_once(tmp_path: Path) -> None:
    assert read_machines(tmp_path) == []
    other = replace(HERE, torch="2.1", date="2026-02-02")
    for each in (HERE, replace(HERE, date="2026-02-01"), other, HERE):
        note_machine(tmp_path, each)
    assert read_machines(tmp_path) == [HERE, other, HERE]


@pytest.mark.parametrize("text", ["", "{}", "[{}]", '[{"processor": 1}]', "[1, 2]", '[{"x": "' + "y" * 300 + '"}]'])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(RunError, match=r"machine\.json.*; delete it"):
        read_machines(tmp_path)
