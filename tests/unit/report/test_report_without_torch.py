"""A report is drawn where PyTorch is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedmrn.experiments.run.layout_file import write_layout
from fedmrn.wire.layout import Group, Layout, TensorSpec
from run_folders import write_run

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


def without_torch(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_report_of_run_folders_is_written(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{s}", seed=s, density={"w": 0.3}, coded=240) for s in (1, 2)]
    write_layout(folders[0], Layout.of([TensorSpec("w", (100,), Group.CODED)]))
    write_run(tmp_path / "avg", "fedavg", held=[[9, 1], [2, 2], [3, 3], [4, 4]])
    out = without_torch("from fedmrn.cli import main\nmain()", "report", str(tmp_path))
    assert "accuracy" in out
    assert {"report.html", "summary.json", "masks.png", "holdings.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("command", ["datasets", "methods", "presets", "sweep"])
def test_what_is_there_is_listed(tmp_path: Path, command: str) -> None:
    assert len(without_torch("from fedmrn.cli import main\nmain()", command).splitlines()) > 3


def test_torch_is_not_imported_where_it_is_there() -> None:
    code = "import sys, fedmrn.report, fedmrn.cli.show, fedmrn.data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
