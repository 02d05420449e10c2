"""The server's view depends on the sum alone: every value of ideal pads, counted; and faults that this must find."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import pytest

from fedmrn.secure.lanes import Lanes
from fedmrn.secure.pads import put_on, take_off

MODULUS = 4
PAIRS = ((0, 1), (0, 2), (1, 2))
Pads = dict[tuple[int, ...], int]
Revealing = Callable[[Pads, set[int]], tuple[int, ...]]


def lane(value: int) -> Lanes:
    return Lanes(np.array([value], np.uint8), np.zeros(0, np.uint32))


def all_pads() -> Iterator[Pads]:
    """Every value of the three clients' own pads and those of their pairs."""
    names: list[tuple[int, ...]] = [(0,), (1,), (2,), *PAIRS]
    for values in product(range(MODULUS), repeat=len(names)):
        yield dict(zip(names, values, strict=True))


def sent(pads: Pads, index: int, value: int) -> int:
    """What a client sends, by the library's own arithmetic."""
    pairs = [(sum(pair) - index, lane(pads[pair])) for pair in PAIRS if index in pair]
    return int(put_on(lane(value), index, lane(pads[(index,)]), pairs).bits[0]) % MODULUS


def revealed(pads: Pads, stayed: set[int]) -> tuple[int, ...]:
    """What clients reveal: own pads of who stayed, those of the pairs of who did not."""
    return tuple(
        pads[name] for name in pads if (len(name) == 1 and name[0] in stayed) or len(stayed & {*name}) < len(name) == 2
    )


def view(values: tuple[int, ...], stayed: set[int], reveal: Revealing, spoil: Callable[[Pads], Pads]) -> Counter:
    """How often the server sees what, over all pads."""
    found: Counter = Counter()
    for pads in all_pads():
        used = spoil(pads)
        found[(*(sent(used, i, values[i]) for i in sorted(stayed)), *reveal(used, stayed))] += 1
    return found


def depends_on_the_sum_alone(
    stayed: set[int], reveal: Revealing = revealed, spoil: Callable[[Pads], Pads] = lambda pads: pads
) -> bool:
    """Whether inputs with one sum over the clients that stayed give one view."""
    views: dict[int, list[Counter]] = {}
    for values in product(range(2), repeat=3):
        views.setdefault(sum(values[i] for i in stayed), []).append(view(values, stayed, reveal, spoil))
    assert len({str(sorted(v[0].items())) for v in views.values()}) == len(views), "sums can be told apart"
    return all(one == alike[0] for alike in views.values() for one in alike)


@pytest.mark.parametrize("stayed", [{0, 1, 2}, {0, 1}, {0, 2}, {1, 2}])
def test_the_view_depends_on_the_sum_alone(stayed: set[int]) -> None:
    assert depends_on_the_sum_alone(stayed)


def test_what_is_revealed_gives_the_sum() -> None:
    for pads in list(all_pads())[::37]:
        for values in product(range(2), repeat=3):
            total = lane(sent(pads, 0, values[0]) + sent(pads, 2, values[2]))
            left = [(0, 1, lane(pads[(0, 1)])), (2, 1, lane(pads[(1, 2)]))]
            take_off(total, [lane(pads[(0,)]), lane(pads[(2,)])], left)
            assert int(total.bits[0]) % MODULUS == values[0] + values[2]


def test_a_pad_that_is_used_twice_is_found() -> None:
    assert not depends_on_the_sum_alone({0, 1, 2}, spoil=lambda pads: {**pads, (1, 2): pads[(0, 1)], (0, 2): 0})


def test_both_secrets_of_a_client_that_are_revealed_are_found() -> None:
    def both(pads: Pads, stayed: set[int]) -> tuple[int, ...]:
        return (*revealed(pads, stayed), *(pads[pair] for pair in PAIRS if 0 in pair))

    assert not depends_on_the_sum_alone({0, 1, 2}, reveal=both)


def test_a_late_answer_that_is_taken_is_found() -> None:
    """Client 2 was said to have dropped out: the pads of its pairs are known when its numbers come."""
    both = {0, 1, 2}

    def late(pads: Pads, _: set[int]) -> tuple[int, ...]:
        return (*revealed(pads, {0, 1}), pads[(2,)])

    assert not depends_on_the_sum_alone(both, reveal=late)


def test_pads_that_are_no_pads_are_found() -> None:
    assert not depends_on_the_sum_alone({0, 1}, spoil=lambda pads: {**dict.fromkeys(pads, 0)})
