"""Which runs belong together, what they are called, and what is said of those that are not finished."""

import json
from pathlib import Path

import pytest

from fedmrn.errors import RunError
from fedmrn.report import write_report
from fedmrn.report.collect import collect, find_runs
from fedmrn.report.curves import bytes_so_far, draw_bytes, draw_rounds
from fedmrn.report.naming import options
from fedmrn.report.runs import Comparison
from fedmrn.server.optimizer import SERVER
from run_folders import write_run


def untested(folder: Path, *rounds: int) -> Path:
    """Take accuracy and loss out of these rounds."""
    path = folder / "rounds.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line["round"] in rounds:
            del line["accuracy"], line["loss"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def only(paths: list[Path]) -> Comparison:
    (comparison,), notes = collect(paths)
    assert notes == []
    return comparison


def test_run_folders_are_found_in_folders_and_tuning_is_not(tmp_path: Path) -> None:
    for name in ("b/fedmrn-seed1", "a/fedavg-seed1", "a/fedavg-seed2", "a/tune/fedavg-seed0-lr0.1", "c/deep/er/run"):
        write_run(tmp_path / name)
    (tmp_path / "a/empty").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path])]
    assert found == ["a/fedavg-seed1", "a/fedavg-seed2", "b/fedmrn-seed1", "c/deep/er/run"]
    assert find_runs([tmp_path / "a", tmp_path / "a/fedavg-seed2"]) == find_runs([tmp_path / "a"])  # each once
    assert len(find_runs([tmp_path / "a/tune"])) == 1  # asked for by name
    with pytest.raises(RunError, match=r"empty holds no run"):
        find_runs([tmp_path / "a", tmp_path / "a/empty"])
    with pytest.raises(RunError, match=r"gone holds no run"):
        find_runs([tmp_path / "gone"])


def test_only_seeds_are_taken_together(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "s2", seed=2),
        write_run(tmp_path / "s1", seed=1, preset="of another name"),
        write_run(tmp_path / "scale", changes=["method.fedmrn.scale=0.02"]),
        write_run(tmp_path / "avg", "fedavg"),
        write_run(tmp_path / "lr", "fedavg", changes=["method.fedavg.lr=0.025"]),
        write_run(tmp_path / "signed", "fedmrn-s"),
    ]
    variants = {g.label: [run.experiment.seed for run in g.runs] for g in only(paths).variants}
    assert variants == {
        "fedavg, lr 0.025": [1],
        "fedavg, lr 0.1": [1],
        "fedmrn, scale auto": [1, 2],
        "fedmrn, scale 0.02": [1],
        "fedmrn-s": [1],
    }
    assert list(variants) == sorted(variants)  # in the order of the table of methods, then by value


def test_an_option_that_follows_the_seed_does_not_tell_runs_apart(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"{seed}", "fedpm", seed) for seed in (1, 2)]
    (variant,) = only(paths).variants
    assert len(variant.runs) == 2
    other = write_run(tmp_path / "other", "fedpm", 3, changes=["method.fedpm.seed=9"])
    assert len(only([*paths, other]).variants) == 2


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ("data.partition=labels", "partition iid", "partition labels, share 0.3"),
        ("train.local_epochs=2", "local epochs 2", "local epochs 5"),
        ("data.max_samples=100", "max samples 0", "max samples 100"),
        ("train.threads=2", "threads 0", "threads 2"),
        ("model.init_std=0.01", "init std 0", "init std 0.01"),
    ],
)
def test_another_setting_is_a_section_of_its_own(tmp_path: Path, change: str, first: str, second: str) -> None:
    comparisons, _ = collect([write_run(tmp_path / "a"), write_run(tmp_path / "b", changes=[change])])
    assert {comparison.name for comparison in comparisons} == {first, second}
    assert len({comparison.title for comparison in comparisons}) == 2
    for comparison in comparisons:
        assert comparison.title.startswith("digits, ")


def test_what_has_no_effect_is_no_difference(tmp_path: Path) -> None:
    # Of the Dirichlet partition, and of the momentum optimizer.
    changes = ["data.alpha=0.1", "method.fedmrn.server=mean", "method.server_beta=0.5"]
    comparison = only([write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=2, changes=changes)])
    assert (comparison.name, [variant.label for variant in comparison.variants]) == ("", ["fedmrn"])
    other = write_run(tmp_path / "c", changes=["method.server=momentum", "method.server_beta=0.5"])
    labels = [variant.label for variant in only([tmp_path / "a", other]).variants]
    assert labels == ["fedmrn, server mean", "fedmrn, server momentum, server beta 0.5"]


def test_every_server_optimizer_has_the_options_that_it_takes(tmp_path: Path) -> None:
    taken = {"mean": [], "momentum": ["beta"], "adam": ["beta", "beta2", "tau"]}
    assert taken.keys() == SERVER.keys()
    for server, names in taken.items():
        (variant,) = only([write_run(tmp_path / server, changes=[f"method.server={server}"])]).variants
        assert [name for name, _ in options(variant.experiment) if name.startswith("server_")] == [
            f"server_{name}" for name in ["lr", *names]
        ]


def test_the_number_of_processes_does_not_tell_runs_apart(tmp_path: Path) -> None:
    """Records do not depend on it (tests/unit/federation/test_workers.py)."""
    paths = [write_run(tmp_path / f"{n}", seed=n, changes=[f"train.workers={n}"]) for n in (1, 2)]
    (variant,) = only(paths).variants
    assert len(variant.runs) == 2


