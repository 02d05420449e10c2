"""Who holds which training sample: the laws that share a data set among clients.

    iid         a random share of equal size
    dirichlet   each class is shared in proportions drawn from Dirichlet(alpha): "Non-IID-1", label skew
    labels      each client holds a fixed fraction of the labels, drawn at random: "Non-IID-2"
    labels-in-order   the same, but clients take the labels in order, as in the published code

    roles       a client is a user that the data set names (`fedmrn.data.roles`)

A law names an owner for each image; grouping images by owner gives the parts, so no image can be lost or held
twice. Random numbers come from numpy's generators, whose sequences may change with numpy's version, but not
with anything else.

Source of the laws: the setup of the published FedMRN experiments; Dirichlet label skew as in Li et al.,
"Federated learning on non-IID data silos", ICDE 2022.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.numerics.rng import derive_key
from fedmrn.text import nearest

Indices = NDArray[np.int64]

_MAX_DRAWS = 1000


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """A law and its parameters; each law ignores the parameters of the others.

    Attributes:
        kind: "iid", "dirichlet", "labels" or "labels-in-order"; "roles" needs no labels, and is `fedmrn.data.by_role`.
        alpha: concentration of the Dirichlet distribution, > 0; smaller is more uneven.
        min_size: dirichlet: the smallest number of samples that a client may get, >= 1.
        share: labels, labels-in-order: the fraction of all labels that a client holds, 0 < share <= 1, rounded down to
            whole labels.

    Raises:
        ConfigError: if a parameter is out of its range.
    """

    kind: str = "iid"
    alpha: float = 0.3
    min_size: int = 10
    share: float = 0.3

    def __post_init__(self) -> None:
        if self.kind not in _LAWS:
            raise ConfigError(f"partition: unknown kind {self.kind!r}{nearest(self.kind, _LAWS)}")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"partition: alpha is {self.alpha}; give a finite number above 0, such as 0.3")
        if self.min_size < 1:
            raise ConfigError(f"partition: min_size is {self.min_size}; give a whole number from 1 on")
        if not 0 < self.share <= 1:
            raise ConfigError(f"partition: share is {self.share}; give a fraction above 0 and at most 1, such as 0.3")


def partition(labels: NDArray[np.integer], spec: PartitionSpec, clients: int, seed: int) -> tuple[Indices, ...]:
    """Share the images among clients: every index from 0 to n-1 is in exactly one part, and no part is empty.

    Args:
        labels: the label of each image, integers, shape (n,). The classes are those that occur.
        spec: the law.
        clients: the number of parts, at least 1.
        seed: a non-negative integer; the same arguments give the same parts.

    Returns:
        For each client the indices of its images: int64, ascending, shape (size,).

    Raises:
        ConfigError: if the request cannot be met: more clients than images, a share of less than one label,
            labels that nobody would hold, or proportions too uneven for `min_size`.
    """
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(f"partition: labels are {labels.dtype} of shape {labels.shape}; give integers of shape (n,)")
    if clients < 1 or seed < 0:
        raise ConfigError(
            f"partition: clients is {clients} and seed {seed}; give at least 1 client and a seed from 0 on"
        )
    if clients > len(labels):
        raise ConfigError(f"partition: {clients} clients cannot share {len(labels)} samples; lower clients")
    _, class_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.split(np.argsort(class_of, kind="stable"), np.cumsum(counts)[:-1])
    owner = _LAWS[spec.kind].owners(members, spec, clients, seed)
    by_owner = np.argsort(owner, kind="stable").astype(np.int64)  # stable, so that each part ascends
    return tuple(np.split(by_owner, np.cumsum(np.bincount(owner, minlength=clients))[:-1]))


def holdings(labels: NDArray[np.integer], parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return how many samples of each label each client holds, int64, shape (clients, labels)."""
    classes = int(labels.max()) + 1
    return np.stack([np.bincount(labels[part], minlength=classes) for part in parts])


def _generator(seed: int, attempt: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=derive_key(seed, "partition", attempt)))


def _iid(members: Sequence[Indices], _: PartitionSpec, clients: int, seed: int) -> Indices:
    """Deal the images out in turn, then shuffle: sizes differ by at most one."""
    total = sum(map(len, members))
    return _generator(seed, 0).permutation(np.arange(total) % clients)


