"""A Flower app that measures messages."""
