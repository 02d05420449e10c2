"""The tables and the picture of docs/privacy.md, from the runs of privacy.py."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from math import inf, log, sqrt
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from intervals import interval
from marked_pages import fill, markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from private_cases import CASES
from private_means import PRIVATE, THROUGH, theta_of

COLOURS = {"masks": "#2a7fba", "gauss-element": "#d1495b", "gauss-norm": "#4c566a"}
WORDS = {"masks": "masks", "gauss-element": "Gaussian by element", "gauss-norm": "Gaussian by norm"}
LOST = 5.0
"""Points of accuracy that privacy may cost where a table says how many clients it takes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of the study: a line of its file.

    Attributes:
        data, case, clients, rounds: what is trained, by how many, for how long.
        mechanism, epsilon, clip: how updates become a mean; epsilon is infinite where nothing is private.
        seed: of order, noise and dice.
    """

    data: str
    case: str
    clients: int
    rounds: int
    mechanism: str
    epsilon: float
    clip: float
    seed: int


Found = Mapping[Run, float]
"""Accuracies, in [0, 1]."""


@dataclass(frozen=True)
class TextTable:
    """A table of texts; the first column alone is aligned to the left."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def lines(self) -> list[str]:
        """Return it in Markdown."""
        return markdown(self.header, self.rows, 1)


def accuracies(found: Found, case: str, clients: int, mechanism: str, epsilon: float) -> dict[int, float]:
    """Return seed -> accuracy in % of a cell, by the clip that is best with seed 0, which is not among them."""
    cell = (case, clients, mechanism, epsilon)
    runs = [run for run in found if (run.case, run.clients, run.mechanism, run.epsilon) == cell]
    tried = sorted((run for run in runs if not run.seed), key=lambda run: run.clip)
    clip = max(tried, key=found.__getitem__).clip if tried else 0.0
    return {run.seed: 100 * found[run] for run in runs if run.seed and run.clip == clip}


def spread(values: Mapping[int, float]) -> str:
    """Return mean and standard deviation over seeds; nothing where there are none."""
    seeds = list(values.values())
    if not seeds:
        return ""
    return f"{fmean(seeds):.1f}" + (f"±{stdev(seeds):.1f}" if len(seeds) > 1 else "")


def _cells(found: Found) -> Iterator[tuple[str, int, float]]:
    """Yield case, clients and epsilon, as they are ordered in tables."""
    there = {(run.case, run.clients, run.epsilon) for run in found if run.epsilon < inf}
    yield from sorted(there, key=lambda cell: (list(CASES).index(cell[0]), *cell[1:]))


def _accuracy(found: Found) -> TextTable:
    rows, last = [], ("", 0)
    for case, clients, epsilon in _cells(found):
        private = [spread(accuracies(found, case, clients, name, epsilon)) for name in PRIVATE]
        if not any(private):
            continue
        none = "" if last == (case, clients) else spread(accuracies(found, case, clients, "none", inf))
        rows.append((case, f"{clients:,}", f"{epsilon:g}", *private, none))
        last = (case, clients)
    words = [f"{WORDS[name]}, %" for name in PRIVATE]
    return TextTable(("model", "clients a round", "epsilon", *words, "no privacy, %"), rows)


def _paired(values: Mapping[int, float], plain: Mapping[int, float]) -> str:
    """Return the mean, and in brackets how far it is from the plain one, with its 95 % interval over seeds."""
    pairs = [values[seed] - plain[seed] for seed in values if seed in plain]
    if len(pairs) < 2:
        return spread(values)
    mean, half = interval(pairs)
    return f"{fmean(values.values()):.1f} ({mean:+.1f} ± {half:.1f})"


def _training(found: Found) -> TextTable:
    rows = []
    for case, clients, epsilon in _cells(found):
        plain, *others = (accuracies(found, case, clients, name, epsilon) for name in ("masks", *THROUGH))
        if any(others):
            said = [_paired(values, plain) for values in others]
            rows.append((case, f"{clients:,}", f"{epsilon:g}", spread(plain), *said))
    header = (
        "model",
        "clients a round",
        "epsilon",
        "plainly, %",
        "through the mask that is sent",
        "through a near mask",
    )
    return TextTable(header, rows)


def _noise(epsilon: float, clients: int, case: str, rounds: int) -> float:
    """Return the noise of an element of the mean, over the clip."""
    theta = theta_of(epsilon, clients, CASES[case].parameters, rounds)
    return 1 / (2 * theta * sqrt(clients))


