"""The search in a trellis as its definition says it, a path bit at a time, in numbers of 64 bits."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.mask.trellis import follow, search

Block = tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]


def block(count: int, largest: int, informations: tuple[int, int], seed: int) -> Block:
    """Scores up to `largest`, priors, informations between two numbers and words of a block."""
    g = np.random.Generator(np.random.Philox(seed))
    scores = g.integers(-largest, largest + 1, count).astype(np.int16)
    least, most = informations
    k, d = g.integers(1, 256, count).astype(np.uint8), g.integers(least, most + 1, count).astype(np.uint8)
    return scores, k, d, g.integers(0, 1 << 32, count, dtype=np.uint32)


def slow_search(
    scores: NDArray[np.int16], k: NDArray[np.uint8], d: NDArray[np.uint8], w: NDArray[np.uint32], log2_states: int
) -> list[int]:
    """Return the best path; of equally good ways the one from the lower state, of equally good states the first."""
    states = 1 << log2_states
    half, labels = states >> 1, np.arange(2 * states, dtype=np.int64)
    sums, ways = np.full(states, -(1 << 40), np.int64), []
    sums[0] = 0
    taken = np.concatenate([[0], np.cumsum(d, dtype=np.int64)])[:-1] // 256  # path bits before each element's label
    for bit in range(int(taken[-1]) + 1 if taken.size else 0):
        branch = np.zeros(2 * states, np.int64)
        for i in np.flatnonzero(taken == bit).tolist():
            a, c = int(w[i]) % 65536 | 1, int(w[i]) >> 16
            branch += int(scores[i]) * ((labels * a + c >> 8) % 256 < k[i])
        came = (sums + branch.reshape(2, states)).reshape(2, 2, half)  # bit, upper half, state
        ways.append(came[:, 1] > came[:, 0])
        sums = came.max(axis=1).T.reshape(-1)
    state, path = int(np.argmax(sums)), []
    for way in reversed(ways):
        path.append(state & 1)
        state = (state >> 1) + half * int(way[state & 1, state >> 1])
    return path[::-1]


def fast_search(b: Block, log2_states: int) -> list[int]:
    """The path that the kernel finds."""
    path = np.zeros(b[0].size, np.bool_)
    used = search(*b, log2_states, path)
    return path[:used].astype(int).tolist()


CASES = [
    (count, largest, d)
    for count in (0, 1, 17, 300)
    for largest in (3, 400, 13481)
    for d in ((1, 255), (1, 3), (200, 255))
]


def digest() -> str:
    """Say in few letters what search and follow give for blocks of all kinds."""
    found = hashlib.sha256()
    for seed, (count, largest, d) in enumerate(CASES):
        b = block(count, largest, d, seed)
        for log2_states in (1, 4, 5, 8, 10):
            path = np.array(fast_search(b, log2_states), np.bool_)
            mask = np.zeros(count, np.bool_)
            used = follow(path, *b[1:], log2_states, mask)
            found.update(bytes([used % 251]) + path.tobytes() + mask.tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    print(digest())  # noqa: T201 - what a test reads
