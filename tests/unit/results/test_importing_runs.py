"""Run folders -> records: every round, what differs from the preset, where it ran, the command that runs it again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fedmrn.errors import RunError
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.machine import Machine, note_machine
from fedmrn.results.importing import changes, commands, import_runs
from fedmrn.results.records import Collection, Provenance
from fedmrn.results.specs import TableSpec
from fedmrn.results.tables import table_of
from run_folders import PARAMETERS, write_run

EMPTY = Collection(title="x")
SHORT = {"train.clients_per_round": 2, "data.clients": 4, "train.rounds": 3}


def test_a_run_is_stored_whole(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", accuracies=(0.5, 0.81234567, 0.9))
    (run,) = import_runs(EMPTY, [folder]).runs
    assert (run.setting, run.method, run.seed, run.lr) == ("digits", "fedmrn", 1, 0.1)
    assert run.accuracy == [0.5, 0.812346, 0.9]
    assert (run.up, run.down, run.mask) == (350, 8100, 250)
    assert (run.clients, run.parameters) == (2, PARAMETERS)
    assert run.set == SHORT
    assert run.again is None


def test_numbers_of_a_table_are_those_of_the_rounds(tmp_path: Path) -> None:
    """Bytes and bits by a loop over the lines of rounds.jsonl."""
    folders = [write_run(tmp_path / str(seed), seed=seed, coded=250 + seed) for seed in (1, 2)]
    columns = ["up MB", "total MB", "up bits", "total bits", "mask bits"]
    collection = import_runs(EMPTY, folders)
    (row,) = table_of(TableSpec(records=["x"], columns=columns), {"x": collection})[1]
    sums = dict.fromkeys(columns, 0.0)
    for folder in folders:
        for line in (folder / "rounds.jsonl").read_text().splitlines():
            record = json.loads(line)
            both = record["up"]["total"] + record["down"]["total"]
            per = 8 / len(record["clients"]) / PARAMETERS
            sums["up MB"] += record["up"]["total"] / 1e6 / 2
            sums["total MB"] += both / 1e6 / 2
            sums["up bits"] += record["up"]["total"] * per / 6
            sums["total bits"] += both * per / 6
            sums["mask bits"] += record["up"]["coded"] * per / 6
    assert row == [f"{value:.{2 if 'MB' in name else 3}f}" for name, value in sums.items()]


def test_who_comes_again_is_told_from_newcomers(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    for line, public in zip(lines, (["new", "new"], ["difference", "gap"], ["difference", "shorter"]), strict=True):
        line["public"] = public
        line["by_client"] = {way: {"coded": [1, 2], "total": [30, 400]} for way in ("up", "down")}
    (folder / "rounds.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run,) = import_runs(EMPTY, [folder]).runs
    assert run.again == ([0, 30, 430], [0, 1, 2])
    columns = [{"value": "down bits, again", "rounds": "1-3"}, {"value": "down bits, new", "rounds": "1-3"}]
    spec = TableSpec(records=["x"], columns=columns)
    (row,) = table_of(spec, {"x": Collection(title="x", runs=[run])})[1]
    whole = 3 * 8100
    assert row == [f"{8 * 460 / (3 * PARAMETERS):.3f}", f"{8 * (whole - 460) / (3 * PARAMETERS):.3f}"]


def test_runs_are_added_and_replaced(tmp_path: Path) -> None:
    first = import_runs(EMPTY, [write_run(tmp_path / "a", accuracies=(0.5,))])
    more = import_runs(first, [write_run(tmp_path / "b", accuracies=(0.5, 0.6)), write_run(tmp_path / "c", seed=2)])
    assert [(run.seed, len(run.accuracy)) for run in more.runs] == [(1, 2), (2, 3)]


def test_a_folder_without_a_round_or_without_a_run(tmp_path: Path) -> None:
    assert import_runs(EMPTY, [write_run(tmp_path / "a", accuracies=())]).runs == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds no run"):
        import_runs(EMPTY, [tmp_path / "empty"])


def test_where_it_ran_is_the_folders_word_then_the_persons(tmp_path: Path) -> None:
    here = Machine(processor="A", device="cpu", torch="2.0", fedmrn="1.0", date="2026-01-31")
    folders = [write_run(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3)]
    note_machine(folders[0], here)
    note_machine(folders[1], here)
    told = Provenance(code="abc")
    found = import_runs(EMPTY, folders, told)
    common = Provenance(processor="A", torch="2.0", precision="float32", date="2026-01-31", code="abc")
    assert found.origin == common
    assert [run.origin for run in found.runs] == [None, None, Provenance(precision="float32", code="abc")]


def test_a_gpu_and_autocast_are_told(tmp_path: Path) -> None:
    on_gpu = Machine(processor="A", device="G", torch="2.0", fedmrn="1.0", date="2026-01-31")
    folder = write_run(tmp_path / "a", changes=["train.device=cuda"])
    note_machine(folder, on_gpu)
    found = import_runs(EMPTY, [folder]).origin
    assert (found.processor, found.precision) == ("G", "float32, convolutions in TF32")
    half = import_runs(EMPTY, [write_run(tmp_path / "b", changes=["train.autocast=bfloat16"])])
    assert half.origin.precision == "bfloat16 autocast"


def test_what_differs_from_the_preset(tmp_path: Path) -> None:
    said = ["method.scale=0.5", "method.fedmrn.lr=0.3", "train.workers=2"]
    folder = write_run(tmp_path / "a", changes=said)
    assert changes(read_experiment(folder)) == {**SHORT, "method.lr": 0.3, "method.scale": 0.5}


def test_options_that_follow_the_rounds_are_no_change(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", method="fedsparsify-global")
    assert changes(read_experiment(folder)) == SHORT


def test_of_a_setting_of_ones_own_everything_is_kept(tmp_path: Path) -> None:
    found = changes(read_experiment(write_run(tmp_path / "a", preset="mine")))
    assert found["data.name"] == "digits"
    assert found["method.lr"] == 0.1


def test_commands_take_together_what_differs_in_method_and_seed(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{method}{seed}", method=method, seed=seed)
        for method in ("fedavg", "fedmrn")
        for seed in (1, 2)
    ]
    runs = import_runs(EMPTY, folders).runs
    short = "--set data.clients=4 --set train.rounds=3 --set train.clients_per_round=2"
    assert commands(runs, "x") == [f"fedmrn compare digits --methods fedavg,fedmrn --seeds 1-2 {short} --out runs/x"]
    other = replace(runs[0], seed=3, set={**runs[0].set, "method.lr": 0.3})
    assert [line.rsplit(maxsplit=1)[1] for line in commands([*runs, other], "x")] == ["runs/x-1", "runs/x-2"]
    assert commands([replace(runs[0], seed="1-2")], "x") == []
