"""Several trackers at once: totals, times, and what becomes of one that fails."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fedmrn.errors import ConfigError, UsageError
from fedmrn.tracking import Measured, Place, Point, TensorBoard, Tracking, check_trackers, find_trackers
from fedmrn.tracking.base import DOWN, SECONDS, TOTAL, UP, Setting

ROUNDS = [Measured(n, 2.0, {UP: 10.0 * n, DOWN: 1.0}) for n in (1, 2, 3)]


class Kept:
    """Keeps what it is told; fails in one of its methods."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.calls = failing, list[str]()
        self.points: list[Point] = []
        self.whole: bool | None = None

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.failing:
            raise OSError(28, "No space left on device\nat all")

    def start(self, configuration: Mapping[str, Setting], before: Sequence[Point]) -> None:
        self._called("start")
        self.points += before

    def add(self, point: Point) -> None:
        self._called("add")
        self.points.append(point)

    def close(self, *, whole: bool) -> None:
        self._called("close")
        self.whole = whole


def test_totals_go_on_and_rounds_from_before_end_one_after_another() -> None:
    kept, began = Kept(), time.time()
    with Tracking({"kept": kept}, pytest.fail) as told:
        told.start({}, ROUNDS[:2])
        told.round(ROUNDS[2])
    assert [p.values for p in kept.points] == [
        {UP: 10.0, DOWN: 1.0, TOTAL: 11.0, SECONDS: 2.0},
        {UP: 20.0, DOWN: 1.0, TOTAL: 32.0, SECONDS: 2.0},
        {UP: 30.0, DOWN: 1.0, TOTAL: 63.0, SECONDS: 2.0},
    ]
    times = [p.time for p in kept.points]
    assert times[1] - times[0] == pytest.approx(2.0)
    assert began <= times[1] <= times[2] <= time.time()
    assert kept.whole is True


@pytest.mark.parametrize("failing", ["start", "add", "close"])
def test_one_that_fails_is_told_once_and_the_others_go_on(failing: str) -> None:
    bad, good, said = Kept(failing), Kept(), list[str]()
    with Tracking({"bad": bad, "good": good}, said.append) as told:
        told.start({})
        for measured in ROUNDS:
            told.round(measured)
    text = "tracker bad failed and is told no more of this run, which goes on: OSError: [Errno 28] No space left on "
    assert said == [text + "device at all"]
    assert bad.calls.count(failing) == 1
    assert bad.calls[-1] == failing
    assert [p.step for p in good.points] == [1, 2, 3]


def test_a_run_that_is_stopped_is_not_whole() -> None:
    kept = Kept()
    told = Tracking({"kept": kept}, pytest.fail)
    with pytest.raises(KeyboardInterrupt), told:
        raise KeyboardInterrupt
    assert kept.whole is False


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    with Tracking({"tensorboard": TensorBoard(tmp_path / "file" / "run")}, said.append) as told:
        told.start({})
        told.round(ROUNDS[0])
    assert len(said) == 1
    assert "NotADirectoryError" in said[0]


def test_trackers_by_name(tmp_path: Path) -> None:
    found = find_trackers(["mlflow", "tensorboard", "mlflow"], Place("one", tmp_path))
    assert list(found) == ["mlflow", "tensorboard"]
    with pytest.raises(ConfigError, match=r"there is no tracker 'tensorbored'; did you mean 'tensorboard'\?"):
        check_trackers(["mlflow", "tensorbored"])


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_one_that_is_not_installed_is_told_with_the_cure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, {"tensorboard": "tensorboard.summary"}.get(name, "mlflow.tracking"), None
    )
    with pytest.raises(UsageError, match=rf'needs what is not installed .*pip install "fedmrn\[{name}\]"'):
        check_trackers([name])
