"""The search in a trellis against its definition: every length, sums of 16 and of 32 bits, narrower vectors."""

import numpy as np
import pytest
import slow_trellis
from plain_processor import said_on_a_plain_processor
from slow_trellis import block, fast_search, slow_search

import oracle
from fedmrn.codecs.mask.trellis import follow


@pytest.mark.parametrize("log2_states", [1, 8])
def test_every_length(log2_states: int) -> None:
    for count in range(301):
        b = block(count, 400, (60, 255), count)
        path = fast_search(b, log2_states)
        assert path == slow_search(*b, log2_states)
        mask = np.zeros(count, np.bool_)
        assert follow(np.array(path, np.bool_), *b[1:], log2_states, mask) == len(path)
        assert mask.tolist() == oracle.follow(path, *(x.tolist() for x in b[1:]), log2_states)


@pytest.mark.parametrize("log2_states", range(1, 11))
@pytest.mark.parametrize(
    ("largest", "informations"), [(1, (100, 255)), (2000, (100, 255)), (32767, (1, 255)), (500, (1, 4))]
)
def test_sums_of_16_and_of_32_bits(log2_states: int, largest: int, informations: tuple[int, int]) -> None:
    """Small scores, some windows of path bits beyond 16 bits, nearly all, and many elements a path bit."""
    b = block(400, largest, informations, log2_states)
    assert fast_search(b, log2_states) == slow_search(*b, log2_states)


def test_the_largest_window_that_16_bits_hold() -> None:
    """Nine path bits, an element each, whose scores add up to 32,767, and to one more."""
    for more in (0, 1):
        scores = np.full(60, 32767 // 9, np.int16)
        scores[::9] += 32767 % 9 + more
        _, k, _, w = block(60, 1, (255, 255), more)
        b = (scores, k, np.full(60, 255, np.uint8), w)
        for sign in (1, -1):
            signed = (np.int16(sign) * scores, *b[1:])
            assert fast_search(signed, 8) == slow_search(*signed, 8)


def test_between_narrow_and_wide_sums_nothing_is_lost() -> None:
    """Runs of large scores among small ones: sums change their width there and back."""
    scores, k, d, w = block(600, 300, (120, 255), 3)
    for at in range(40, 600, 100):
        scores[at : at + 12] *= 80
    for log2_states in (2, 6, 8):
        assert fast_search((scores, k, d, w), log2_states) == slow_search(scores, k, d, w, log2_states)


def test_a_path_that_is_too_short_is_told() -> None:
    for count in (1, 2, 3, 100, 257):
        b = block(count, 300, (1, 255), count)
        path = np.array(fast_search(b, 3), np.bool_)
        assert follow(path[:-1], *b[1:], 3, np.zeros(count, np.bool_)) == -1


@pytest.mark.slow
def test_narrower_vectors_find_the_same() -> None:
    """Compiled for the plainest processor of this kind."""
    assert said_on_a_plain_processor(slow_trellis) == slow_trellis.digest()
