"""The benchmarks run, check what they compare before they time it, and write figures that fit together.

No test asserts a speed: that is for a quiet machine and a person.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

BENCH = Path(__file__).parents[2] / "bench"
PARTS = (
    "noise",
    "codecs",
    "entropy",
    "public",
    "transform",
    "fold",
    "large",
    "step",
    "round",
    "workers",
    "start",
    "gpu",
    "profile",
)


def suite(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(BENCH / "suite.py"), *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


Quick = tuple[dict[str, dict[str, Any]], subprocess.CompletedProcess[str], str]


pytestmark = pytest.mark.xdist_group("bench")  # its runs are made once


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Quick:
    folder = tmp_path_factory.mktemp("bench")
    page = folder / "page.md"
    page.write_text(
        "".join(f"before {p}\n<!-- bench {p} -->\nold\n<!-- end -->\n" for p in ("goals", *PARTS)) + "after"
    )
    done = suite(folder, "--quick", "--out", "new/quick", "--docs", "--page", str(page))
    assert done.returncode == 0, done.stderr
    reports = {part: json.loads((folder / "new" / "quick" / f"{part}.json").read_text()) for part in PARTS}
    return reports, done, page.read_text()


def timed(quick: Quick) -> list[dict[str, Any]]:
    return [m for part, report in quick[0].items() if part != "profile" for m in report["measurements"]]


def test_figures_fit_together(quick: Quick) -> None:
    reports, done, _ = quick
    for part, report in reports.items():
        assert (report["part"], report["quick"]) == (part, True)
        assert {"cpu", "vectors", "cores", "load", "python", "numpy", "numba", "torch"} <= report["machine"].keys()
        assert report["measurements"] or (part == "gpu" and not torch.cuda.is_available())
        assert f"written: new/quick/{part}.json" in done.stdout
    for measured in timed(quick):
        assert measured["name"] in done.stdout
        assert measured["repetitions"] > 1
        median = {case: found["time"]["median"] for case, found in measured["cases"].items()}
        for case, found in measured["cases"].items():
            assert case in done.stdout
            time = found["time"]
            assert 0 < time["min"] <= time["q1"] <= time["median"] <= time["q3"]
            assert found["ratio"], "no figure without a baseline"
            for baseline, ratio in found["ratio"].items():
                assert ratio == pytest.approx(median[case] / median[baseline])
        for goal in measured["goals"]:
            found = median[goal["case"]] / (median[goal["of"]] if goal["of"] else 1)
            assert goal["found"] == pytest.approx(found)
            assert goal["met"] is (goal["found"] <= goal["at_most"])


def test_what_is_compared_agrees(quick: Quick) -> None:
    for measured in timed(quick):
        assert measured["agreement"], f"{measured['name']}: nothing was checked"
        for case, found in measured["agreement"].items():
            assert 0 <= found["difference"] <= found["tolerance"]
            if measured["name"].startswith("transform") and case.startswith("torch"):
                assert found["difference"] == 0  # the same operations in the same order


def test_every_codec_and_model_is_there(quick: Quick) -> None:
    reports = quick[0]
    names = {m["name"] for m in reports["codecs"]["measurements"]}
    assert {"fedavg", "fedmrn", "fedmrn, entropy", "fedmrn-mrc", "signsgd", "topk", "terngrad", "qsgd"} <= names
    assert {"drive", "eden4", "eden-half", "fedbat", "fedpm", "fedsparsify-global", "float16"} <= names
    for measured in reports["profile"]["measurements"]:
        for shares in measured["shares"].values():
            assert sum(shares.values()) == pytest.approx(1)
        assert "draw masked weights" in measured["shares"]["fedmrn"]


def test_progress_is_shown_and_compilation_is_not_a_hang(quick: Quick) -> None:
    message = quick[1].stderr
    assert "kernels ready after" in message
    for place, part in enumerate(PARTS, 1):
        assert f"[{place}/{len(PARTS)}] {part}: " in message
    assert message.count("do the results agree?") == len(timed(quick))


def test_the_tables_of_the_page_are_rewritten_and_nothing_else(quick: Quick) -> None:
    page = quick[2]
    assert "\nold\n" not in page
    assert page.endswith("after")
    for part in ("goals", *PARTS):
        assert f"before {part}\n<!-- bench {part} -->\n\n" in page
    codecs = quick[0]["codecs"]["measurements"]
    for measured in timed(quick):
        if measured in codecs:  # rows of one table, and of goals only the worst
            assert f"\n| {measured['name']} | " in page
            continue
        assert f"**{measured['name']}**" in page
        for goal in measured["goals"]:
            assert f"| {measured['name']}: {goal['case']} | " in page
    for case in ("encode", "decode"):
        found = [goal for m in codecs for goal in m["goals"] if goal["case"] == case]
        worst = max(goal["found"] for goal in found)
        assert f": {case} | ns an element | {worst:.3g} | 30 | " in page
        assert page.count(f"worst of {len(found)}, ") == 2


def test_every_block_of_the_document_is_there() -> None:
    text = "".join(path.read_text() for path in sorted((BENCH.parent / "docs").glob("performance*.md")))
    for part in ("goals", *PARTS):
        assert text.count(f"<!-- bench {part} -->\n") == 1
    assert text.count("<!-- end -->") == len(PARTS) + 1


def test_without_a_gpu_it_is_said_that_nothing_was_measured(quick: Quick) -> None:
    reports, done, page = quick
    measured = bool(reports["gpu"]["measurements"])
    assert measured is torch.cuda.is_available()
    assert ("no CUDA device: not measured" in done.stdout) is not measured
    assert ("<!-- bench gpu -->\n\nNo CUDA device: not measured.\n\n<!-- end -->" in page) is not measured


def test_the_part_for_a_gpu_runs_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    gpu, harness = importlib.import_module("gpu"), importlib.import_module("harness")
    with torch.random.fork_rng(devices=[]):
        for build, repetitions in gpu.plan(True, "cpu"):
            measured = harness.measure(build(), repetitions, Console(quiet=True))
            assert all(found["time"]["median"] > 0 for found in measured["cases"].values())
            assert measured["cases"].keys() & {"fedmrn", "fedmrn, eager"}
            assert all(float(fact) > 0 for fact in measured["facts"].values())


def test_the_first_round_of_a_run_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    line = importlib.import_module("starts").first_round("--set", "train.local_epochs=1", "--set", "train.rounds=2")
    assert " round 1/2: accuracy " in line


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_disagreement_is_told_and_nothing_is_timed(
    wrong: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    script, transforms = importlib.import_module("suite"), importlib.import_module("transforms")
    monkeypatch.setattr("torch.set_num_threads", lambda _count: None)  # it would last in this process
    real = transforms.stacked
    monkeypatch.setattr(transforms, "stacked", lambda x, block: real(x, block) * (1 + wrong))
    monkeypatch.setattr(sys, "argv", ["suite.py", "--quick", "--only", "transform", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1
    assert "torch, stacked is off by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class TestPublished:
    """The baseline is what its docstring says."""

    @pytest.mark.parametrize("signed", [False, True])
    def test_masks_have_the_law_of_the_formulas(self, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """The weight's mean over many elements of one u / n is that of the clipped u, at any q: masking is unbiased.

        A masked element has the standard deviation |n| sqrt(p (1 - p)), twice that if signed: six of them, of the mean.
        """
        monkeypatch.syspath_prepend(BENCH)
        published = importlib.import_module("published")
        torch.manual_seed(1)
        size = 400
        layer = published.Masked(nn.Linear(size, size, bias=False), 0.01, signed)
        for ratio in (-1.5, -0.5, 0.0, 0.25, 0.8, 2.0):
            layer.u.data = layer.n * ratio
            low = -1.0 if signed else 0.0
            mean = min(max(ratio, low), 1.0)
            p = (mean + 1) / 2 if signed else mean
            deviation = (2 if signed else 1) * (p * (1 - p)) ** 0.5 / size
            codewords = {low, 1.0}
            for q in (0.0, 0.3, 1.0):
                weights = published.masked(layer.u, layer.n, q, signed).detach() / layer.n
                found = {round(v, 4) + 0.0 for v in weights.unique().tolist()}
                assert found <= (codewords | {mean} if q < 1 else codewords)
                assert abs(float(weights.double().mean()) - mean) <= 6 * deviation + 1e-6
                masked = 1 - float((weights - mean).abs().lt(1e-5).double().mean()) if 0 < p < 1 else q
                assert masked == pytest.approx(q, abs=6 * (q * (1 - q)) ** 0.5 / size + 1e-9)

    def test_the_gradient_goes_straight_through(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(BENCH)
        published = importlib.import_module("published")
        layer = published.Masked(nn.Conv2d(2, 3, 3, padding=1, bias=False), 0.01, False)
        x = torch.randn(2, 2, 5, 5)
        layer(x).sum().backward()
        weight = torch.zeros_like(layer.w, requires_grad=True)
        nn.functional.conv2d(x, weight, padding=1).sum().backward()
        assert torch.allclose(layer.u.grad, weight.grad, rtol=1e-4, atol=1e-4)
        assert not layer.w.requires_grad
        assert bool((layer.n != 0).all())


def test_help_teaches(tmp_path: Path) -> None:
    done = suite(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for word in (*PARTS, "--quick", "--only", "--docs", "--out", "examples:"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_wrong_use_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = suite(tmp_path, "--quick", "--out", "file/t")
    assert done.returncode == 1
    assert "suite.py: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    done = suite(tmp_path, "--only", "noise,tea")
    assert done.returncode == 2
    assert "no part 'tea'" in done.stderr


def test_the_mean_that_folds_are_compared_with_is_a_weighted_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    folds = importlib.import_module("folds")
    arrays = [np.full(3, v, np.float32) for v in (1, 2, 6)]
    for read in (folds.loaded, folds.in_place):
        assert folds.dense([folds.saved(a) for a in arrays], read).tolist() == pytest.approx([23 / 6] * 3)
