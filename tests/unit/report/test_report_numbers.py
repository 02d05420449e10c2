"""The numbers of the report, worked out by hand: convergence, curves, masks, times."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from allocated import allocated
from fedmrn.errors import ConfigError
from fedmrn.experiments.run.layout_file import write_layout
from fedmrn.experiments.run.record import Record
from fedmrn.report.account import traffic_line
from fedmrn.report.collect import collect
from fedmrn.report.convergence import Reached, check_targets, default_targets, reach
from fedmrn.report.curves import draw_bytes, draw_rounds
from fedmrn.report.figures import configuration, run_line
from fedmrn.report.masks import coded_bits, density, draw_masks, draw_scales, entropy, scales
from fedmrn.report.runs import Variant
from fedmrn.report.summary import reference_of, summarise
from fedmrn.report.tables import convergence_table, final_table
from fedmrn.report.times import draw_times, step_milliseconds, steps
from fedmrn.wire.layout import Group, Layout, TensorSpec
from run_folders import CLIENTS, PARAMETERS, record, write_run

UP, DOWN = 350, 8100  # bytes of a round


def seed(*accuracies: float) -> list[Record]:
    return [Record.of_line(json.dumps(record(i, a))) for i, a in enumerate(accuracies, 1)]


def variants(paths: Sequence[Path]) -> tuple[Variant, ...]:
    (comparison,), _ = collect(paths)
    return comparison.variants


def test_a_target_is_reached_at_its_first_crossing() -> None:
    seeds = [seed(0.2, 0.7, 0.5, 0.9), seed(0.3, 0.4, 0.7, 0.8), seed(0.1, 0.2, 0.3, 0.69)]
    assert reach(seeds, 0.7) == Reached(0.7, 3, 2, 2.5, 2.5 * UP, 2.5 * (UP + DOWN))
    assert reach(seeds, 0.1) == Reached(0.1, 3, 3, 1, UP, UP + DOWN)
    assert reach(seeds, 0.95) == Reached(0.95, 3, 0, None, None, None)
    rows = [summarise("fedmrn", 0.1, seeds, "a label")]
    header, cells = convergence_table(rows, [[reach(seeds, t) for t in (0.1, 0.7, 0.95)]])
    assert header[:4] == ["method", "10 %: rounds", "up MB", "total MB"]
    assert cells == [("a label", "1", "0.00", "0.01", "2.5 (2 of 3)", "0.00", "0.02", "-", "-", "-")]


def test_default_targets_lie_below_the_reference() -> None:
    rows = [summarise(name, 0.1, [seed(last)]) for name, last in (("fedmrn", 0.95), ("fedavg", 0.5), ("fedavg", 0.9))]
    assert default_targets(rows) == (0.72, 0.81, 0.87)  # of the better FedAvg
    assert default_targets(rows[:1]) == (0.76, 0.85, 0.92)
    assert default_targets([summarise("fedmrn", 0.1, [seed(0.011)])]) == (0.01,)
    assert default_targets([summarise("fedmrn", 0.1, [seed(0.0)])]) == ()


def test_targets_are_checked() -> None:
    assert check_targets([0.9, 0.5, 0.9]) == (0.5, 0.9)
    for wrong in (0.0, 85.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="--target"):
            check_targets([wrong])


def test_the_final_table_has_the_traffic_of_both_ways(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / "a", "fedavg", coded=8000), write_run(tmp_path / "b")]
    paths.append(write_run(tmp_path / "c", "fedmrn-s", accuracies=[0.5, 0.6]))
    (comparison,), _ = collect(paths)
    rows = [summarise(g.experiment.method, 0.1, g.records, g.label) for g in comparison.variants]
    header, body = final_table(comparison, rows)
    average, masked, late = (dict(zip(header, row, strict=True)) for row in body)
    assert (average["seeds"], average["rounds"]) == ("1", "3")
    assert (late["seeds"], late["rounds"]) == ("1", "2 of 3")
    assert reference_of(rows) is rows[0]
    assert (masked["up saved"], masked["total saved"]) == (f"{8100 / 350:.1f}x", f"{16200 / 8450:.1f}x")
    assert (late["up saved"], late["total saved"]) == ("-", "-")
    assert (masked["up MB"], masked["down MB"], masked["total MB"]) == ("0.00", "0.02", "0.03")
    # Bytes of a round as bits of 1,000 parameters and two clients.
    assert (masked["up bits"], masked["down bits"], masked["total bits"]) == ("1.400", "32.40", "33.80")


def drawn(figure: Figure, marked: bool) -> list[tuple[list[float], list[float]]]:
    lines = [line for line in figure.axes[0].lines if (line.get_linewidth() > 1) is marked]
    return [(list(line.get_xdata()), [round(float(y), 9) for y in line.get_ydata()]) for line in lines]


def test_curves_are_means_with_a_band_and_thin_lines_beyond(tmp_path: Path) -> None:
    curves = {1: [0.4, 0.6], 2: [0.5, 0.8, 0.9]}
    mine = variants([write_run(tmp_path / f"{s}", seed=s, accuracies=a, rounds=5) for s, a in curves.items()])
    figure = draw_rounds(mine, "a $title$ with 100 % of _everything_ and 漢")
    assert drawn(figure, True) == [([1, 2], [0.45, 0.7])]
    assert drawn(figure, False) == [([1, 2, 3], [0.5, 0.8, 0.9])]
    (band,) = figure.axes[0].collections
    edges = {tuple(point) for point in band.get_paths()[0].vertices.round(9).tolist()}
    assert edges == {(1, 0.4), (1, 0.5), (2, 0.6), (2, 0.8)}
    figure = draw_bytes(mine, "title", down=True)
    both = UP + DOWN
    assert drawn(figure, True) == [([both, 2 * both], [0.45, 0.7])]
    assert drawn(figure, False) == [([both, 2 * both, 3 * both], [0.5, 0.8, 0.9])]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["fedmrn\n70.0%, round 2 of 5"]


def test_what_lies_below_the_axis_is_counted(tmp_path: Path) -> None:
    late = [0.8, 0.8, 0.9] * 9
    mine = variants([write_run(tmp_path / "r", accuracies=[0.1, 0.2, *late], rounds=29)])
    for figure in (draw_rounds(mine, "title"), draw_bytes(mine, "title")):
        bottom = figure.axes[0].get_ylim()[0]
        assert 0.2 < bottom < 0.8
        assert figure.get_supxlabel() == f"The axis starts at {bottom:.1%}; 2 of 29 values are below it."
    mine = variants([write_run(tmp_path / "s", accuracies=late, rounds=27)])
    assert draw_rounds(mine, "title").get_supxlabel() == ""


def test_entropy_against_its_definition() -> None:
    shares = np.array([0.0, 1.0, 0.5, 0.11, 0.89, 1e-12])
    expected = [-sum(q * math.log2(q) for q in (p, 1 - p) if q) for p in shares.tolist()]
    assert entropy(shares) == pytest.approx(expected, abs=1e-9)


def test_density_and_coded_bits_are_means_over_seeds(tmp_path: Path) -> None:
    one, two = {"a": 0.5, "b": 0.1}, {"a": 0.3, "b": 0.1}
    paths = [write_run(tmp_path / f"{s}", seed=s, density=d, coded=c) for s, d, c in ((1, one, 200), (2, two, 225))]
    (variant,) = variants(paths)
    found = density(variant)
    assert found is not None
    assert found[0] == ["a", "b"]
    assert found[1] == pytest.approx(np.array([[0.4] * 3, [0.1] * 3]))
    assert coded_bits(variant) == pytest.approx([0.85] * 3)  # 212.5 bytes where plain bits take 250
    (bare,) = variants([write_run(tmp_path / "none")])
    assert (density(bare), coded_bits(bare)) == (None, None)


def test_the_mean_entropy_weighs_layers_by_their_elements(tmp_path: Path) -> None:
    layers = {"0.weight": 9 * 32, "4.weight": 9 * 32 * 64, "8.weight": 9 * 64 * 128, "13.weight": 1280}
    shares = {name: 0.5 - 0.1 * i for i, name in enumerate(layers)}
    folder = write_run(tmp_path / "r", density=shares, coded=240)
    write_layout(folder, Layout.of(TensorSpec(name, (size // 32, 32), Group.CODED) for name, size in layers.items()))
    figure = draw_masks(variants([folder]), "title")
    left, middle, right = figure.axes[:3]
    assert np.asarray(left.images[0].get_array()) == pytest.approx(np.tile([[s] for s in shares.values()], 3))
    assert np.asarray(middle.images[0].get_array()) == pytest.approx(
        entropy(np.tile([[s] for s in shares.values()], 3))
    )
    assert [t.get_text() for t in left.get_yticklabels()] == list(layers)
    lines = {line.get_label(): line.get_ydata() for line in right.lines}
    total = sum(n * entropy(np.array(shares[name])) for name, n in layers.items())
    assert lines["entropy, all layers"] == pytest.approx([total / sum(layers.values())] * 3)
    assert lines["coded, measured"] == pytest.approx([0.96] * 3)


def test_a_round_without_density_is_a_gap(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", density={"other": 0.4})
    lines = (folder / "rounds.jsonl").read_text().splitlines()
    lines[0] = lines[0].replace(', "density": {"other": 0.4}', "")
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    (variant,) = variants([folder])
    found = density(variant)
    assert found is not None
    assert np.isnan(found[1][0, 0])
    assert found[1][0, 1:].tolist() == [0.4, 0.4]
    right = draw_masks((variant,), "title").axes[2]
    assert [line.get_label() for line in right.lines] == ["not coded"]  # whose layer that is is not known


def test_an_observation_that_nothing_draws_is_there_for_whoever_will(tmp_path: Path) -> None:
    """Nothing between a codec that observes something new and who draws it knows its name."""
    paths = [write_run(tmp_path / f"{s}", seed=s, accuracies=[0.5, 0.6], rounds=2) for s in (1, 2)]
    log = paths[1] / "rounds.jsonl"
    first, second = map(json.loads, log.read_text().splitlines())
    first["made_up"], second["made_up"] = {"a": -1.5}, {"a": 2, "b": 1e9}
    log.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    (variant,) = variants(paths)
    found = variant.observed("made_up")
    assert found is not None
    assert found[0] == ["a", "b"]
    nan = math.nan
    np.testing.assert_array_equal(found[1], [[[nan, nan], [nan, nan]], [[-1.5, 2], [nan, 1e9]]])
    assert variant.observed("made_up", most=1) is None
    assert variant.observed("density") is None


def test_the_scales_that_clients_chose_are_drawn_where_they_are(tmp_path: Path) -> None:
    one = [{"a": 0.25, "b": 2.0}, {"a": 0.5, "b": 2.0}, {"a": 0.5}]
    two = [{"a": 1.0, "b": 2.0}, {"a": 0.5, "b": 8.0}, {"a": 2.0}]
    paths = [
        write_run(tmp_path / "a", scales=one),
        write_run(tmp_path / "b", seed=2, scales=two),
        write_run(tmp_path / "fixed", changes=["method.fedmrn.scale=0.01"]),
    ]
    adapted, fixed = sorted(variants(paths), key=lambda variant: -len(variant.runs))
    assert scales(fixed) is None
    axes = draw_scales([adapted], "title").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(axes.images[0].get_array().filled(np.nan), [[-1, -1, 0], [1, 2, np.nan]])


def test_steps_of_a_round_are_batches_of_its_clients(tmp_path: Path) -> None:
    held = [[10, 23], [500, 500], [9, 9], [64, 0]]  # clients 0 and 3 take part: 2 batches of 32 each
    changes = ["data.partition=labels", "train.local_epochs=5"]
    known = write_run(tmp_path / "known", held=held, changes=changes)
    iid = write_run(tmp_path / "iid")  # 1255 images: 314, 314, 314, 313
    unknown = write_run(tmp_path / "unknown", "fedavg", changes=changes)
    comparisons, _ = collect([known, iid, unknown])
    runs = {
        run.name.rpartition("/")[2]: (variant, run)
        for s in comparisons
        for variant in s.variants
        for run in variant.runs
    }
    expected = {"known": [5 * 4] * 3, "iid": [5 * 20] * 3}
    for name, wanted in expected.items():
        found = steps(runs[name][1])
        assert found is not None
        assert found.tolist() == wanted
        assert step_milliseconds(runs[name][0]) == pytest.approx(1500 / wanted[0])
    assert steps(runs["unknown"][1]) is None
    assert step_milliseconds(runs["unknown"][0]) is None
    figure = draw_times([runs["known"][0], runs["unknown"][0]], "title")
    assert [t.get_text() for t in figure.axes[0].texts] == ["1.50 s, 75 ms a step", "1.50 s"]


@pytest.mark.parametrize("limit", [0, 300])
def test_iid_shares_are_those_that_are_dealt_out(tmp_path: Path, limit: int) -> None:
    """By the definition: samples dealt out in turn. The batch of one makes a step of each sample."""
    for clients in (4, 7, 1255, 2000):
        changes = [f"data.clients={clients}", f"data.max_samples={limit}", "train.batch_size=1", "train.local_epochs=1"]
        path = write_run(tmp_path / f"{clients}", changes=changes)
        ((comparison,), _) = collect([path])
        dealt = np.bincount(np.arange(1255) % clients, minlength=clients)
        wanted = sum(min(int(dealt[c]), limit or 1255) for c in CLIENTS)
        found = steps(comparison.runs[0])
        assert found is not None
        assert found.tolist() == [wanted] * 3


def test_a_stranger_s_number_of_clients_takes_no_memory(tmp_path: Path) -> None:
    (comparison,), _ = collect([write_run(tmp_path / "r", changes=["data.clients=1_000_000_000"])])
    found = steps(comparison.runs[0])
    assert found is not None
    assert found.tolist() == [5 * 2] * 3  # the two clients of a round hold a sample each
    assert allocated(lambda: steps(comparison.runs[0])) < 100_000


def test_a_figure_says_all_of_its_configuration(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"fedavg-{n}", "fedavg", n) for n in (1, 2)]
    mine = variants([*paths, write_run(tmp_path / "masks", accuracies=[0.1], changes=["method.fedmrn.scale=0.02"])])
    assert run_line(mine) == f"{tmp_path.name}/fedavg-1-2; {tmp_path.name}/masks (round 1 of 3)"
    text = configuration(mine)
    for words in (
        "digits, iid, 2 of 4 clients a round, 3 rounds",
        "local epochs 5",
        "batch size 32",
        "model cnn-digits",
    ):
        assert words in text
    alike = "lr 0.1, optimizer sgd, weight decay 0, grid step 0.5, grid hysteresis 0.25, server mean, server lr 1"
    assert f"; {alike}; fedavg: side float32, down float32" in text
    assert "; fedmrn: side float8, down grid, noise uniform, scale 0.02" in text


def test_a_comparison_says_what_was_calibrated_and_counts_it(tmp_path: Path) -> None:
    """Two seeds, calibrated after rounds 2 and 3 of 3: 100 bytes up and 8,100 down each time, 10 points gained."""
    change = ["train.calibrate=every"]
    paths = [write_run(tmp_path / f"s{n}", seed=n, changes=change, calibrated=[2, 3]) for n in (1, 2)]
    comparisons, _ = collect([*paths, write_run(tmp_path / "plain")])
    titles = [comparison.title for comparison in comparisons]
    assert sum("calibrated after every round" in title for title in titles) == 1
    (variant,) = next(c for c in comparisons if "calibrated" in c.title).variants
    assert variant.notes() == [
        "fedmrn: calibrated, the last model goes from 80.00 to 90.00 %; that takes 0.00 MB up and 0.01 down, beside "
        "the updates"
    ]
    row = summarise("fedmrn", 0.1, variant.records)
    assert (row.up_bytes, row.down_bytes) == (3 * UP + 2 * 100, 3 * DOWN + 2 * DOWN)
    assert row.total_bytes == row.up_bytes + row.down_bytes
    assert row.calibration_bytes == 2 * (100 + DOWN)
    each = 8 / (3 * len(CLIENTS) * PARAMETERS)
    assert (row.up_bits, row.down_bits) == (pytest.approx(each * row.up_bytes), pytest.approx(each * row.down_bytes))
    assert row.total_bits == row.up_bits + row.down_bits
    assert row.bits_per_parameter == pytest.approx(3 * UP * each)
    assert traffic_line(row.account, row.calibration_bytes).endswith("; calibration 0.02 MB more")
    assert reach(variant.records, 0.75).up_bytes == 2 * UP + 100
    (plain,) = next(c for c in comparisons if "calibrated" not in c.title).variants
    assert plain.notes() == []
    last = write_run(tmp_path / "last", changes=["train.calibrate=last"], calibrated=[3])
    assert "calibrated at the end" in collect([last])[0][0].title
