"""Neighbours: with whom a client agrees on pads and shares its secrets where not with all, and what that risks.

The clients stand on a circle in an order that the session's id draws; each one's neighbours are the k/2 next ones on
either side (Bell et al., "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020, the protocol
against a server that keeps to it). Seen from one client, its neighbours are k others drawn at random.

All risks are counted in whole numbers, over that draw; who drops out and who helps the server must not depend on it.
"""

from functools import lru_cache
from hashlib import sha256
from itertools import accumulate
from math import comb

MOST_OPENED = 2.0**-40
"""Risk, a round, that the server and its helpers learn more than one sum, at most."""
MOST_LOST = 2.0**-20
"""Risk that a round is lost though the threshold was met, at most."""


@lru_cache(maxsize=8)
def circle(session: bytes, members: int) -> tuple[int, ...]:
    """Return the clients in the order in which they stand."""
    return tuple(
        sorted(range(members), key=lambda i: sha256(b"fedmrn circle" + session + i.to_bytes(2, "little")).digest())
    )


@lru_cache(maxsize=8)
def _places(session: bytes, members: int) -> dict[int, int]:
    return {client: place for place, client in enumerate(circle(session, members))}


def holders(session: bytes, members: int, neighbours: int, index: int) -> tuple[int, ...]:
    """Return who holds shares of a client's secrets, ascending: itself and its k neighbours."""
    order, place = circle(session, members), _places(session, members)[index]
    half = neighbours // 2
    return tuple(sorted(order[(place + step) % members] for step in range(-half, half + 1)))


@lru_cache(maxsize=64)
def _at_least(others: int, marked: int, drawn: int) -> tuple[int, ...]:
    """Return, for m = 0 to `drawn`, in how many of the draws m or more of those that are drawn are marked."""
    ways = [comb(marked, m) * comb(others - marked, drawn - m) for m in range(drawn + 1)]
    return tuple(accumulate(reversed(ways)))[::-1]


@lru_cache(maxsize=64)
def opened_risk(members: int, neighbours: int, quorum: int, colluding: int, gone: int) -> float:
    """Return a bound of the risk that a server and helpers learn more than the sum of the clients that stayed.

    Either t helpers are neighbours of one client, and have both of its secrets; or without helpers and those that
    dropped out the circle falls into parts, and each part's sum is open: that takes two runs of k/2 of them.

    Args:
        members: n.
        neighbours: k, even and less than n - 1.
        quorum: t, how many shares give a secret.
        colluding: how many clients tell the server all that they know.
        gone: how many drop out.
    """
    alone = (
        (members - colluding) * _at_least(members - 1, colluding, neighbours)[quorum] / comb(members - 1, neighbours)
    )
    away = colluding + gone
    if away < neighbours:
        return alone
    pairs = members * (members - 1) // 2
    return alone + pairs * comb(members - neighbours, away - neighbours) / comb(members, away)


def lost_risk(members: int, neighbours: int, quorum: int, gone: int) -> float:
    """Return a bound of the risk that of some client fewer than t neighbours stay; arguments as for `opened_risk`."""
    ways = _at_least(members - 1, gone, neighbours)
    return members * ways[neighbours - quorum + 1] / comb(members - 1, neighbours)


@lru_cache(maxsize=64)
def fewest(members: int, gone: int, colluding: int) -> tuple[int, int] | None:
    """Return how few neighbours do, and how many of their shares give a secret; None if all others are needed.

    Args:
        members: n.
        gone: how many may drop out.
        colluding: how many may tell the server all that they know.
    """

    def quorum_of(neighbours: int) -> int | None:
        for quorum in range(neighbours, 1, -1):
            if lost_risk(members, neighbours, quorum, gone) <= MOST_LOST:
                safe = opened_risk(members, neighbours, quorum, colluding, gone) <= MOST_OPENED
                return quorum if safe else None
        return None

    low, high = 1, (members - 2) // 2  # halves: more neighbours are safer
    if high < 1 or quorum_of(2 * high) is None:
        return None
    while low < high:
        half = (low + high) // 2
        low, high = (low, half) if quorum_of(2 * half) is not None else (half + 1, high)
    quorum = quorum_of(2 * high)
    return None if quorum is None else (2 * high, quorum)
