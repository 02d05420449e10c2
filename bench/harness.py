"""What every benchmark shares: first the results must agree, then the cases are timed in turns.

Repetitions are interleaved, in an order that rotates, so that a machine that slows down or a neighbour that
wakes up hits all of them alike. The median is the figure; minimum and quartiles tell how far to trust it.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from fedmrn.methods import Method

NANOSECONDS = {"ns": 1, "ms": 1_000_000}
Case = Callable[[], object]
"""What is timed; its result is not used."""


class DisagreementError(Exception):
    """Two ways to compute the same thing gave different results: their times mean nothing."""


@dataclass(frozen=True)
class Agreement:
    """How far a result is from the one it should equal, and how far rounding may bring it."""

    difference: float
    tolerance: float


@dataclass(frozen=True)
class Goal:
    """What a case should reach: at most so many times the time of another one, or, with none, so much time."""

    case: str
    at_most: float
    of: str = ""


@dataclass(frozen=True)
class Benchmark:
    """Several ways to do the same work.

    Attributes:
        name: what is measured.
        elements: the time is divided by them.
        cases: by name.
        baselines: the cases to which the others are compared, as ratios.
        check: compares the results before anything is timed.
        prepare: runs before each call and is not timed; it puts back what a case in place has overwritten.
        unit: what a time is given in: "ns an element", or "ms a step", an element being one.
        goals: what should be reached.
        limit: the case that shows what the machine could do at best, and which limit it is.
        facts: measured beside the times, after the last repetition: name -> figure with its unit.
    """

    name: str
    elements: int
    cases: Mapping[str, Case]
    baselines: tuple[str, ...]
    check: Callable[[], Mapping[str, Agreement]]
    prepare: Callable[[], None] = lambda: None
    unit: str = "ns an element"
    goals: tuple[Goal, ...] = ()
    limit: tuple[str, str] | None = None
    facts: Callable[[], Mapping[str, str]] = dict


Planned = tuple[Callable[[], Benchmark], int]
"""What builds a benchmark, and how often each of its cases is run."""


def measure(benchmark: Benchmark, repetitions: int, console: Console) -> dict[str, Any]:
    """Check, time and compare the cases; return what goes into the JSON file.

    Raises:
        DisagreementError: the results differ by more than rounding explains.
    """
    _settle_allocator()
    console.print(f"{benchmark.name}: do the results agree?", style="dim", soft_wrap=True)
    agreement = benchmark.check()
    for case, found in agreement.items():
        if not found.difference <= found.tolerance:  # also for NaN
            raise DisagreementError(
                f"{benchmark.name}: {case} is off by {found.difference:.3g}, rounding explains {found.tolerance:.3g}; "
                "nothing was timed"
            )
    seconds = sum(_time(benchmark, case) for case in benchmark.cases) / 1e9  # also a warm-up
    plan = f"{len(benchmark.cases)} cases, {repetitions} times each, about {seconds * repetitions:.1f} s"
    console.print(f"{benchmark.name}: {plan}", style="dim", soft_wrap=True)
    divide = benchmark.elements * NANOSECONDS[benchmark.unit.split()[0]]
    names, times = list(benchmark.cases), {case: np.empty(repetitions) for case in benchmark.cases}
    # The bar is drawn between repetitions only: a thread that draws would disturb what is timed.
    hidden = not console.is_terminal
    turns = track(
        range(repetitions), benchmark.name, console=console, transient=True, disable=hidden, auto_refresh=False
    )
    for i in turns:
        for k in range(len(names)):
            case = names[(i + k) % len(names)]
            times[case][i] = _time(benchmark, case) / divide
    return _summary(benchmark, times, agreement)


def _settle_allocator() -> None:
    """Free a large block once, as a process does that has worked for a while.

    glibc gives memory of some megabytes back to the system at each release until a block as large was released before;
    then it keeps it. Without this a figure depends on what the process happened to release while it was started: the
    faults of new pages doubled the time of a small fold.
    """
    np.empty((32 << 20) - (1 << 16), np.uint8)


def _time(benchmark: Benchmark, case: str) -> int:
    call = benchmark.cases[case]
    benchmark.prepare()
    gc.collect(0)
    gc.disable()
    try:
        start = time.perf_counter_ns()
        call()
        return time.perf_counter_ns() - start
    finally:
        gc.enable()


def _summary(
    benchmark: Benchmark, times: Mapping[str, np.ndarray], agreement: Mapping[str, Agreement]
) -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for case, found in times.items():
        low, q1, median, q3 = (float(q) for q in np.quantile(found, (0, 0.25, 0.5, 0.75)))
        ratios = {b: median / float(np.median(times[b])) for b in benchmark.baselines}
        cases[case] = {"time": {"median": median, "min": low, "q1": q1, "q3": q3}, "ratio": ratios}
    return {
        "name": benchmark.name,
        "elements": benchmark.elements,
        "unit": benchmark.unit,
        "repetitions": next(iter(times.values())).size,
        "agreement": {case: asdict(found) for case, found in agreement.items()},
        "cases": cases,
        "goals": [_reached(goal, cases) for goal in benchmark.goals],
        "limit": benchmark.limit,
        "facts": dict(benchmark.facts()),
    }


def _reached(goal: Goal, cases: Mapping[str, Any]) -> dict[str, Any]:
    found = cases[goal.case]["ratio"][goal.of] if goal.of else cases[goal.case]["time"]["median"]
    return {**asdict(goal), "found": found, "met": found <= goal.at_most}


def of_one_scale(row: Method) -> dict[str, float]:
    """Return the options that give masked noise one scale for all tensors, which is what these benchmarks time."""
    return {"scale": 0.005 if row.name.startswith("fedmrn-s") else 0.01} if "scale" in row.options else {}
