"""Exact arithmetic that client and server share: random words, noise, masks, rotations, packed bits."""

__all__: list[str] = []
