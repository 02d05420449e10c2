"""Masked noise, and what goes around it: shorter masks, and scales that clients choose."""