def test_finished_seeds_count_and_others_are_named(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"r{n}", seed=n, accuracies=[0.5, 0.6, 0.7][:n]) for n in (1, 2, 3)]
    (variant,) = only(paths).variants
    assert [run.experiment.seed for run in variant.used] == [3]
    assert [run.experiment.seed for run in variant.beyond] == [1, 2]
    assert (variant.whole, variant.progress) == (True, "3")
    assert variant.notes() == [
        "fedmrn: seed 1 at round 1, seed 2 at round 2 of 3; its numbers are of seed 3 up to round 3"
    ]


def test_where_no_seed_is_finished_the_rounds_that_all_have_count(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"r{n}", seed=n, accuracies=[0.5, 0.6, 0.7, 0.8][:n], rounds=9) for n in (2, 4)]
    (variant,) = only(paths).variants
    assert [len(records) for records in variant.records] == [2, 2]
    assert [run.experiment.seed for run in variant.beyond] == [4]
    assert (variant.whole, variant.progress) == (False, "2 of 9")
    (note,) = variant.notes()
    assert note.endswith("its numbers are of seeds 2, 4 up to round 2")


def test_a_run_without_a_round_is_left_out_and_told(tmp_path: Path) -> None:
    none, one = write_run(tmp_path / "none", seed=2, accuracies=[]), write_run(tmp_path / "one")
    (comparison,), notes = collect([none, one])
    assert len(comparison.runs) == 1
    assert notes == [f"{tmp_path.name}/none holds no whole round yet"]
    with pytest.raises(RunError, match="none holds no tested round yet; run it with --resume"):
        collect([none])
    with pytest.raises(RunError, match="no finished run to report"):
        collect([])


def test_the_same_seed_twice_is_one_run(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", accuracies=[0.5]), write_run(tmp_path / "b")]
    (comparison,), notes = collect(paths)
    assert [run.path for run in comparison.runs] == paths[1:]  # the one that is further
    name = tmp_path.name
    assert notes == [f"{name}/a is left out: it has the configuration and seed of {name}/b"]


def test_names_say_where_runs_lie_and_nothing_of_the_machine(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "x/digits" / f"fedmrn-seed{n}", seed=n) for n in (1, 2, 3, 7)]
    (variant,) = only(paths).variants
    assert variant.folders == "digits/fedmrn-seed1-3,7"
    more = [*paths, write_run(tmp_path / "x/late/again", seed=8)]
    (variant,) = only(more).variants
    assert [run.name for run in variant.runs][-2:] == ["digits/fedmrn-seed7", "late/again"]
    assert "late/again" in variant.folders


def test_the_order_of_the_folders_does_not_matter(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"{m}{s}", m, s) for m in ("fedmrn", "fedavg", "topk") for s in (1, 2)]

    def shape(of: list[Path]) -> list[tuple[str, list[str]]]:
        return [(g.label, [run.name for run in g.runs]) for g in only(of).variants]

    assert shape(paths) == shape(paths[::-1])


class TestRoundsThatWereNotTested:
    EVERY = ("train.test_every=2",)

    def runs(self, tmp_path: Path) -> list[Path]:
        curve = [0.2, 0.5, 0.3, 0.8, 0.7]
        whole = {
            seed: write_run(tmp_path / f"s{seed}", seed=seed, accuracies=curve, rounds=5, changes=self.EVERY)
            for seed in (1, 2)
        }
        return [untested(path, 1, 3) for path in whole.values()]

    def test_numbers_are_of_those_that_were(self, tmp_path: Path) -> None:
        (report,) = write_report(tmp_path / "out", self.runs(tmp_path))
        (row,) = report.rows
        assert (row.final, row.best, row.last_ten, row.rounds) == (0.7, 0.8, pytest.approx((0.5 + 0.8 + 0.7) / 3), 5)
        assert [r.rounds for r in report.reached[0]] == [4, 4, 4]  # 56, 63 and 67 %: round 2 has 50
        assert json.loads((tmp_path / "out/summary.json").read_text())[0]["final"] == 0.7

    def test_curves_have_points_for_those_that_were(self, tmp_path: Path) -> None:
        (variant,) = only(self.runs(tmp_path)).variants
        (line,) = draw_rounds([variant], "t").axes[0].get_lines()
        assert line.get_xdata().tolist() == [2, 4, 5]
        assert line.get_ydata().tolist() == [0.5, 0.8, 0.7]
        (line,) = draw_bytes([variant], "t").axes[0].get_lines()
        every = bytes_so_far(variant.records, ("up",))
        assert line.get_xdata().tolist() == [every[1], every[3], every[4]]

    def test_the_last_test_of_a_run_that_is_not_finished_counts(self, tmp_path: Path) -> None:
        run = untested(write_run(tmp_path / "r", accuracies=[0.2, 0.5, 0.3], rounds=5, changes=self.EVERY), 1, 3)
        (report,) = write_report(tmp_path / "out", [run])
        assert report.rows[0].final == 0.5
        assert "seed 1 at round 3 of 5" in report.notes[0]

    def test_a_run_without_any_is_left_out(self, tmp_path: Path) -> None:
        early = untested(write_run(tmp_path / "early", "fedavg", accuracies=[0.2], rounds=5, changes=self.EVERY), 1)
        comparisons, notes = collect([*self.runs(tmp_path), early])
        assert [v.label for c in comparisons for v in c.variants] == ["fedmrn"]
        assert notes == [f"{tmp_path.name}/early has tested none of its 1 rounds yet"]
        with pytest.raises(RunError, match="holds no tested round yet"):
            collect([early])

    def test_one_that_ought_to_be_is_missed(self, tmp_path: Path) -> None:
        run = untested(write_run(tmp_path / "r", accuracies=[0.2, 0.5, 0.3], rounds=3, changes=self.EVERY), 1, 3)
        with pytest.raises(RunError, match=r"rounds\.jsonl, line 3: accuracy: a tested round has one"):
            collect([run])
