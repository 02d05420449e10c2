"""What a person sees of a sweep: counts, cells, the time that is left."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from fedmrn.cli.board import Board, remaining
from fedmrn.cli.sweep import plan, state
from fedmrn.errors import RunError
from fedmrn.experiments.config import run_name
from fedmrn.experiments.many.cells import Event, default_jobs
from fedmrn.experiments.many.sweep import Cell, Sweep, load_sweep
from fedmrn.numerics.threads import cores
from run_folders import record as line


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Two methods, two seeds, three rounds."""
    (tmp_path / "s.toml").write_text(
        'preset = "digits"\nmethods = ["fedavg", "fedmrn"]\nseeds = [1, 2]\nset.train.rounds = 3\n'
    )
    return load_sweep(str(tmp_path / "s.toml"))


def record(folder: Path, cell: Cell, rounds: int, seconds: float) -> None:
    lines = [json.dumps(line(n, 0.5) | {"seconds": seconds}) + "\n" for n in range(1, rounds + 1)]
    (folder / cell.folder).mkdir(parents=True)
    (folder / cell.folder / "rounds.jsonl").write_text("".join(lines))


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_line_a_finished_cell_where_there_is_no_terminal(sweep: Sweep, tmp_path: Path) -> None:
    record(tmp_path, sweep.cells[0], 3, 1.0)
    console = Console(file=io.StringIO(), width=40)
    one, two = sweep.cells[1:3]
    with Board(console, sweep, tmp_path, jobs=1) as board:
        for event in (
            Event(one, "start"),
            Event(two, "start", 2),
            Event(one, "round", 1, 0.25, 4.0),
            Event(one, "round", 2, None, 4.0),  # not tested
            Event(two, "failed", text="training [diverged]"),
            Event(one, "round", 3, 0.75, 4.0),
            Event(one, "done"),
        ):
            board.tell(event)
    lines = [line[9:] for line in shown(console).splitlines()]  # without the time of day
    assert lines == [
        "[2/4] fedmrn-seed1: failed after 2 rounds: training [diverged]",
        "[3/4] fedavg-seed2: 3 rounds, accuracy 75.00%, about 8 s left",  # 3 rounds of 2.5 s: three of 1, three of 4
    ]


def test_a_table_on_a_terminal(sweep: Sweep, tmp_path: Path) -> None:
    record(tmp_path, sweep.cells[0], 3, 1.0)
    console = Console(file=io.StringIO(), width=100)
    board = Board(console, sweep, tmp_path, jobs=2)
    board.tell(Event(sweep.cells[1], "start"))
    board.tell(Event(sweep.cells[2], "start", 1))
    board.tell(Event(sweep.cells[1], "round", 1, 0.25, 400.0))
    board.tell(Event(sweep.cells[1], "round", 2, None, 400.0))
    console.print(board)
    head, _, one, two = (line.rstrip() for line in shown(console).splitlines())
    assert head.startswith("s: 1 of 4 cells done, 2 running, 1 waiting, about ")
    assert one.split() == ["fedavg-seed2", "2/3", "25.00%"]
    assert two.split() == ["fedmrn-seed1", "1/3", "-"]


def test_the_time_that_is_left(sweep: Sweep) -> None:
    cells = sweep.cells
    a1, a2, m1, m2 = (cell.folder for cell in cells)
    rounds = {a1: 3, a2: 1, m1: 0, m2: 2}
    seconds: dict[Path, list[float]] = {path: [] for path in rounds}
    assert remaining(cells, rounds, seconds, {a1}, 1) == 0  # nothing is known
    seconds |= {a1: [2.0, 2.0, 2.0], a2: [4.0]}
    overall = (3 * 2 + 4) / 4  # nothing is known of the other method
    assert remaining(cells, rounds, seconds, {a1}, 1) == pytest.approx(2 * 4 + 3 * overall + 1 * overall)
    seconds[m2] = [10.0, 20.0]
    assert remaining(cells, rounds, seconds, {a1}, 1) == pytest.approx(2 * 4 + 3 * 15 + 15)
    assert remaining(cells, rounds, seconds, {a1}, 8) == pytest.approx(3 * 15)  # the longest, however many at a time
    assert remaining(cells, rounds, seconds, {a1, a2, m1, m2}, 1) == 0


def test_what_is_left_is_run_seed_by_seed(sweep: Sweep, tmp_path: Path) -> None:
    left = plan(sweep, tmp_path)
    assert [run_name(c.experiment) for c in left] == ["fedavg-seed1", "fedmrn-seed1", "fedavg-seed2", "fedmrn-seed2"]
    assert state(sweep, tmp_path, left) == "4 cells: 0 finished, 0 begun, 4 new"
    (tmp_path / "fedavg-seed1").mkdir()
    (tmp_path / "fedavg-seed1" / "checkpoint.bin").write_bytes(b"damaged")
    assert plan(sweep, tmp_path) == left  # it is told when it is run, and keeps no other from running
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.toml").write_text("")
    assert state(sweep, tmp_path, left) == "4 cells: 0 finished, 0 begun, 4 new; not of this sweep: old"
    (tmp_path / "fedmrn-seed2").mkdir()
    (tmp_path / "fedmrn-seed2" / "config.toml").write_text("")
    with pytest.raises(RunError, match=r"fedmrn-seed2/config\.toml cannot be read"):
        plan(sweep, tmp_path)


def test_as_many_at_a_time_as_the_cores_can_take(sweep: Sweep) -> None:
    experiments = [cell.experiment for cell in sweep.cells]
    assert default_jobs(experiments) == cores()
    changed = load_sweep("digits-ablation", ["train.threads=2", f"train.workers={cores()}"])
    assert default_jobs([*experiments, changed.cells[0].experiment]) == 1
