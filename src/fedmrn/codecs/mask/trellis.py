"""The random codebook of minimal random coding, and the search in it: a trellis of pseudo-random masks.

A path through the trellis is a string of bits. The state is its last `log2_states` bits; a bit b takes state s to
(2 s + b) mod S, and the *label* b S + s says which candidate an element takes. Element i has a word w of a stream that
both sides make; under label l its bit is

    ((l * a + c) >> 8) mod 256 < k        a = (w mod 2^16) | 1,  c = w >> 16,  k / 256 the prior of its context

so that over words every label has the prior's probability, and labels hardly agree. A path bit is spent whenever the
*information* of the elements since the last one, a number of 1/256 bits for each context, adds up to one bit. Elements
come in blocks that start in state 0 and stand for themselves.

The search (Viterbi 1967) finds the path whose mask has the largest sum of scores: exact integers, so that every
machine finds the same. Any state is reached from any other in `log2_states` bits, so that sums of two states are never
further apart than the scores of those bits. Where these are small, sums relative to one of them are kept in 16 bits.
"""

import numpy as np

from fedmrn.codecs.mask.trellis_lanes import (
    LABELS,
    PADDING,
    STATES,
    add_two,
    step_narrow,
    step_wide,
    write_one,
    write_three,
    write_two,
)
from fedmrn.numerics.compiled import compiled

LARGEST_LOG2_STATES = 10
"""The largest log2_states: work of the search and memory of a block double with each."""
ONE = 256
_UNREACHED = np.int32(-(1 << 30))
_MOST = (1 << 15) - 1
_TOP = np.uint32(1 << 15)


