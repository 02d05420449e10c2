"""A federation's rounds: who is asked, what comes back, and what carries the messages."""

__all__: list[str] = []
