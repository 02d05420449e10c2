"""Local rules: what local training optimises, and what a client hands over."""
