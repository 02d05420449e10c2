"""Paired differences of accuracy between runs of the same seed, over a range of rounds, with their interval over seeds.

    python studies/paired.py --rounds 16-25 runs/fmnist-labels/fedavg-seed1 runs/fmnist-labels/fedmrn-seed1

The first folder of each seed is the baseline, the others are set against it. Two runs of one seed have the same clients
in each round: what a round's clients do to both cancels. The interval is Student's t over seeds, 95 %; one seed has
none.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from intervals import interval

from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.record import accuracies as tested
from fedmrn.experiments.run.record import read_records


def accuracies(folder: Path, first: int, last: int) -> list[float]:
    """Return the accuracies of rounds first..last in %."""
    records = read_records(folder)
    if len(records) < last:
        raise SystemExit(f"{folder} has {len(records)} rounds, {last} are asked for")
    found = [100 * accuracy for accuracy in tested(records[first - 1 : last])]
    if len(found) != last - first + 1:
        raise SystemExit(f"{folder} did not test every round from {first} to {last}: give a run with test_every = 1")
    return found


def over_seeds(differences: Sequence[float]) -> str:
    """Return mean and half-width of the 95 % interval over seeds, in points."""
    if len(differences) < 2:
        return f"{fmean(differences):+.2f} (one seed: no interval)"
    mean, half = interval(differences)
    return f"{mean:+.2f}±{half:.2f}"


def compare(folders: Iterable[Path], first: int, last: int) -> list[str]:
    """Return a line for each run, and one for each place behind the baselines with the interval over seeds."""
    seeds: dict[int, list[Path]] = {}
    for folder in folders:
        seeds.setdefault(read_experiment(folder).seed, []).append(folder)
    if len({len(runs) for runs in seeds.values()}) != 1 or min(map(len, seeds.values())) < 2:
        raise SystemExit("each seed needs its baseline and as many other runs as the other seeds have")
    lines = list[str]()
    differences = [list[float]() for _ in range(len(next(iter(seeds.values()))) - 1)]
    for seed, (baseline, *others) in sorted(seeds.items()):
        reference = accuracies(baseline, first, last)
        lines.append(f"seed {seed}  {fmean(reference):6.2f}         {baseline}")
        for found, folder in zip(differences, others, strict=True):
            curve = accuracies(folder, first, last)
            found.append(fmean(a - b for a, b in zip(curve, reference, strict=True)))
            lines.append(f"seed {seed}  {fmean(curve):6.2f}  {found[-1]:+6.2f} {folder}")
    return [*lines, *(f"place {i}: {over_seeds(found)}" for i, found in enumerate(differences, 2))]


def main() -> None:
    """Read the command line and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders; of each seed the baseline first")
    parser.add_argument("--rounds", required=True, help="FIRST-LAST, such as 16-25")
    arguments = parser.parse_args()
    first, _, last = arguments.rounds.partition("-")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        parser.error(f"--rounds is FIRST-LAST, such as 16-25; got {arguments.rounds!r}")
    sys.stdout.write("\n".join(compare(arguments.runs, int(first), int(last))) + "\n")


if __name__ == "__main__":
    main()