@compiled()
def _numbers(scores, prior, words, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write what the vector parts read of each element: a, c - 2^15, 256 k - 2^15 and the score."""
    a, c, below, score = out[0], out[1], out[2], out[3]
    for i in range(scores.size):
        a[i] = np.int16(words[i] | np.uint32(1))
        c[i] = np.int16((words[i] >> np.uint32(16)) ^ _TOP)
        below[i] = np.int16((np.int32(prior[i]) << np.int32(8)) - np.int32(1 << 15))
        score[i] = scores[i]


@compiled()
def _score(numbers, start, stop, branch, vectors):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the sums of the scores of elements start..stop-1, one at least, under each label."""
    rows, at = numbers.shape[1], np.uint64(numbers.ctypes.data)
    here = at + np.uint64(2 * start)
    if stop - start == 1:
        write_one(here, rows, branch, vectors)
        return
    done = start + 2 + (stop - start) % 2
    if done == start + 2:
        write_two(here, rows, branch, vectors)
    else:
        write_three(here, rows, branch, vectors)
    for i in range(done, stop, 2):
        add_two(at + np.uint64(2 * i), rows, branch, vectors)


@compiled()
def _score_widely(numbers, start, stop, branch, vectors, wide):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The same in int32, `wide`: in parts of which no sum leaves 16 bits, which are made in `branch`."""
    wide[:] = 0
    while start < stop:
        end, far = start, abs(np.int64(numbers[3, start]))
        while far <= _MOST:
            end += 1
            if end == stop:
                break
            far += abs(np.int64(numbers[3, end]))
        _score(numbers, start, end, np.uint64(branch.ctypes.data), vectors)
        for label in range(branch.size):
            wide[label] += np.int32(branch[label])
        start = end


@compiled()
def _back(path, back, state, half):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the path that ends in a state."""
    for k in range(back.shape[0] - 1, -1, -1):
        b, h = state & 1, state >> 1
        path[k] = b
        state = h + half * ((np.int64(back[k, h // STATES]) >> (STATES * b + h % STATES)) & 1)


@compiled()
def search(scores, prior, information, words, log2_states, path):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Find the best path of a block.

    Args:
        scores: int16, above -2^15, of a 1 over a 0 for each element; sums of a block must stay below 2^29.
        prior: uint8, k of each element, 1..255.
        information: uint8, of each element, 1..255.
        words: uint32, w of each element.
        log2_states: 1..`LARGEST_LOG2_STATES`.
        path: bool, room for a bit an element.

    Returns:
        the number of path bits written.
    """
    states = 1 << log2_states
    half, vectors = states >> 1, (2 * states + LABELS - 1) // LABELS
    old, new = np.full(states + PADDING, _UNREACHED, np.int32), np.empty(states + PADDING, np.int32)
    near, nearer = np.empty(states + PADDING, np.int16), np.empty(states + PADDING, np.int16)
    branch, wide = np.zeros(2 * states + PADDING, np.int16), np.empty(2 * states + PADDING, np.int32)
    at = np.uint64(branch.ctypes.data)
    old[0] = 0
    numbers = np.empty((4, scores.size), np.int16)
    _numbers(scores, prior, words, numbers)
    bits = 0
    for i in range(information.size):
        bits += information[i]
    back = np.empty((bits // ONE + 1, (half + STATES - 1) // STATES), np.uint32)
    # How far apart one path bit may bring two sums; and all that matter for the next ones.
    reach, window = np.zeros(back.shape[0] + log2_states + 1, np.int64), np.int64(0)
    narrow = False
    i = used = spent = 0
    while i < scores.size:
        start, far = i, np.int64(0)
        while i < scores.size and spent < ONE:
            spent += information[i]
            far += abs(np.int64(scores[i]))
            i += 1
        spent -= ONE
        reach[used + log2_states + 1] = far
        window += far - reach[used]
        row = np.uint64(back[used].ctypes.data)
        if used >= log2_states and window <= _MOST:
            if not narrow:
                for s in range(states):
                    near[s] = np.int16(old[s] - old[0])
            narrow = True
            _score(numbers, start, i, at, vectors)
            step_narrow(np.uint64(near.ctypes.data), at, np.uint64(nearer.ctypes.data), row, half, near[0])  # type: ignore[call-arg]
            near, nearer = nearer, near
        else:
            if narrow:
                for s in range(states):
                    old[s] = near[s]
            narrow = False
            _score_widely(numbers, start, i, branch, vectors, wide)
            sums = np.uint64(wide.ctypes.data)
            step_wide(np.uint64(old.ctypes.data), sums, np.uint64(new.ctypes.data), row, half, np.int32(0))  # type: ignore[call-arg]
            old, new = new, old
        used += 1
    best = np.argmax(near[:states]) if narrow else np.argmax(old[:states])
    _back(path, back[:used], best, half)
    return used


@compiled()
def follow(path, prior, information, words, log2_states, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write a block's mask (bool) along a path, and return the path bits used; -1 if there are too few.

    No element takes more than one path bit: how many are taken up to an element is a sum of informations over `ONE`.

    Args:
        path: bool, from the block's first path bit.
        prior, information, words, log2_states: as for `search`.
        out: bool, an element each.
    """
    if out.size == 0:
        return 0
    bits = 0
    for i in range(out.size - 1):
        bits += information[i]
    used = bits // ONE + 1
    if used > path.size:
        return -1
    labels, label = np.empty(used, np.uint16), np.empty(out.size, np.uint16)
    states, state = 1 << log2_states, 0
    for k in range(used):
        labels[k] = path[k] * states + state
        state = (2 * state + path[k]) & (states - 1)
    taken = np.uint64(0)
    for i in range(out.size):
        label[i] = labels[taken >> np.uint64(8)]
        taken += np.uint64(information[i])
    for i in range(out.size):  # in 16 bits throughout: ((l * a + c) >> 8) mod 256 < k
        x = np.uint16(label[i] * np.uint16(words[i] | np.uint32(1)) + np.uint16(words[i] >> np.uint32(16)))
        out[i] = x < np.uint16(np.uint16(prior[i]) << np.uint16(8))
    return used
