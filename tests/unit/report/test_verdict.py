"""The verdict: paired by seed, with its interval, and no more than what the runs say."""

from pathlib import Path

from scipy.stats import ttest_rel

from fedmrn.report import find_runs
from fedmrn.report.collect import collect
from fedmrn.report.summary import summarise
from fedmrn.report.verdict import verdict
from run_folders import write_run


def said(folder: Path) -> list[str]:
    """The verdict on the one setting of a folder."""
    (comparison,), _ = collect(find_runs([folder]))
    rows = [
        summarise(v.experiment.method, v.experiment.options.lr, v.records, v.label, down=v.experiment.options.down)
        for v in comparison.variants
    ]
    return verdict(comparison, rows)


def last(folder: Path, method: str, *finals: float, coded: int = 250) -> None:
    for seed, final in enumerate(finals, 1):
        write_run(folder / f"{method}-{seed}", method, seed, [0.5, 0.6, final], coded=coded)


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    fedavg, masks = [0.90, 0.80, 0.85], [0.91, 0.80, 0.87]
    last(tmp_path, "fedavg", *fedavg, coded=8000)
    last(tmp_path, "fedmrn", *masks)
    (text,) = said(tmp_path)
    low, high = ttest_rel(masks, fedavg).confidence_interval(0.95)
    assert (
        f"cannot be told from FedAvg by its accuracy (+1.00±{50 * (high - low):.2f} points, 95 % over 3 seeds)" in text
    )
    assert text.endswith("with 1.9 times less traffic, up and down together.")


def test_what_is_surely_worse_comes_last_and_says_so(tmp_path: Path) -> None:
    last(tmp_path, "fedavg", 0.90, 0.80, 0.85, coded=8000)
    last(tmp_path, "fedmrn", 0.80, 0.70, 0.751, coded=10)  # the least traffic
    last(tmp_path, "fedmrn-s", 0.89, 0.82, 0.85)
    first, second = said(tmp_path)
    assert first.startswith("fedmrn-s cannot be told from FedAvg")
    assert second.startswith("fedmrn ends below FedAvg in accuracy (-9.97±")


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    last(tmp_path, "fedavg", 0.90)
    last(tmp_path, "fedmrn", 0.88, coded=20000)
    assert said(tmp_path) == [
        "fedmrn ends 2.00 points of accuracy below FedAvg (one seed), with 3.3 times the traffic, up and down together."
    ]


def test_no_more_than_three_methods(tmp_path: Path) -> None:
    for method in ("fedavg", "fedmrn", "fedmrn-s", "topk", "drive", "qsgd"):
        last(tmp_path, method, 0.9)
    *sentences, more = said(tmp_path)
    assert len(sentences) == 3
    assert more == "2 more methods are in the table."


def test_without_fedavg(tmp_path: Path) -> None:
    last(tmp_path, "fedmrn", 0.9)
    assert said(tmp_path) == ["fedmrn: 90.00 % accuracy for 0.03 MB in all."]
    last(tmp_path, "topk", 0.95, coded=5000)
    assert said(tmp_path) == [
        "topk has the highest accuracy, 95.00 % for 0.04 MB in all; fedmrn the least traffic, 0.03 MB for 90.00 %."
    ]


def test_of_other_seeds_the_means_are_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "fedavg", 1, [0.5, 0.6, 0.9])
    write_run(tmp_path / "b", "fedmrn", 2, [0.5, 0.6, 0.8])
    (text,) = said(tmp_path)
    assert text.startswith("fedmrn ends 10.00 points of accuracy below FedAvg (of other seeds)")
