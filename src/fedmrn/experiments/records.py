"""A line of a run's log, as tables and plots read it: a name for its type, which needs no framework."""

from typing import Any

Record = dict[str, Any]
"""A line of rounds.jsonl."""
