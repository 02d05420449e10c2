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

BENCH = Path(__file__).parents[2] / "bench"


def transform(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(BENCH / "transform.py"), *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("bench")
    done = transform(folder, "--quick", "--out", "new/quick.json")
    assert done.returncode == 0, done.stderr
    assert "written: new/quick.json" in done.stdout
    return json.loads((folder / "new" / "quick.json").read_text()), done.stdout


def test_figures_fit_together(quick: tuple[dict[str, Any], str]) -> None:
    report, screen = quick
    assert report["quick"] is True
    assert report["compile_seconds"]["walsh_hadamard"] > 0
    assert {"cpu", "cores", "load", "python", "numpy", "numba", "torch"} <= report["machine"].keys()
    assert len(report["measurements"]) > 1
    for measured in report["measurements"]:
        assert measured["name"] in screen
        assert measured["repetitions"] > 1
        median = {case: found["ns_per_element"]["median"] for case, found in measured["cases"].items()}
        for case, found in measured["cases"].items():
            assert case in screen
            ns = found["ns_per_element"]
            assert 0 < ns["min"] <= ns["q1"] <= ns["median"] <= ns["q3"]
            assert "copy" in found["ratio"]
            for baseline, ratio in found["ratio"].items():
                assert ratio == pytest.approx(median[case] / median[baseline])
                assert ratio > 0


def test_what_is_compared_agrees(quick: tuple[dict[str, Any], str]) -> None:
    for measured in quick[0]["measurements"]:
        agreement = measured["agreement"]
        checked = {"decode"} if "decode" in measured["cases"] else measured["cases"].keys() - {"fedmrn", "copy"}
        assert agreement.keys() == checked
        for case, found in agreement.items():
            assert 0 <= found["difference"] <= found["tolerance"] < 1e-3
            if case.startswith("torch"):
                assert found["difference"] == 0  # the same operations in the same order


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_disagreement_is_told_and_nothing_is_timed(
    wrong: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCH)
    script = importlib.import_module("transform")
    monkeypatch.setattr("torch.set_num_threads", lambda _count: None)  # it would last in this process
    real = script.stacked
    monkeypatch.setattr(script, "stacked", lambda x, block: real(x, block) * (1 + wrong))
    monkeypatch.setattr(script, "run", lambda _plan, _out, err: script.measure(script.transform(ones(), 256), 2, err))
    monkeypatch.setattr(sys, "argv", ["transform.py", "--quick", "--out", str(tmp_path / "t.json")])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1
    assert "torch, stacked is off by" in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()


def ones() -> np.ndarray:
    return np.ones(1 << 12, np.float32)


def test_help_teaches(tmp_path: Path) -> None:
    done = transform(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    for word in ("two products", "floor", "--quick", "--out", "examples:"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = transform(tmp_path, "--quick", "--out", "file/t.json")
    assert done.returncode == 1
    assert "transform.py: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
