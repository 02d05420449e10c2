"""The command line: `fedmrn --help`."""

import gc
import sys

from fedmrn.cli.importing import importing
from fedmrn.extras import explained

__all__ = ["main"]


def main() -> None:
    """Run the command line; without what it needs it ends in one line that says what to install, and exit code 2."""
    try:
        with importing():
            from fedmrn.cli.app import command_line  # noqa: PLC0415 - what it needs is an extra
        gc.freeze()  # what is there stays, and is walked no more, not even at the end
        command_line()
    except ModuleNotFoundError as error:
        told = explained(error, "the command line")
        if told is error and "pip install" not in str(error):
            raise
        sys.stderr.write(f"error: {told}\n")
        sys.exit(2)
