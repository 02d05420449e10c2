"""What a simulated server derives from the run's seed: its secret and the run's id. They are not private."""

from fedmrn.numerics.rng import derive_key


def secret_of(seed: int) -> bytes:
    """Return the server's secret in a simulation: 16 bytes made from the seed."""
    return _two_words(seed, "secret")


def run_of(seed: int) -> bytes:
    """Return the run's id in a simulation: 16 bytes made from the seed."""
    return _two_words(seed, "run")


def _two_words(seed: int, label: str) -> bytes:
    return b"".join(derive_key(seed, label, half).to_bytes(8, "little") for half in range(2))
