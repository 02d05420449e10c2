"""Clients that are users of the data set (speaking roles), and random subsets of samples.

Source of the law: LEAF (Caldas et al., "LEAF: a benchmark for federated settings", 2018), where a client of Shakespeare
is a speaking role.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedmrn.data.partition import PARTITIONS
from fedmrn.errors import ConfigError
from fedmrn.numerics.rng import derive_key

Indices = NDArray[np.int64]


def by_role(roles: Sequence[Indices], clients: int, min_size: int, seed: int) -> tuple[Indices, ...]:
    """Draw roles that have enough samples as clients; return each one's training samples, in the files' order.

    Args:
        roles: for each role, the indices of its training samples.
        clients: how many roles to draw.
        min_size: the fewest training samples that a role may have, at least 1.
        seed: a non-negative integer; the same arguments give the same roles.

    Raises:
        ConfigError: the data set names no roles, or too few have enough samples.
    """
    if not roles:
        laws = ", ".join(name for name in PARTITIONS if name != "roles")
        raise ConfigError(f'data.partition = "roles", but this data set names none; choose one of {laws}')
    enough = np.flatnonzero([len(role) >= min_size for role in roles])
    if clients > len(enough):
        raise ConfigError(
            f"data.clients is {clients}, but of {len(roles)} roles {len(enough)} have {min_size} training samples; "
            "lower data.clients or data.min_size"
        )
    return tuple(roles[i] for i in subset(enough, clients, seed, "roles"))


def subset(indices: Indices, most: int, *key: int | str) -> Indices:
    """Return at most `most` of the indices (0: all), drawn at random by the key, in their order."""
    if not most or len(indices) <= most:
        return indices
    generator = np.random.Generator(np.random.Philox(key=derive_key(0, "subset", *key)))
    return np.sort(generator.choice(indices, most, replace=False))
