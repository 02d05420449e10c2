"""studies/paired.py: differences are paired by seed and round, and the interval is Student's t over seeds."""

import sys
from math import sqrt
from pathlib import Path

import pytest

from run_folders import write_run

sys.path.append(str(Path(__file__).parents[3] / "studies"))

import paired


def runs(root: Path) -> list[Path]:
    """Two seeds, each with a baseline and one run; rounds 2 and 3 differ by 2 and 4 points, and by 5 and 7."""
    curves = {"a1": (0.1, 0.50, 0.60), "b1": (0.9, 0.52, 0.64), "a2": (0.1, 0.3, 0.4), "b2": (0.9, 0.35, 0.47)}
    return [write_run(root / name, seed=int(name[1]), accuracies=curve) for name, curve in curves.items()]


def test_differences_and_their_interval(tmp_path: Path) -> None:
    *lines, last = paired.compare(runs(tmp_path), 2, 3)
    assert [line.split()[2] for line in lines] == ["55.00", "58.00", "35.00", "41.00"]
    assert [line.split()[3] for line in (lines[1], lines[3])] == ["+3.00", "+6.00"]
    half = 12.7062 * (3 / sqrt(2)) / sqrt(2)  # t of one degree of freedom, standard deviation of 3 and 6
    assert last == f"place 2: +4.50±{half:.2f}"
    assert paired.compare(runs(tmp_path / "one")[:2], 2, 3)[-1] == "place 2: +3.00 (one seed: no interval)"


def test_what_cannot_be_paired(tmp_path: Path) -> None:
    found = runs(tmp_path)
    with pytest.raises(SystemExit, match="3 rounds, 4 are asked for"):
        paired.compare(found, 2, 4)
    for wrong in (found[:1], found[:3]):
        with pytest.raises(SystemExit, match="each seed needs its baseline"):
            paired.compare(wrong, 2, 3)
