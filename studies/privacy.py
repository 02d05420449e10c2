"""Accuracy against epsilon: private masks beside FedAvg with the Gaussian mechanism.

    python studies/privacy.py --data-dir data     the runs that are missing, and the tables
    python studies/privacy.py --docs              the tables and the picture of docs/privacy.md, from what is there
    python studies/privacy.py --data digits --cases head --clients 20        needs no download

Models and clients are those of private_cases.py, the mechanisms those of private_means.py. Each client is asked in
every round and trains one epoch; all count alike. A run is a line of records/privacy.jsonl: a study that was stopped
goes on.

Each row takes its best clip with seed 0, which the account counts for none of them; the tables have the other seeds.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product, starmap
from math import inf
from pathlib import Path

from private_cases import CASES, Samples, samples
from private_means import PRIVATE, THROUGH, Mechanism, train
from private_page import Run, publish, tables
from rich.console import Console

from fedmrn.files import append, write_atomic

HERE = Path(__file__).parent
CLIPS = (0.001, 0.003, 0.01, 0.03, 0.1)


def read(path: Path) -> dict[Run, float]:
    """Return the runs of a file; a last line that was cut is left out."""
    found = {}
    text = path.read_text("utf-8") if path.is_file() else ""
    for line in text.split("\n")[:-1]:
        row = json.loads(line)
        accuracy = row.pop("accuracy")
        found[Run(**{**row, "epsilon": row["epsilon"] or inf})] = accuracy
    return found


def line(run: Run, accuracy: float) -> str:
    """Return a run's line: JSON has no infinity, so that epsilon is null where nothing is private."""
    row = {**asdict(run), "epsilon": None if run.epsilon == inf else run.epsilon, "accuracy": round(accuracy, 4)}
    return json.dumps(row) + "\n"


class Study:
    """Runs what is missing.

    Args:
        path: the file of the runs.
        data, folder: the data set, and where it is.
        rounds: of a run.
        clips: that are tried.
    """

    def __init__(self, path: Path, data: str, folder: Path, rounds: int, clips: Sequence[float]) -> None:
        self.path, self.found = path, read(path)
        write_atomic(path, "".join(starmap(line, self.found.items())).encode())  # without a line that was cut
        self._data, self._folder, self._rounds, self._clips = data, folder, rounds, clips
        self._samples: dict[str, Samples] = {}

    def accuracy(self, run: Run) -> float:
        """Return a run's accuracy: from the file, or now."""
        if run not in self.found:
            case = CASES[run.case]
            if run.case not in self._samples:
                self._samples[run.case] = samples(case, run.data, self._folder)
            mechanism = Mechanism(run.mechanism, run.epsilon, run.clip, run.rounds)
            accuracy = train(case, self._samples[run.case].of(run.clients), mechanism, run.seed)
            append(self.path, line(run, accuracy).encode())
            self.found[run] = round(accuracy, 4)
        return self.found[run]

    def cell(self, case: str, clients: int, mechanism: str, epsilon: float, seeds: int) -> None:
        """Run a cell of a table: the clips with seed 0, and the best of them with the other seeds."""
        first = Run(
            data=self._data,
            case=case,
            clients=clients,
            rounds=self._rounds,
            mechanism=mechanism,
            epsilon=epsilon,
            clip=0.0,
            seed=0,
        )
        tried = [first] if mechanism == "none" else [replace(first, clip=clip) for clip in self._clips]
        best = max(tried, key=self.accuracy)
        for seed in range(1, seeds + 1):
            self.accuracy(replace(best, seed=seed))


def cells(asked: argparse.Namespace) -> Iterator[tuple[str, int, str, float]]:
    """Yield case, clients, mechanism and epsilon of each cell, the quick ones first."""
    for clients, case in product(asked.clients, asked.cases):
        yield case, clients, "none", inf
        for epsilon, mechanism in product(asked.epsilons, PRIVATE):
            yield case, clients, mechanism, epsilon
    for clients, case in product([n for n in asked.clients if n <= asked.most_through], asked.cases):
        for epsilon, mechanism in product(asked.epsilons, THROUGH):
            yield case, clients, mechanism, epsilon


def main() -> None:
    """Run what is missing, and print the tables; or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="or digits")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 4.0, 16.0])
    parser.add_argument("--clips", type=float, nargs="+", default=CLIPS)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="beside that which chooses the clip")
    parser.add_argument("--most-through", type=int, default=300, help="clients, where training is through dice")
    parser.add_argument("--runs", type=Path, default=HERE / "records" / "privacy.jsonl", help="the file of the runs")
    parser.add_argument("--docs", action="store_true", help="run nothing; write docs/privacy.md and its picture")
    parser.add_argument("--folder", type=Path, default=HERE.parent / "docs", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.docs:
        publish(read(asked.runs), asked.folder)
        return
    study = Study(asked.runs, asked.data, asked.data_dir, asked.rounds, asked.clips)
    for case, clients, mechanism, epsilon in cells(asked):
        study.cell(case, clients, mechanism, epsilon, asked.seeds)
    out = Console(width=None if sys.stdout.isatty() else 140)
    for table in tables(study.found).values():
        out.print(*table.lines(), sep="\n", highlight=False, markup=False)


if __name__ == "__main__":
    main()
