"""One run: an experiment, and the folder that it fills."""

__all__: list[str] = []
