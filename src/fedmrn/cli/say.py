"""The two consoles, and a line for a person."""

import os

from rich.console import Console


class _Output(Console):
    """A console whose reader may go away: the command then does its work to the end, without showing it.

    `fedmrn run ... | head -1` leaves a whole run; stderr says once that the output is dropped.

    Attributes:
        works: whether the command does more than to show something, so that a person may wonder what becomes of it.
    """

    works = False

    def on_broken_pipe(self) -> None:
        """Write to nowhere from now on, and say so where somebody still reads."""
        first, self.quiet = not self.quiet, True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2 if self.stderr else 1)  # also what Python flushes at its end
        os.close(nowhere)
        if first and self.works:
            say(ERR, "nobody reads the output any more: the command goes on to its end without it")


OUT = _Output(emoji=False)  # a function that a setting names may be bad:ok:
ERR = _Output(emoji=False, stderr=True)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: names of files and settings are not markup, and are not broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