def _needed(found: Found, case: str, epsilon: float) -> str:
    """Return about how many clients a round lose `LOST` points to privacy, by the noise at which measured ones do."""
    points, rounds = list[tuple[float, float]](), 0
    for name, clients, at in _cells(found):
        masks, none = (accuracies(found, name, clients, *cell).values() for cell in (("masks", at), ("none", inf)))
        if name == case and masks and none:
            rounds = next(run.rounds for run in found if run.case == case)
            points.append((log(_noise(at, clients, case, rounds)), fmean(none) - fmean(masks)))
    points.sort()
    noise, lost = np.array(points).reshape(-1, 2).T
    if not len(lost) or not lost.min() <= LOST <= lost.max():
        return "not known"
    least = float(np.exp(np.interp(LOST, np.maximum.accumulate(lost), noise)))
    needed = 100.0
    for _ in range(4):  # the noise goes down as one over the clients, nearly
        needed = max(2.0, needed * _noise(epsilon, round(needed), case, rounds) / least)
    unit = 10.0 ** max(0, len(str(round(needed))) - 2)
    return f"{round(needed / unit) * unit:,.0f}"


def _clients(found: Found) -> TextTable:
    epsilons = sorted({epsilon for *_, epsilon in _cells(found)})
    cases = dict.fromkeys(case for case, *_ in _cells(found))
    rows = [(case, *(_needed(found, case, epsilon) for epsilon in epsilons)) for case in cases]
    return TextTable(("model", *(f"epsilon {epsilon:g}" for epsilon in epsilons)), rows)


def tables(found: Found) -> dict[str, TextTable]:
    """Return the tables by the names in their marks."""
    return {"accuracy": _accuracy(found), "training": _training(found), "clients": _clients(found)}


def draw(found: Found) -> Figure:
    """Return accuracy against epsilon, a panel for each model and number of clients."""
    cases = list(dict.fromkeys(case for case, *_ in _cells(found)))
    counts = sorted({clients for _, clients, _ in _cells(found)})
    figure = Figure(figsize=(4 * len(counts), 3.2 * len(cases)), dpi=90, layout="constrained")
    panels = figure.subplots(len(cases), len(counts), squeeze=False, sharex=True, sharey=True)
    for (i, case), (j, clients) in product(enumerate(cases), enumerate(counts)):
        _panel(panels[i][j], found, case, clients)
    for row in panels:
        row[0].set_ylabel("test accuracy, %")
    for axes in panels[-1]:
        axes.set_xlabel("epsilon of the run")
    panels[0][0].legend(fontsize=8, loc="lower right")
    return figure


def _panel(axes: Axes, found: Found, case: str, clients: int) -> None:
    epsilons = sorted({epsilon for *_, epsilon in _cells(found)})
    for i, name in enumerate(PRIVATE):
        cells = {epsilon: list(accuracies(found, case, clients, name, epsilon).values()) for epsilon in epsilons}
        there = {epsilon: values for epsilon, values in cells.items() if values}
        means = [fmean(values) for values in there.values()]
        ends = [[m - min(v) for m, v in zip(means, there.values(), strict=True)]]
        ends.append([max(v) - m for m, v in zip(means, there.values(), strict=True)])
        x = [epsilon * 1.06 ** (i - 1) for epsilon in there]
        axes.errorbar(x, means, ends, color=COLOURS[name], label=WORDS[name], marker="o", markersize=4, capsize=3)
    none = accuracies(found, case, clients, "none", inf)
    axes.set_visible(bool(none))
    if none:
        axes.axhline(fmean(none.values()), color="#888888", linestyle="--", linewidth=1, label="no privacy")
    axes.set_xscale("log", base=2)
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.set_title(f"{case}, {clients:,} clients a round", fontsize=10)
    axes.grid(True, alpha=0.2)


def digest(found: Found) -> str:
    """Return a hash of the runs: the picture has it, so that one of other runs is seen."""
    return sha256("".join(sorted(f"{run} {accuracy}" for run, accuracy in found.items())).encode()).hexdigest()


def publish(found: Found, docs: Path) -> None:
    """Write the picture, and the tables between the marks of the page.

    Raises:
        ValueError: the page lacks a mark.
    """
    draw(found).savefig(docs / "privacy.png", metadata={"Software": None, "Runs": digest(found)})
    for name, table in tables(found).items():
        fill(docs / "privacy.md", f"<!-- study privacy: {name} -->", table.header, table.rows, 1)
