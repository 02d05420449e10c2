"""Experiments: configurations as data, the runner that fills a run folder, and tables and plots made from it."""

__all__: list[str] = []
