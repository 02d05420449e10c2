"""A process that has imported the libraries, and becomes `python -m fedmrn ...` by a fork: milliseconds, not seconds.

It has imported nothing of fedmrn's: every line of that runs anew in the process of a command line, whose arguments,
folder, environment, streams and exit code are its own. Orders come as lines of JSON, exit codes go back as lines.
"""

import gc
import json
import multiprocessing
import os
import runpy
import signal
import sys

# What a run imports. None of it starts a thread, which a fork would lose.
import matplotlib.backends.backend_agg
import matplotlib.figure
import numba
import pydantic
import rich.progress
import tomli_w
import torch._dynamo  # which every optimiser of torch imports
import typer
from command import SECONDS

__all__ = ["matplotlib", "numba", "pydantic", "rich", "tomli_w", "torch", "typer"]


def become(args: list[str], folder: str, env: dict[str, str], out: str, err: str) -> None:
    """Do in this process what `python -m fedmrn` does."""
    signal.alarm(SECONDS)
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY), (2, err, os.O_WRONLY)):
        os.dup2(os.open(path, flags), number)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv, sys.path[0] = ["fedmrn", *args], folder
    measured = None
    if any(name.startswith("COVERAGE_PROCESS_") for name in env):
        import coverage  # noqa: PLC0415 - what coverage's own hook does where Python starts

        measured = coverage.process_startup()
    try:
        runpy.run_module("fedmrn", run_name="__main__", alter_sys=True)
    finally:
        if measured is not None:
            measured.stop()
            measured.save()


def main() -> None:
    """Serve until the orders end."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    fork = multiprocessing.get_context("fork")
    numba.njit(lambda x: x + 1.0)(2.0)  # the first function of a process takes the compiler a third of a second
    gc.freeze()  # else the first collection of each process copies all that was imported
    for order in orders:
        process = fork.Process(target=become, args=json.loads(order))
        process.start()
        process.join()
        print(process.exitcode, file=answers, flush=True)
    os._exit(0)  # the interpreter would take a second to put away what was imported


if __name__ == "__main__":
    main()
