"""How the end-to-end tests call the command line."""

import subprocess
from collections.abc import Callable, Iterable

Cli = Callable[..., subprocess.CompletedProcess[str]]
SECONDS = 900
"""A guard against a hang: a few times what a command needs on a busy machine."""
QUICK = ("train.rounds=2", "train.local_epochs=1", "data.clients=4", "train.clients_per_round=2", "train.threads=1")


def changes(*extra: str) -> list[str]:
    """Options that make a run on digits take a second."""
    return [word for change in (*QUICK, *extra) for word in ("--set", change)]


def refused_in_one_line(done: subprocess.CompletedProcess[str], words: Iterable[str]) -> None:
    """Check that a command was used wrongly, and says so in one line with all these words."""
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
