"""A run's folder: it goes on, ends as it would have, and says in one line why it does not."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fake_grid import FakeGrid
from flower_clients import NODES, SECRET, grid, honest, initial, small_model, strategy
from flwr.app import ArrayRecord, Message, MetricRecord

from fedmrn import files
from fedmrn.errors import ConfigError, NoUpdatesError, RunError
from fedmrn.federation.transport import MessageKind
from fedmrn.flower import FedMRN, kept_run
from fedmrn.flower.kept import FOLDER
from fedmrn.numerics import rng
from fedmrn.server.optimizer import Momentum
from fedmrn.torch.rules import base
from fedmrn.wire.frame import Limits


class StoppedError(Exception):
    """In the place of SIGKILL."""


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nodes give the same answers again, and keep what they keep here."""
    monkeypatch.setattr(base, "fresh_key", lambda: rng.derive_key(SECRET, "not by chance"))
    monkeypatch.setenv(FOLDER, str(tmp_path / "nodes"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
    return MetricRecord({"bytes": sum(len(array.data) for array in arrays.values()), "round": number})


def unasked() -> FakeGrid:
    """Nodes that nobody may ask."""

    def asked(message: Message) -> Message:
        raise AssertionError(message.metadata.message_type)

    return FakeGrid(dict.fromkeys(NODES, asked))


def stopping(kind: str, times: int) -> FakeGrid:
    """Nodes of which one stops everything when it is asked this for so many times."""
    count = [0]

    def answer(message: Message) -> Message:
        count[0] += message.metadata.message_type == kind
        if count[0] == times:
            raise StoppedError
        return honest(13)(message)

    return grid(node13=answer)


def arrays_of(result: Any) -> dict[str, bytes]:
    return {name: array.data for name, array in result.arrays.items()}


def same(folder: Path, tmp_path: Path, stop: Callable[[FedMRN], object], rounds: int = 3, **more: Any) -> FedMRN:
    """Stop a run, and let it go on: all that is told must be that of an undisturbed one."""
    plan = strategy(checkpoint=folder, **more)
    plan.start(grid(), initial(), 0, evaluate_fn=evaluate)
    shutil.copytree(folder, tmp_path / "whole")
    whole_plan = strategy(checkpoint=tmp_path / "whole", **more)
    whole = whole_plan.start(grid(), initial(), rounds, evaluate_fn=evaluate)
    with pytest.raises(StoppedError):
        stop(strategy(checkpoint=folder, **more))
    plan = strategy(checkpoint=folder, **more)
    found = plan.start(grid(), ArrayRecord(small_model(7).state_dict()), rounds, evaluate_fn=evaluate)
    assert arrays_of(found) == arrays_of(whole)
    assert found.evaluate_metrics_serverapp == whole.evaluate_metrics_serverapp
    for mine, theirs in (
        (found.train_metrics_clientapp, whole.train_metrics_clientapp),
        (found.evaluate_metrics_clientapp, whole.evaluate_metrics_clientapp),
    ):
        assert mine.keys() == theirs.keys() == set(range(1, rounds + 1))
        for number, record in mine.items():
            assert {k: pytest.approx(v) for k, v in record.items()} == dict(theirs[number])
    assert [r.metrics() for r in plan.reports] == [r.metrics() for r in whole_plan.reports]
    assert [r.evaluation_metrics() for r in plan.reports] == [r.evaluation_metrics() for r in whole_plan.reports]
    assert [r.public for r in plan.reports] == [r.public for r in whole_plan.reports]
    return plan


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("more", [{"method": "topk-ef"}, {"down": "grid"}], ids=["topk-ef", "grid"])
def test_it_goes_on_wherever_it_was_stopped(
    folder: Path, tmp_path: Path, kind: str, times: int, more: dict[str, Any]
) -> None:
    same(folder, tmp_path, lambda plan: plan.start(stopping(kind, times), initial(), 3, evaluate_fn=evaluate), **more)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_stopped_in_the_servers_own_evaluation(folder: Path, tmp_path: Path, times: int) -> None:
    def stop(number: int, arrays: ArrayRecord) -> MetricRecord:
        if number == times + 1:
            raise StoppedError
        return evaluate(number, arrays)

    same(folder, tmp_path, lambda plan: plan.start(grid(), initial(), 3, evaluate_fn=stop))


def test_stopped_between_the_line_and_the_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(plan: FedMRN) -> None:
        saved = kept_run.KeptRun.save

        def save(kept: kept_run.KeptRun, server: Any) -> None:
            if server.round == 2:
                raise StoppedError
            saved(kept, server)

        with monkeypatch.context() as patched:
            patched.setattr(kept_run.KeptRun, "save", save)
            plan.start(grid(), initial(), 3, evaluate_fn=evaluate)

    same(folder, tmp_path, stop, method="topk-ef")


def test_half_a_line_is_left_out(folder: Path, tmp_path: Path) -> None:
    def stop(plan: FedMRN) -> None:
        try:
            plan.start(stopping("train", 2), initial(), 3, evaluate_fn=evaluate)
        finally:
            with (folder / "run.jsonl").open("ab") as file:
                file.write(b'{"part": "train", "round": 2, "met')

    same(folder, tmp_path, stop)


def test_a_run_without_a_secret_keeps_its_own(folder: Path) -> None:
    def plan() -> FedMRN:
        found = strategy(checkpoint=folder)
        found._secret = None
        return found

    first = plan()
    first.start(grid(), initial(), 1)
    second = plan()
    second.start(grid(), initial(), 2)
    assert first._server is not None
    assert second._server is not None
    assert (first._server.secret, first._server.run) == (second._server.secret, second._server.run)


def test_a_finished_run_asks_nobody_and_returns_its_result(folder: Path) -> None:
    whole = strategy(checkpoint=folder).start(grid(), initial(), 2, evaluate_fn=evaluate)

    def never(number: int, arrays: ArrayRecord) -> MetricRecord:
        raise AssertionError(number)

    again = strategy(checkpoint=folder).start(unasked(), initial(), 2, evaluate_fn=never)
    assert arrays_of(again) == arrays_of(whole)
    assert again.train_metrics_clientapp == whole.train_metrics_clientapp
    assert again.evaluate_metrics_clientapp == whole.evaluate_metrics_clientapp
    assert again.evaluate_metrics_serverapp == whole.evaluate_metrics_serverapp


def test_a_round_that_is_done_again_asks_the_same_nodes(folder: Path) -> None:
    """Of which some may be gone."""
    few = {"fraction_train": 0.5, "min_train_nodes": 2, "fraction_evaluate": 0.0}
    plan = strategy(checkpoint=folder, **few)
    nodes = FakeGrid(dict.fromkeys(range(20), stop))
    with pytest.raises(StoppedError):
        plan.start(nodes, initial(), 1)
    asked = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()][-1]["nodes"]
    assert len(asked) == 10
    for _ in range(2):
        plan = strategy(checkpoint=folder, **few)
        with pytest.raises(StoppedError):
            plan.start(nodes, initial(), 1)
        assert plan._conduct is not None
        assert plan._conduct.report.asked == asked
    gone = FakeGrid({number: stop for number in range(20) if number not in asked[2:]})
    plan = strategy(checkpoint=folder, **few)
    with pytest.raises(StoppedError):
        plan.start(gone, initial(), 1)
    assert plan._conduct is not None
    assert plan._conduct.report.asked == asked[:2]


def stop(message: Message) -> Message:
    raise StoppedError


def silent(message: Message) -> None:
    return None


def test_rounds_that_got_nothing_at_the_end_are_done_again(folder: Path) -> None:
    """So that a run that gave up can go on, once nodes answer."""
    strategy(checkpoint=folder).start(grid(), initial(), 1)
    nobody = FakeGrid(dict.fromkeys(NODES, silent))
    for _ in range(2):
        with pytest.raises(NoUpdatesError):
            strategy(checkpoint=folder, give_up_after=2).start(nobody, initial(), 6, timeout=0.0)
    plan = strategy(checkpoint=folder)
    result = plan.start(grid(), initial(), 3)
    assert [len(report.folded) for report in plan.reports] == [3, 3, 3]
    assert set(result.train_metrics_clientapp) == {1, 2, 3}


def test_a_round_that_got_nothing_in_the_midst_is_over(folder: Path) -> None:
    count = [0]

    def second_silent(message: Message) -> Message | None:
        count[0] += 1
        return None if count[0] == 2 else honest(message.metadata.dst_node_id)(message)

    nodes = FakeGrid(dict.fromkeys([11], second_silent))
    one = {"min_train_nodes": 1, "min_available_nodes": 1, "fraction_evaluate": 0.0}
    strategy(checkpoint=folder, **one).start(nodes, initial(), 3, timeout=0.0)
    plan = strategy(checkpoint=folder, **one)
    plan.start(unasked(), initial(), 3)
    assert [len(report.folded) for report in plan.reports] == [1, 0, 1]


def refused(plan: FedMRN, rounds: int = 2) -> str:
    with pytest.raises(RunError) as caught:
        plan.start(grid(), initial(), rounds)
    text = str(caught.value)
    assert "\n" not in text
    return text


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "fedavg"}, "method = 'fedmrn', not 'fedavg'"),
    "options": ({"options": {"scale": 0.02}}, "options.scale = 'auto', not 0.02"),
    "side": ({"side": "float16"}, "side = 'float32', not 'float16'"),
    "down": ({"down": "grid"}, "down = 'float32', not 'PublicGrid("),
    "optimizer": ({"optimizer": Momentum(0.5, 0.9)}, "optimizer = 'Scaled(lr=1.0)', not 'Momentum("),
    "equal": ({"equal": True}, "equal = False, not True"),
    "clipping": ({"clipping": None}, "not None"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_setting_is_told_with_the_cure(folder: Path, case: str) -> None:
    more, text = OTHERS[case]
    strategy(checkpoint=folder).start(grid(), initial(), 1)
    said = refused(strategy(checkpoint=folder, **more))
    assert text in said
    assert said.startswith(f"{folder} holds a run with ")
    assert said.endswith(": give the same, or another checkpoint folder for a new run")


def test_limits_may_change(folder: Path) -> None:
    strategy(checkpoint=folder).start(grid(), initial(), 1)
    strategy(checkpoint=folder, limits=Limits(max_weight=99)).start(grid(), initial(), 2)


def test_another_secret_fewer_rounds_or_another_model(folder: Path) -> None:
    strategy(checkpoint=folder).start(grid(), initial(), 2)
    assert "another secret: leave secret out, or give" in refused(other_secret(folder))
    assert "holds 2 rounds, more than the num_rounds = 1" in refused(strategy(checkpoint=folder), 1)
    from torch import nn  # noqa: PLC0415

    from fedmrn.torch import ModelLayout  # noqa: PLC0415

    net = nn.Linear(3, 4)
    plan = FedMRN(ModelLayout.of(net), secret=SECRET, checkpoint=folder)
    with pytest.raises(RunError, match=r"checkpoint.bin does not fit: .*delete it to start anew"):
        plan.start(grid(), ArrayRecord(net.state_dict()), 2)


def other_secret(folder: Path) -> FedMRN:
    plan = strategy(checkpoint=folder)
    plan._secret = bytes(16)
    return plan


def test_a_calibrated_model_is_no_first_round_of_more(folder: Path) -> None:
    from test_flower_calibration import calibrating  # noqa: PLC0415

    plan = strategy(checkpoint=folder, calibrate=True)
    plan.start(FakeGrid({node: calibrating(node) for node in NODES}), initial(), 1)
    assert MessageKind.CALIBRATE in plan.reports[-1].stages
    assert "a run of 1 rounds that calibrated its last model" in refused(strategy(checkpoint=folder, calibrate=True))
    again = strategy(checkpoint=folder, calibrate=True).start(unasked(), initial(), 1)
    assert again.train_metrics_clientapp[1]["calibration-asked"] == 3


def test_two_of_them_in_one_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PATIENCE", 0.05)

    def second(number: int, arrays: ArrayRecord) -> MetricRecord | None:
        said = refused(strategy(checkpoint=folder))
        assert said == f"{folder} is in use by another process; wait for it, or stop it"
        return None

    strategy(checkpoint=folder).start(grid(), initial(), 1, evaluate_fn=second)
    strategy(checkpoint=folder).start(grid(), initial(), 2)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "about line 1"),
    "no settings": (lambda data: b"[]\n" + data, "about line 1"),
    "not a line": (lambda data: data.replace(b'"part": "train"', b'"part": "tram"'), "'tram' is not a valid RoundPart"),
    "metrics": (lambda data: data.replace(b'"metrics": {', b'"metrics": {"a": "b", '), "is damaged"),
    "a report": (lambda data: data.replace(b'"folded"', b'"bolded"'), "bolded"),
    "nodes": (lambda data: data.replace(b'"nodes": [', b'"nodes": ["x", '), "is damaged"),
    "no JSON": (lambda data: data.replace(b"}", b""), "Invalid JSON"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_told_with_the_cure(folder: Path, case: str) -> None:
    change, text = DAMAGES[case]
    strategy(checkpoint=folder).start(grid(), initial(), 1)
    path = folder / "run.jsonl"
    path.write_bytes(change(path.read_bytes()))
    said = refused(strategy(checkpoint=folder))
    assert said.startswith(f"{path} is damaged")
    assert text in said
    assert said.endswith("; to start anew, delete checkpoint.bin beside it")
    (folder / "checkpoint.bin").unlink()
    strategy(checkpoint=folder).start(grid(), initial(), 1)


def test_a_checkpoint_of_something_else(folder: Path) -> None:
    plan = strategy(checkpoint=folder)
    plan.start(grid(), initial(), 1)
    (folder / "run.jsonl").unlink()
    assert "a server's checkpoint that is not of a Flower run" in refused(strategy(checkpoint=folder))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert refused(strategy(checkpoint=tmp_path / "file" / "run")).startswith(str(tmp_path / "file"))


def test_without_filelock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_run, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install filelock"):
        strategy(checkpoint=folder)


def test_the_secret_is_the_owners_alone(folder: Path) -> None:
    strategy(checkpoint=folder).start(grid(), initial(), 1)
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir() if path.name != ".lock")


def named(files_of: Iterable[Path]) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in files_of)


def test_nodes_keep_what_was_before_the_last_round(folder: Path, tmp_path: Path) -> None:
    for rounds in (1, 2, 3):
        strategy("topk-ef", checkpoint=folder).start(grid(), initial(), rounds)
        kept = [f"{node}-{number}.memory" for node in sorted(NODES) for number in (rounds - 1, rounds) if number]
        assert named((tmp_path / "nodes").iterdir()) == kept
    one = next(iter((tmp_path / "nodes").glob("*-11-3.memory")))
    one.write_bytes(one.read_bytes()[:-1])
    strategy("topk-ef", checkpoint=folder).start(grid(), initial(), 4)  # as a client without a past
    assert named((tmp_path / "nodes").glob("*-11-*")) == ["11-3.memory", "11-4.memory"]