def _dirichlet(members: Sequence[Indices], spec: PartitionSpec, clients: int, seed: int) -> Indices:
    """Draw sizes until each client has at least min_size; only then decide which images they are."""
    counts = [len(indices) for indices in members]
    total = sum(counts)
    if clients * spec.min_size > total:
        raise ConfigError(
            f"partition: {clients} clients of at least {spec.min_size} samples need more than the {total} "
            "there are; lower clients or min_size"
        )
    for attempt in range(_MAX_DRAWS):
        rng = _generator(seed, attempt)
        sizes = _dirichlet_sizes(rng, counts, spec.alpha, clients)
        if sizes is not None and sizes.sum(0).min() >= spec.min_size:
            owner = np.empty(total, np.int64)
            for indices, shares in zip(members, sizes, strict=True):
                owner[indices] = rng.permutation(np.repeat(np.arange(clients), shares))
            return owner
    raise ConfigError(
        f"partition: each of {_MAX_DRAWS} draws with alpha {spec.alpha} left some of {clients} clients with "
        f"fewer than {spec.min_size} samples; raise alpha, or lower clients or min_size"
    )


def _dirichlet_sizes(rng: np.random.Generator, counts: Sequence[int], alpha: float, clients: int) -> Indices | None:
    """Return the number of images by class and client, (classes, clients); None is a void draw."""
    sizes = np.zeros((len(counts), clients), np.int64)
    held = np.zeros(clients, np.int64)
    for label, count in enumerate(counts):
        proportions = rng.dirichlet(np.full(clients, alpha))
        proportions[held >= sum(counts) / clients] = 0  # who has an average share or more gets none of later classes
        upto = np.cumsum(proportions)
        if not upto[-1] > 0:  # a tiny alpha gives one client everything, and that client was full
            return None
        # Divided by its own last element, the sum ends at exactly 1: rounding leaves no image to a full client.
        cuts = (upto / upto[-1] * count).astype(np.int64)[:-1]
        sizes[label] = np.diff(cuts, prepend=0, append=count)
        held += sizes[label]
    return sizes


def _labels(members: Sequence[Indices], spec: PartitionSpec, clients: int, seed: int) -> Indices:
    """Give each client the labels that fewest hold so far, then split each label among its holders."""
    each, rng = _labels_each(len(members), spec.share, clients), _generator(seed, 0)
    holders: list[list[int]] = [[] for _ in members]
    for client in rng.permutation(clients).tolist():
        # Counts stay within one of each other: a label is passed over only if none with fewer holders is.
        load = np.array([len(clients_of) for clients_of in holders])
        rank = np.lexsort((rng.random(len(members)), load))  # ties are broken at random
        for label in rank[:each].tolist():
            holders[label].append(client)
    return _split(members, holders, rng)


def _labels_in_order(members: Sequence[Indices], spec: PartitionSpec, clients: int, seed: int) -> Indices:
    """Give the first client the first labels, the next one those after them, and so on, round and round.

    That is what the published code does for ten labels: it takes the labels that fewest hold, of equal ones the first.
    """
    classes = len(members)
    each, rng = _labels_each(classes, spec.share, clients), _generator(seed, 0)
    holders: list[list[int]] = [[] for _ in members]
    for turn in range(clients * each):
        holders[turn % classes].append(turn // each)
    return _split(members, holders, rng)


def _labels_each(classes: int, share: float, clients: int) -> int:
    """Return how many labels a client holds."""
    each = math.floor(share * classes + 1e-9)  # 0.29 * 100 is 28.999999999999996 in floating point
    if each < 1:
        raise ConfigError(
            f"partition: a share of {share} of {classes} labels is less than one label; "
            f"give a share of at least {1 / classes:.3g}"
        )
    if clients * each < classes:
        raise ConfigError(
            f"partition: {clients} clients with {each} labels each cannot hold all {classes} labels; "
            "raise share or clients"
        )
    return each


def _split(members: Sequence[Indices], holders: Sequence[Sequence[int]], rng: np.random.Generator) -> Indices:
    """Split each label evenly among its holders, at random."""
    owner = np.empty(sum(map(len, members)), np.int64)
    for indices, clients_of in zip(members, holders, strict=True):
        if len(indices) < len(clients_of):
            raise ConfigError(
                f"partition: a label with {len(indices)} samples cannot be split among {len(clients_of)} "
                "clients; lower share or clients"
            )
        turns = rng.permutation(clients_of)[np.arange(len(indices)) % len(clients_of)]
        owner[indices] = rng.permutation(turns)
    return owner


class _Law(NamedTuple):
    """A law: the options of `PartitionSpec` that it has, and the function that names each sample's owner."""

    options: tuple[str, ...]
    owners: Callable[[Sequence[Indices], PartitionSpec, int, int], Indices]


_LAWS: Mapping[str, _Law] = {
    "iid": _Law((), _iid),
    "dirichlet": _Law(("alpha", "min_size"), _dirichlet),
    "labels": _Law(("share",), _labels),
    "labels-in-order": _Law(("share",), _labels_in_order),
}
PARTITIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: law.options for name, law in _LAWS.items()} | {"roles": ("min_size",)}
)
"""Every partition, with the options that have an effect on it."""
