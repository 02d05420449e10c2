"""Data and models of a person's own, through the real command line: the example, and mistakes."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command import Cli, changes, refused_in_one_line
from own_files import write_pictures

EXAMPLE = Path(__file__).parents[2] / "examples" / "your-data"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The example, its pictures drawn, in a folder of its own."""
    folder = tmp_path / "mine"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "shapes", "runs"))
    subprocess.run([sys.executable, "make_pictures.py"], cwd=folder, check=True)
    return folder


def records(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "rounds.jsonl").read_text("utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_the_example_of_the_page(cli: Cli, tmp_path: Path, example: Path) -> None:
    """`fedmrn compare mine.toml`: a folder of pictures, a model from a file; it learns, and the report says what."""
    done = cli("compare", "mine/mine.toml", "--set", "train.threads=1")
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads((tmp_path / "runs/mine/summary.json").read_text())}
    assert rows.keys() == {"fedavg", "fedmrn", "fedmrn-s"}
    # A third of the 120 test pictures are right by chance, within 0.13 in 999 of 1000 cases.
    assert all(row["final"] > 0.8 for row in rows.values()), rows
    assert rows["fedmrn"]["saved"]["up"] > 10
    page = (tmp_path / "runs/mine/report.html").read_text()
    assert "shapes, dirichlet" in page
    found = json.loads((tmp_path / "runs/mine/fedavg-seed1/data.json").read_text())
    assert (found["train"], found["test"], found["class_names"]) == (360, 120, ["circle", "cross", "square"])


MANY = """
preset = "mine.toml"
methods = ["fedmrn"]
seeds = [1]
set.train.rounds = 2
axes.train.local_epochs = [1, 2]
"""


def test_workers_a_sweep_and_resuming_come_to_the_same(cli: Cli, tmp_path: Path, example: Path) -> None:
    few = ["--set", "train.rounds=2", "--set", "train.local_epochs=1", "--set", "train.threads=1"]
    for out, extra in (("one", []), ("two", ["--set", "train.workers=2"])):
        done = cli("run", "mine/mine.toml", "--out", out, *few, *extra)
        assert done.returncode == 0, done.stderr
    (example / "many.toml").write_text(MANY)
    done = cli("sweep", "mine/many.toml", "--out", "many", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    done = cli("run", "mine/mine.toml", "--out", "parts", *few, "--set", "train.rounds=1")
    assert done.returncode == 0, done.stderr
    shutil.move(example, tmp_path / "moved")
    done = cli("run", "moved/mine.toml", "--out", "parts", "--resume", *few)
    assert done.returncode == 0, done.stderr
    for other in ("two", "many/local_epochs=1/fedmrn-seed1", "parts"):
        assert records(tmp_path / other) == records(tmp_path / "one"), other
        assert (tmp_path / other / "checkpoint.bin").read_bytes() == (tmp_path / "one/checkpoint.bin").read_bytes()


def test_data_that_have_changed_are_noticed(cli: Cli, tmp_path: Path, example: Path) -> None:
    few = ["--set", "train.local_epochs=1", "--set", "train.threads=1", "--out", "r"]
    assert cli("run", "mine/mine.toml", *few, "--set", "train.rounds=1").returncode == 0
    before = (tmp_path / "r/rounds.jsonl").read_bytes()
    (example / "shapes/train/cross/7.png").unlink()
    done = cli("run", "mine/mine.toml", *few, "--set", "train.rounds=2", "--resume")
    assert done.returncode == 2
    assert "holds a run of other data: shapes has SHA-256" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "r/rounds.jsonl").read_bytes() == before


def test_code_that_a_run_folder_names_is_run_only_when_asked(cli: Cli, tmp_path: Path, example: Path) -> None:
    few = ["--set", "train.local_epochs=1", "--set", "train.threads=1", "--out", "r"]
    assert cli("run", "mine/mine.toml", *few, "--set", "train.rounds=1").returncode == 0
    (example / "net.py").write_text((example / "net.py").read_text() + "\n\nprint('run')\n")
    done = cli("calibrate", "r")
    assert done.returncode == 2
    assert f"names code, net:Net in {example}, which would be run: add --trust if it is yours" in done.stderr
    assert "run\n" not in done.stdout
    assert cli("report", "r").stdout.count("run\n") == 0
    done = cli("calibrate", "r", "--trust")
    assert done.returncode == 0, done.stderr
    assert "run\n" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install flwr[simulation]")
