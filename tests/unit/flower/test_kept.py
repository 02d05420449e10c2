"""Public models on Flower: a node's file, differences to it, evaluation, and what happens when it is lost."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_grid import FakeGrid, reply_from
from flower_clients import NODES, honest, initial, one_round, small_model, strategy
from flwr.app import ArrayRecord, ConfigRecord, Error, Message

from fedmrn.errors import FedmrnError
from fedmrn.federation.transport import MessageKind
from fedmrn.flower import FedMRN
from fedmrn.flower.kept import FOLDER
from fedmrn.server import PublicGrid
from fedmrn.server.publisher import Sent
from fedmrn.torch import ModelLayout

LAYOUT = ModelLayout.of(small_model()).layout


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


def as_flower(node: Callable[[Message], Message]) -> Callable[[Message], Message]:
    """A node whose exceptions become error replies, worded as Flower words them."""

    def answer(message: Message) -> Message:
        try:
            return node(message)
        except FedmrnError as error:
            return reply_from(message, Error(code=2, reason=str(type(error)) + ":<'" + str(error) + "'>"))

    return answer


def as_ray(node: Callable[[Message], Message]) -> Callable[[Message], Message]:
    """The same as the simulation engine words it: a chain of tracebacks, in the middle of which is the error's name."""

    def answer(message: Message) -> Message:
        try:
            return node(message)
        except FedmrnError as error:
            place = (
                '  File "/a/long/path/of/packages/flwr/simulation/ray_transport/ray_actor.py", line 65, in run\n' * 8
            )
            trace = (
                f"ray::ClientAppActor.run() (pid=1, ip=127.0.0.1)\n{place}{error.__class__.__qualname__}: {error}\n\n"
                f"The above exception was the direct cause of the following exception:\n\n{place}"
                f"ClientAppException: \nException ClientAppException occurred. Message: {error}"
            )
            return reply_from(message, Error(code=2, reason=f"<class 'RayTaskError'>:<'{trace}'>"))

    return answer


def nodes(worded: Callable[..., Callable[[Message], Message]] = as_flower) -> FakeGrid:
    return FakeGrid({node: worded(honest(node)) for node in NODES})


def sent(plan: FedMRN) -> dict[int, Sent]:
    return plan.reports[-1].public


def test_nodes_keep_a_file_and_are_sent_differences(folder: Path) -> None:
    plan, grid = strategy(down="grid"), nodes()
    sizes = []
    for number in (1, 2, 3):
        arrays, _ = one_round(plan, grid, number)
        assert arrays is not None
        assert set(sent(plan).values()) == {Sent.NEW if number == 1 else Sent.DIFFERENCE}
        sizes.append(plan.reports[-1].down)
        assert len(list(folder.iterdir())) == len(NODES)
    assert sizes[2] < sizes[0]
    if os.name == "posix":
        assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


@pytest.mark.parametrize("worded", [as_flower, as_ray])
def test_a_node_without_its_file_says_so_and_is_sent_the_whole_model(
    folder: Path, worded: Callable[..., Callable[[Message], Message]], caplog: pytest.LogCaptureFixture
) -> None:
    plan, grid = strategy(down="grid"), nodes(worded)
    one_round(plan, grid, 1)
    lost, damaged, _ = sorted(folder.iterdir())
    lost.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9] + bytes(9))
    one_round(plan, grid, 2)
    assert len(plan.reports[-1].folded) == 1
    assert sum("keeps none of this run" in failed for failed in plan.reports[-1].failed) == 2
    assert caplog.text.count("FEDMRN_CACHE") == 1
    one_round(plan, grid, 3)
    assert sorted(sent(plan).values()) == [Sent.DIFFERENCE, Sent.LOST, Sent.LOST]
    assert len(plan.reports[-1].folded) == 3


def test_a_node_that_can_keep_nothing_is_sent_whole_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_bytes(b"")
    monkeypatch.setenv(FOLDER, str(tmp_path / "a file" / "kept"))
    plan, grid = strategy(down="grid", give_up_after=None), nodes()
    history = []
    for number in range(1, 8):
        one_round(plan, grid, number)
        history.append((len(plan.reports[-1].folded), {*sent(plan).values()}))
    assert history[0] == (3, {Sent.NEW})
    assert history[1] == (0, {Sent.DIFFERENCE})
    assert history[4:] == [(3, {Sent.LOST})] * 3


def test_only_files_of_nodes_are_deleted_when_they_are_old(folder: Path) -> None:
    """The folder may be one of a person's own, with files that are old and dear."""
    folder.mkdir()
    old, dear = folder / f"{'0f' * 8}-12.bin", [folder / name for name in ("pytorch_model.bin", "12.bin", "a.txt")]
    scrap = folder / f".{old.name}.{'5' * 16}.part"  # of a process that was killed
    for file in (old, scrap, *dear):
        file.write_bytes(b"x")
        os.utime(file, (1e9, 1e9))
    one_round(strategy(down="grid"), nodes(), 1)
    assert not old.exists()
    assert not scrap.exists()
    assert all(file.exists() for file in dear)


def test_nodes_evaluate_the_public_model_and_pay_for_what_changed() -> None:
    plan, grid = strategy(down="grid"), nodes()
    result = plan.start(grid, initial(), num_rounds=3)
    server = plan._server
    assert server is not None
    values = np.concatenate([result.arrays[t.name].numpy().reshape(-1) for t in LAYOUT.tensors])
    assert values.tobytes() == server.shown.tobytes() != server.state.tobytes()
    for report in plan.reports[1:]:
        stage = report.stages[MessageKind.EVALUATE]
        assert len(stage.answered) == len(NODES)
        assert report.failed_otherwise == []
        assert stage.down < 2 * LAYOUT.size * len(NODES)


def test_arrays_that_somebody_changed_are_evaluated_as_they_are() -> None:
    plan, grid = strategy(down="grid"), nodes()
    one_round(plan, grid, 1)
    changed = {name: array.numpy() for name, array in plan.model(1).items()}
    changed["0.bias"] = changed["0.bias"] + np.float32(1)
    arrays = ArrayRecord({name: _array(value) for name, value in changed.items()})
    messages = list(plan.configure_evaluate(1, arrays, ConfigRecord(), grid))
    size = sum(len(a.data) for record in messages[0].content.array_records.values() for a in record.values())
    assert size > 4 * LAYOUT.size


def _array(value: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> object:
    from flwr.app import Array  # noqa: PLC0415

    return Array(np.asarray(value))


@pytest.mark.parametrize("worded", [as_flower, as_ray])
def test_a_model_that_starts_otherwise_is_told_how_to_mend_it(
    worded: Callable[..., Callable[[Message], Message]], caplog: pytest.LogCaptureFixture
) -> None:
    """Each node of this test builds its model from a seed of its own."""
    plan, grid = strategy(down=PublicGrid(from_start=True), give_up_after=None), nodes(worded)
    one_round(plan, grid, 1)
    failed = plan.reports[-1].failed
    assert len(failed) == 3
    assert all("same seed" in text for text in failed)
    assert caplog.text.count('give the strategy down="grid"') == 1
