"""A federation in one process, always through real frames."""
