"""The models of the experiments."""

__all__: list[str] = []
