"""The command line: `fedmrn --help`."""

from fedmrn.cli.app import main

__all__ = ["main"]
