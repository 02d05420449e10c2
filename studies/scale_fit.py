"""The formulas of `docs/scale.md`: what a round of a tree costs, linear in a few constants that are fitted.

N clients, E edges, d parameters, T tensors. A fit is least squares of relative errors; a constant that would be
negative is left out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import log2
from typing import Any

import numpy as np
from scale_frames import MOST, PERIOD, Case, weight_of
from scale_root import EDGES

SMALL = 1 << 22
"""Parameters of a large model: when the rounds were measured, a server folded frames of smaller ones one by one."""
Constants = Mapping[str, Mapping[str, float]]
"""What is predicted -> term -> its constant."""
Term = Callable[[Case, int], float]


def _small(case: Case) -> bool:
    return case.parameters < SMALL


def slow(case: Case) -> float:
    """Return the share of clients whose products with the unit of the sum are not below 2^51.

    They are rounded by a slower kernel (`fedmrn.server.sum`): those who have more than about 1/512 of the largest total
    weight that the round could have. Its noise is a power of two.
    """
    weights = np.minimum([weight_of(client) for client in range(min(case.clients, PERIOD))], MOST)
    return float((weights >= 2.0 ** ((case.clients * MOST).bit_length() - 10)).mean())


TERMS: Mapping[str, Term] = {
    "1": lambda c, e: 1.0,
    "N": lambda c, e: c.clients,
    "N T": lambda c, e: c.clients * c.tensors,
    "N d, small": lambda c, e: c.clients * c.parameters * _small(c),
    "N d, large": lambda c, e: c.clients * c.parameters * (not _small(c)),
    "N d, slow": lambda c, e: c.clients * c.parameters * slow(c),
    "d, small": lambda c, e: c.parameters * _small(c),
    "d, large": lambda c, e: c.parameters * (not _small(c)),
    "E d, small": lambda c, e: e * c.parameters * _small(c),
    "E d, large": lambda c, e: e * c.parameters * (not _small(c)),
    "d": lambda c, e: c.parameters,
    "E d": lambda c, e: e * c.parameters,
    "E d log2(N/E)": lambda c, e: e * c.parameters * log2(c.clients / e),
    "N / E": lambda c, e: c.clients / e,
    "N T / E": lambda c, e: c.clients * c.tensors / e,
}
"""What costs are linear in."""
PER_EDGE = ("1", "E d, small", "E d, large", "N", "N T")
AT_ROOT = ("1", "d, small", "d, large", "N", "N T")
CPU: Mapping[str, Sequence[str]] = {
    "fold": ("E d, small", "E d, large", "N", "N T", "N d, small", "N d, large"),
    "open": PER_EDGE,
    "partial": PER_EDGE,
    "begin": AT_ROOT,
    "assign": PER_EDGE,
    "merge": PER_EDGE,
    "finish": AT_ROOT,
}
"""CPU seconds by what they are spent on, all edges together -> the terms that they are fitted to."""
ADDED = ("N d, slow",)
"""A term of the fold that the predictions did not have yet."""
BYTES: Mapping[str, Sequence[str]] = {
    "updates": ("N", "N T", "N d, small", "N d, large"),
    "broadcast": ("1", "d"),
    "assignments": ("E d", "N"),
    "partials": ("E d", "E d log2(N/E)", "N", "N T"),
}
MEMORY: Mapping[str, Sequence[str]] = {"root": ("1", "d", "N", "N T"), "edge": ("1", "d", "N / E", "N T / E")}
PARTS: Mapping[str, Mapping[str, Sequence[str]]] = {"cpu": CPU, "bytes": BYTES, "memory": MEMORY}


def case_of(record: Mapping[str, Any]) -> Case:
    """Return the case that a record is of."""
    return Case(**record["case"])


def fitted(records: Iterable[Mapping[str, Any]], added: Sequence[str] = ()) -> dict[str, dict[str, dict[str, float]]]:
    """Return the constants of cases of one kind: part -> what -> term -> constant.

    Args:
        records: of the cases.
        added: more terms of the fold.
    """
    records = [*records]
    cases = [case_of(r) for r in records]
    found = dict[str, dict[str, dict[str, float]]]()
    for part, whats in PARTS.items():
        found[part] = {}
        for what, terms in whats.items():
            figures = np.array([r[part][what] for r in records], np.float64)
            found[part][what] = _fit(cases, figures, (*terms, *(added if what == "fold" else ())))
    return found


def _fit(cases: Sequence[Case], found: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    names = list(names)
    while True:
        matrix = np.array([[TERMS[name](case, EDGES) for name in names] for case in cases], np.float64)
        names = [name for name, column in zip(names, matrix.T, strict=True) if column.any()]
        matrix = matrix[:, matrix.any(axis=0)] / found[:, None]
        size = np.linalg.norm(matrix, axis=0)
        constants = np.linalg.lstsq(matrix / size, np.ones(len(found)), rcond=None)[0] / size
        free = [i for i, name in enumerate(names) if "log2" not in name]  # a sum's bits may go down as N grows
        worst = min(free, key=lambda i: constants[i] * size[i])
        if constants[worst] >= 0:
            return dict(zip(names, constants.tolist(), strict=True))
        del names[worst]


def evaluate(constants: Mapping[str, float], case: Case, edges: int = EDGES) -> float:
    """Return what a formula says of a case."""
    return sum(value * TERMS[name](case, edges) for name, value in constants.items())


def predicted(constants: Mapping[str, Constants], case: Case, edges: int = EDGES) -> dict[str, dict[str, float]]:
    """Return what all formulas say of a case: part -> what -> figure; CPU has the total, making frames not in it."""
    found = {part: {what: evaluate(terms, case, edges) for what, terms in constants[part].items()} for part in PARTS}
    return found | {"total": {"cpu": sum(found["cpu"].values())}}


def total_cpu(record: Mapping[str, Any]) -> float:
    """Return the CPU seconds of a measured case; making the frames is no part of a round."""
    return float(sum(record["cpu"][what] for what in CPU))
