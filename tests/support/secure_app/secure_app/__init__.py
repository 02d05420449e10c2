"""Secure sums in Flower's usual layout, with what a test wants to see written to a folder."""
