"""Masked noise, and what goes around it: shorter masks, and scales that clients choose."""

__all__: list[str] = []
