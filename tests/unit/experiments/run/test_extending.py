"""A run goes on to more rounds than it was made for, as if it had been made for them."""

import json
import re
from pathlib import Path

import pytest
from small_disk import Disk, Files, files, place, small_run
from test_crashes import Killed, moments, timeless

from fedmrn.errors import RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.folder import check_folder, finished, read_experiment
from fedmrn.experiments.settings import load_setting
from fedmrn.report.reading import read_rounds
from run_folders import write_run

MANY = 3


def asked(rounds: int, method: str = "fedmrn", *changes: str) -> Experiment:
    short = ["train.clients_per_round=2", "data.clients=4", f"train.rounds={rounds}"]
    return load_setting("digits", [*short, *changes]).experiment(method, 1)


class TestARun:
    def test_is_that_of_the_larger_number(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = small_run(monkeypatch)
        run(tmp_path / "whole", 5)
        for rounds in (2, 3, 5):
            run(tmp_path / "run", rounds)
        assert timeless(files(tmp_path / "run")) == timeless(files(tmp_path / "whole"))

    @pytest.mark.slow
    def test_that_is_killed_at_any_moment_while_it_is_extended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run, disk = small_run(monkeypatch), Disk(tmp_path, monkeypatch)
        run(tmp_path / "whole", 3)
        run(tmp_path / "run", 2)
        states: list[Files] = moments(lambda folder: run(folder, 3), tmp_path / "run", disk)
        assert {read(state) for state in states} == {2, 3}
        assert read(states[0]) == 2
        for number, state in enumerate(states):
            again = tmp_path / f"again{number}"
            place(state, again)
            run(again, 3)
            assert timeless(files(again)) == timeless(files(tmp_path / "whole")), f"killed with {sorted(state)}"

    def test_whose_extension_cannot_start_is_as_it_was(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run, folder = small_run(monkeypatch), tmp_path / "run"
        run(folder, 2)
        before = files(folder)

        def broken(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("fedmrn.experiments.run.runner.find_transport", lambda _: broken)
            with pytest.raises(Killed):
                run(folder, 3)
        assert files(folder) == before

    def test_that_was_stopped_may_end_sooner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run, disk, folder = small_run(monkeypatch), Disk(tmp_path, monkeypatch), tmp_path / "run"
        run(tmp_path / "whole", 2)

        def stop(_: str) -> None:
            if (folder / "rounds.jsonl").exists() and (folder / "rounds.jsonl").read_bytes().count(b"\n") == 2:
                raise Killed

        disk.before = stop
        with pytest.raises(Killed):
            run(folder, 5)
        disk.before = lambda _: None
        run(folder, 2)
        assert timeless(files(folder)) == timeless(files(tmp_path / "whole"))


class TestARunThatDoesNotTestEveryRound:
    def test_is_that_of_the_larger_number(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Round 2 is tested where it is the last, and not in a run of 5."""
        run = small_run(monkeypatch)
        run(tmp_path / "whole", 5, 3)
        run(tmp_path / "run", 2, 3)
        assert rounds_tested(tmp_path / "run") == [2]
        run(tmp_path / "run", 5, 3)
        assert rounds_tested(tmp_path / "run") == [3, 5]
        assert timeless(files(tmp_path / "run")) == timeless(files(tmp_path / "whole"))

    @pytest.mark.slow
    def test_that_is_killed_at_any_moment_while_it_is_extended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder that is killed can be reported at once, and goes on to the files of a whole run."""
        run, disk = small_run(monkeypatch), Disk(tmp_path, monkeypatch)
        run(tmp_path / "whole", 3, 3)
        run(tmp_path / "run", 2, 3)
        states: list[Files] = moments(lambda folder: run(folder, 3, 3), tmp_path / "run", disk)
        for number, state in enumerate(states):
            again = tmp_path / f"again{number}"
            place(state, again)
            read_rounds(again, read_experiment(again))
            run(again, 3, 3)
            assert timeless(files(again)) == timeless(files(tmp_path / "whole")), f"killed with {sorted(state)}"

    def test_that_was_stopped_ends_with_a_test(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run, disk, folder = small_run(monkeypatch), Disk(tmp_path, monkeypatch), tmp_path / "run"

        def stop(_: str) -> None:
            if (folder / "rounds.jsonl").exists() and (folder / "rounds.jsonl").read_bytes().count(b"\n") == 2:
                raise Killed

        disk.before = stop
        with pytest.raises(Killed):
            run(folder, 5, 4)
        disk.before = lambda _: None
        with pytest.raises(RunError, match=r"holds 2 rounds, and the last of them was not tested .*more than 2"):
            run(folder, 2, 4)
        run(folder, 3, 4)
        run(tmp_path / "whole", 3, 4)
        assert timeless(files(folder)) == timeless(files(tmp_path / "whole"))


def rounds_tested(folder: Path) -> list[int]:
    """The rounds whose line has an accuracy and a loss."""
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    assert all(("accuracy" in line) == ("loss" in line) for line in lines)
    return [line["round"] for line in lines if "accuracy" in line]


def read(state: Files) -> int:
    found = re.search(rb"^rounds = (\d+)$", state["config.toml"], re.MULTILINE)
    assert found
    return int(found[1])


class TestAFolder:
    """Which folders a run may go on with."""

    def test_of_fewer_rounds_is_not_finished_and_nothing_changes(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "r")
        check_folder(folder, asked(MANY + 1), resume=True)
        assert not finished(folder, asked(MANY + 1))
        assert read_experiment(folder) == asked(MANY)

    def test_without_resume(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "r")
        with pytest.raises(RunError, match=r"holds a run already \(3 of 3 rounds\): add --resume"):
            check_folder(folder, asked(MANY + 1), resume=False)

    def test_of_more_rounds_than_asked_for(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "r")
        with pytest.raises(RunError, match=r"holds 3 rounds, more than the train.rounds = 2 .* ask for 3 or more"):
            check_folder(folder, asked(2), resume=True)

    def test_of_fewer_rounds_that_differs_in_more(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "r")
        with pytest.raises(RunError, match=r"another configuration: .*options\.lr is 0\.1 there and 0\.2 here"):
            check_folder(folder, asked(MANY + 1, "fedmrn", "method.lr=0.2"), resume=True)
        with pytest.raises(RunError, match="another configuration: method is"):
            check_folder(folder, asked(MANY + 1, "fedavg"), resume=True)

    def test_whose_last_model_was_calibrated(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "r", changes=["train.calibrate=last"])
        for rounds in (MANY - 1, MANY + 1):
            with pytest.raises(
                RunError, match=rf"3 rounds that calibrates its last model: .* first of {rounds}; --out"
            ):
                check_folder(folder, asked(rounds, "fedmrn", "train.calibrate=last"), resume=True)
        check_folder(folder, asked(MANY, "fedmrn", "train.calibrate=last"), resume=True)
        every = write_run(tmp_path / "every", changes=["train.calibrate=every"])
        check_folder(every, asked(MANY + 1, "fedmrn", "train.calibrate=every"), resume=True)

    @pytest.mark.parametrize("method", ["fedsparsify-local", "fedsparsify-global"])
    def test_whose_schedule_depends_on_the_rounds(self, tmp_path: Path, method: str) -> None:
        folder = write_run(tmp_path / "r", method)
        words = rf"the schedule of {method} depends on how many .* --set method\.{method}\.rounds=3 to keep"
        with pytest.raises(RunError, match=words):
            check_folder(folder, asked(MANY + 1, method), resume=True)
        check_folder(folder, asked(MANY + 1, method, f"method.{method}.rounds=3"), resume=True)

    def test_whose_rounds_and_schedule_are_shortened(self, tmp_path: Path) -> None:
        folder = write_run(tmp_path / "r", "fedsparsify-local", accuracies=[0.5])
        with pytest.raises(RunError, match="schedule of fedsparsify-local depends"):
            check_folder(folder, asked(2, "fedsparsify-local"), resume=True)
