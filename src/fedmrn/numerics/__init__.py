"""Exact arithmetic that client and server share: random words, noise, masks, rotations, packed bits."""
