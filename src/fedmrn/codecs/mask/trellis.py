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
    step_one,
    step_three,
    step_two,
    step_wide,
    write_one,
    write_three,
    write_two,
)
from fedmrn.numerics.compiled import compiled

LARGEST_LOG2_STATES = 10
"""The largest log2_states: work of the search and memory of a block double with each."""
ONE = 256
_LOG2_STATES = np.uint64(STATES.bit_length() - 1)
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
def _back(path, back, state, log2_half):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write the path that ends in a state, uint64. Each bit waits for the next: few operations, without signs."""
    one, places, top = np.uint64(1), np.uint64(STATES - 1), np.uint64(log2_half)
    for k in range(back.shape[0] - 1, -1, -1):
        b, h = state & one, state >> one
        path[k] = b
        word = np.uint64(back[k, h >> _LOG2_STATES])
        state = h | ((word >> ((b << _LOG2_STATES) | (h & places))) & one) << top


@compiled()
def _part(scores, information, ends, far):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write where the elements of each path bit end and the sum of |score| up to there; return how many bits there are.

    Nothing branches on how many elements a bit has, which is chance.
    """
    spent, total, bit = np.int64(0), np.int64(0), np.int64(-1)
    for i in range(scores.size):
        bit = spent >> 8
        spent += np.int64(information[i])
        total += abs(np.int64(scores[i]))
        ends[bit], far[bit] = i + 1, total
    return bit + 1


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
    ends, far = np.zeros(scores.size + log2_states + 1, np.int64), np.zeros(scores.size + log2_states + 1, np.int64)
    used = _part(scores, information, ends[log2_states + 1 :], far[log2_states + 1 :])
    numbers = np.empty((4, scores.size), np.int16)
    _numbers(scores, prior, words, numbers)
    back = np.empty((used, (half + STATES - 1) // STATES), np.uint32)
    # Sums of states in rows that take turns: to let arrays change their names would count references at each bit.
    wide, near = np.empty((2, states + PADDING), np.int32), np.empty((2, states + PADDING), np.int16)
    branch, sums = np.zeros(2 * states + PADDING, np.int16), np.empty(2 * states + PADDING, np.int32)
    at, sums_at = np.uint64(branch.ctypes.data), np.uint64(sums.ctypes.data)
    near_at, near_row = np.uint64(near.ctypes.data), 2 * near.shape[1]
    wide_at, wide_row = np.uint64(wide.ctypes.data), 4 * wide.shape[1]
    first, rows = np.uint64(numbers.ctypes.data), numbers.shape[1]
    back_at, back_row = np.uint64(back.ctypes.data), 4 * back.shape[1]
    wide[0] = _UNREACHED
    wide[0, 0] = 0
    narrow, now = False, 0
    for k in range(used):
        start, stop = ends[k + log2_states], ends[k + log2_states + 1]
        here = first + np.uint64(2 * start)
        row = back_at + np.uint64(back_row * k)
        # How far apart the path bits that matter for the next sums may bring two of them.
        if k >= log2_states and far[k + log2_states + 1] - far[k] <= _MOST:
            if not narrow:
                for s in range(states):
                    near[now, s] = np.int16(wide[now, s] - wide[now, 0])
            narrow = True
            old, new = near_at + np.uint64(near_row * now), near_at + np.uint64(near_row * (1 - now))
            if stop - start == 2:
                step_two(here, rows, old, new, row, half)
            elif stop - start == 1:
                step_one(here, rows, old, new, row, half)
            elif stop - start == 3:
                step_three(here, rows, old, new, row, half)
            else:
                _score(numbers, start, stop, at, vectors)
                step_narrow(old, at, new, row, half)  # type: ignore[call-arg]
        else:
            if narrow:
                for s in range(states):
                    wide[now, s] = near[now, s]
            narrow = False
            _score_widely(numbers, start, stop, branch, vectors, sums)
            old, new = wide_at + np.uint64(wide_row * now), wide_at + np.uint64(wide_row * (1 - now))
            step_wide(old, sums_at, new, row, half)  # type: ignore[call-arg]
        now = 1 - now
    best = np.argmax(near[now, :states]) if narrow else np.argmax(wide[now, :states])
    _back(path, back, np.uint64(best), log2_states - 1)
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
