"""Local rules: what local training optimises, and what a client hands over."""

__all__: list[str] = []
