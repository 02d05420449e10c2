"""The random codebook of minimal random coding, and the search in it: a trellis of pseudo-random masks.

A path through the trellis is a string of bits. The state is its last `log2_states` bits; a bit b takes state s to
(2 s + b) mod S, and the *label* b S + s says which candidate an element takes. Element i has a word w of a stream that
both sides make; under label l its bit is

    ((l * a + c) >> 8) mod 256 < k        a = (w mod 2^16) | 1,  c = w >> 16,  k / 256 the prior of its context

so that over words every label has the prior's probability, and labels hardly agree. A path bit is spent whenever the
*information* of the elements since the last one, a number of 1/256 bits for each context, adds up to one bit. Elements
come in blocks that start in state 0 and stand for themselves.

The search (Viterbi 1967) finds the path whose mask has the largest sum of scores: exact integers, so that every
machine finds the same.
"""

import numpy as np

from fedmrn.numerics.compiled import compiled

LARGEST_LOG2_STATES = 10
"""The largest log2_states: work of the search and memory of a block double with each."""
ONE = 256
_UNREACHED = np.int32(-(1 << 30))
_I = np.int32


@compiled()
def _score(branch, word, prior, score):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Add an element's score to the labels under which its bit is 1. The narrow types make it vectorise in full."""
    a, c = _I((word & np.uint32(0xFFFF)) | np.uint32(1)), _I(word >> np.uint32(16))
    for label in range(branch.size):
        x = _I(_I(_I(label) * a) + c)
        v = _I(_I(x >> _I(8)) & _I(255))
        branch[label] = _I(branch[label] + (score if v < prior else _I(0)))


@compiled()
def _step(old, new, branch, back):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """One path bit: a new state keeps the better of the two ways into it. Even states first, then odd ones."""
    half, states = old.size >> 1, old.size
    for b in range(2):
        low, high = old[:half], old[half:]
        from_low, from_high = branch[b * states : b * states + half], branch[b * states + half : (b + 1) * states]
        kept, which = new[b * half : (b + 1) * half], back[b * half : (b + 1) * half]
        for h in range(half):
            x, y = _I(low[h] + from_low[h]), _I(high[h] + from_high[h])
            kept[h] = max(x, y)
            which[h] = y > x


@compiled()
def _in_order(kept, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    half = out.size >> 1
    for h in range(half):
        out[2 * h] = kept[h]
        out[2 * h + 1] = kept[half + h]


@compiled()
def search(scores, prior, information, words, log2_states, path):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Find the best path of a block.

    Args:
        scores: int32, of a 1 over a 0 for each element; sums of a block must stay below 2^29.
        prior: int32, k of each element, 1..255.
        information: int32, of each element, 1..255.
        words: uint32, w of each element.
        log2_states: 1..`LARGEST_LOG2_STATES`.
        path: bool, room for a bit an element.

    Returns:
        the number of path bits written.
    """
    states = 1 << log2_states
    old, new = np.full(states, _UNREACHED, np.int32), np.empty(states, np.int32)
    old[0] = 0
    branch = np.empty(2 * states, np.int32)
    total = np.int64(0)
    for i in range(information.size):
        total += information[i]
    back = np.empty((total // ONE + 1, states), np.bool_)
    i = used = 0
    spent = np.int32(0)
    while i < scores.size:
        branch[:] = 0
        while i < scores.size and spent < ONE:
            _score(branch, words[i], prior[i], scores[i])
            spent += information[i]
            i += 1
        spent -= ONE
        _step(old, new, branch, back[used])
        _in_order(new, old)
        used += 1
    state = np.argmax(old)
    half = states >> 1
    for k in range(used - 1, -1, -1):
        path[k] = state & 1
        state = (state >> 1) + half * back[k, (state & 1) * half + (state >> 1)]
    return used


@compiled()
def follow(path, prior, information, words, log2_states, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a block's mask (bool) along a path, and return the path bits used; -1 if there are too few."""
    states, state, label, used = 1 << log2_states, 0, 0, 0
    spent = np.int32(ONE)
    for i in range(out.size):
        if spent >= ONE:
            if used == path.size:
                return -1
            spent -= ONE
            label = path[used] * states + state
            state = (2 * state + path[used]) & (states - 1)
            used += 1
        a, c = np.int64(words[i] & 0xFFFF) | 1, np.int64(words[i] >> 16)
        out[i] = ((label * a + c) >> 8) & 255 < prior[i]
        spent += information[i]
    return used
