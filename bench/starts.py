"""How soon the library is there: whole processes, from their start on; kernels and bytecode are on the disk.

nothing                     python -c pass
numpy                       python -c "import numpy"
fedmrn.server               python -c "import fedmrn.server": what an aggregation server imports
fedmrn --help               the command line
torch                       python -c "import torch"
first round                 fedmrn run digits, until it says that round 1 is done; the process is killed then
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial

from harness import Agreement, Benchmark, Case, Goal, Planned

FEDMRN = ("-m", "fedmrn")
# As in an installation: bytecode is there, and nobody looks over the shoulder of a process.
UNWANTED = ("PYTHONDONTWRITEBYTECODE", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
ENV = {name: value for name, value in os.environ.items() if name not in UNWANTED}


def started(arguments: Sequence[str]) -> int:
    """Run a process of Python to its end; return its exit code."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=ENV, stdout=subprocess.DEVNULL, check=False).returncode  # noqa: S603 - our own


def first_round(*changes: str) -> str:
    """Run the preset digits until it says that its first round is done; return that line, empty if it never does."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *FEDMRN, "run", "digits", "--out", f"{folder}/run", *changes]
        with subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
            line = next((line for line in process.stdout or () if " round 1/" in line), "")
            process.kill()
    return line


def starts() -> Benchmark:
    """Build the benchmark of what does not train."""
    commands = {
        "nothing": ("-c", "pass"),
        "numpy": ("-c", "import numpy"),
        "fedmrn.server": ("-c", "import fedmrn.server"),
        "fedmrn --help": (*FEDMRN, "--help"),
    }
    return Benchmark(
        "start of a process",
        1,
        {name: partial(started, command) for name, command in commands.items()},
        ("numpy",),
        lambda: {name: Agreement(started(command), 0) for name, command in commands.items()},
        unit="ms a start",
        goals=(Goal("fedmrn --help", 2, "numpy"), Goal("fedmrn.server", 5, "numpy")),
        limit=("nothing", "Python alone"),
    )


def rounds() -> Benchmark:
    """Build the benchmark of a run."""
    cases: dict[str, Case] = {"torch": partial(started, ("-c", "import torch")), "first round": first_round}
    return Benchmark(
        "start of a run",
        1,
        cases,
        ("torch",),
        lambda: {"first round": Agreement(float(not first_round()), 0)},
        unit="ms a start",
        goals=(Goal("first round", 4000),),
        limit=("torch", "the import of torch"),
    )


def plan(quick: bool) -> Iterator[Planned]:
    """Yield the benchmarks; the quick plan leaves out the one that takes minutes."""
    yield starts, 2 if quick else 21
    if not quick:
        yield rounds, 15