@pytest.mark.xdist_group("flower")  # not beside other processes of Flower: ports, and two cores
def test_flower_s_engine_comes_to_the_same(cli: Cli, tmp_path: Path, example: Path) -> None:
    few = ["--set", "train.rounds=2", "--set", "train.local_epochs=1", "--set", "train.threads=1"]
    for engine in ("process", "flower"):
        done = cli("run", "mine/mine.toml", *few, "--out", engine, "--engine", engine)
        assert done.returncode == 0, done.stderr
    assert records(tmp_path / "flower") == records(tmp_path / "process")


MODULE = """
import numpy as np
from torch import nn

def arrays(**changes):
    rng = np.random.default_rng(0)
    whole = {"train_x": rng.random((24, 1, 8, 8), np.float32), "train_y": np.arange(24) % 3}
    whole |= {"test_x": rng.random((9, 1, 8, 8), np.float32), "test_y": np.arange(9) % 3}
    return tuple((whole | changes).values())

def sound():
    return arrays()

def raises():
    raise FileNotFoundError("pets.csv")

def three():
    return arrays()[:3]

def floats():
    return arrays(train_y=np.arange(24) % 3 / 1)

def nhwc():
    return arrays(train_x=np.zeros((24, 8, 8, 3), np.uint8), test_x=np.zeros((9, 8, 8, 3), np.uint8))

def nan():
    return arrays(train_x=np.full((24, 1, 8, 8), np.nan))

class Net(nn.Sequential):
    def __init__(self, outputs=3):
        super().__init__(nn.Flatten(), nn.Linear(64, outputs))

class Ten(Net):
    def __init__(self):
        super().__init__(10)

class Local(Net):
    def __init__(self):
        super().__init__()
        self.function = lambda x: x
"""


def some_files(folder: Path) -> None:
    """Write a module, arrays and pictures, sound ones and others."""
    (folder / "mine.toml").write_text("[data]\nmin_size = 1\n")
    (folder / "own_code.py").write_text(MODULE)
    np.savez(folder / "pickled.npz", x=np.array([{}] * 4, object), y=np.arange(4))
    write_pictures(folder / "pictures")
    write_pictures(folder / "holed")
    (folder / "holed" / "triangle").mkdir()


def test_a_mistake_leaves_nothing_in_the_way(cli: Cli, tmp_path: Path) -> None:
    """Other data and another model than those that failed, in the same folder."""
    some_files(tmp_path)
    wrong = ["data.source=own_code:sound", "model.name=own_code:Local", "train.workers=2"]
    assert cli("run", "mine.toml", "--out", "r", *changes(*wrong)).returncode == 2
    done = cli("run", "mine.toml", "--out", "r", *changes("data.source=pictures", "model.name=own_code:Net"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["data.source=own_cod:sound"], ["no module own_cod", "did you mean 'own_code'?"]),
        (["data.source=own_code:soudn"], ["soudn does not exist in", "did you mean 'sound'?"]),
        (["data.source=own_code:raises"], ["own_code.py, line 15: FileNotFoundError: pets.csv"]),
        (["data.source=own_code:three"], ["returned 3 values", "(train_x, train_y, test_x, test_y)"]),
        (["data.source=own_code:floats"], ["train_y is float64", "y.astype(np.int64)"]),
        (["data.source=own_code:nhwc"], ["channels last", "x.transpose(0, 3, 1, 2)"]),
        (["data.source=own_code:nan"], ["train_x has values that are not finite", "sample 0"]),
        (["data.source=pickled.npz"], ["pickled.npz: x holds Python objects, a pickle"]),
        (["data.source=holed"], ["triangle is a class without a picture", "delete the folder"]),
        (["data.source=pictrues"], ["'pictrues' is neither in"]),
        (["data.source=own_code:sound", "model.name=own_code:Ten"], ["returns float32 of shape (2, 10)", "3 classes"]),
        (["data.source=own_code:sound", "model.name=own_cod:Net"], ["model.name", "did you mean 'own_code'?"]),
        (["data.source=own_code:sound", "model.name=cnn4"], ["cnn4 needs images of at least 16 pixels"]),
        (["data.source=own_code:sound", "model.name=own_code:Local", "train.workers=2"], ["cannot be sent to them"]),
    ],
    ids=lambda value: " ".join(value)[:50],
)
def test_mistakes_end_in_one_line_before_anything_runs(
    cli: Cli, tmp_path: Path, values: list[str], words: list[str]
) -> None:
    some_files(tmp_path)
    own = ["model.name=own_code:Net", *values]
    done = cli("compare", "mine.toml", "--methods", "fedavg", *changes(*own))
    refused_in_one_line(done, words)
    assert "accuracy" not in done.stdout
    assert not list(tmp_path.rglob("config.toml"))
