"""Interleaved asymmetric numeral systems (rANS): symbols to bytes and back, at a few nanoseconds each.

A *state* is a number in [2^16, 2^32) that holds what a lane has coded so far. A symbol of frequency f, whose slots
start at c in a table of 2^bits, takes it to (x // f) * 2^bits + c + x mod f; before that, x gives its low 16 bits away,
as a word, if it would leave its range. Decoding takes the same steps backwards. One state waits for its own last step:
with several *lanes*, symbol i belonging to lane i mod lanes, a processor works on all of them at once. Their words are
one sequence, in the order in which the decoder needs them. What starts in state 2^16 must end there: a check.

Sources: Duda, arXiv 1311.2540; rANS with interleaved lanes, Giesen, arXiv 1402.3392; division by multiplication,
Granlund and Montgomery, PLDI 1994.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.compiled import compiled

START = 1 << 16
"""The state in which every lane starts; all states are at least this."""
Symbols = NDArray[np.uint16] | NDArray[np.uint32]
_FEW, _LANES, _MANY = 2, 4, 1 << 16
_U, _L = np.uint32, np.uint64


def lanes_of(count: int) -> int:
    """Return how many lanes code this many symbols: few for few, since each lane costs about three bytes."""
    return _FEW if count < _MANY else _LANES


@dataclass(frozen=True)
class SymbolSteps:
    """What a symbol does to a state, by its number in the tables of all contexts.

    Attributes:
        frequencies: f, uint32, 0 where the symbol does not occur.
        starts: c, uint32.
        reciprocals: r = ceil(2^(32 + bits) / f), uint64: x // f is x * r >> 32 + bits if x < f * 2^(32 - bits).
        bits: frequencies of a context add up to 2^bits.
    """

    frequencies: NDArray[np.uint32]
    starts: NDArray[np.uint32]
    reciprocals: NDArray[np.uint64]
    bits: int

    @classmethod
    def of(cls, frequencies: NDArray[np.uint32], starts: NDArray[np.uint32], bits: int) -> "SymbolSteps":
        """Return the steps of symbols with these frequencies.

        x * r stays below 2^64: with d = r f - 2^(32 + bits) < f it is at most (f 2^(32 - bits) - 1) r
        = 2^64 + d 2^(32 - bits) - r, and r >= 2^(32 + bits) / f > d 2^(32 - bits), since d f < 2^(2 bits).
        """
        some = np.maximum(frequencies, 1).astype(np.uint64)
        whole = np.uint64(1 << (32 + bits))
        return cls(frequencies, starts, (whole + some - np.uint64(1)) // some, bits)


@compiled()
def _encode(symbols, frequencies, starts, reciprocals, bits, states, words):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    at, mask = _L(words.size), _L(states.size - 1)
    shift, short, high = _L(32 + bits), _U(bits), _U(32 - bits)
    for k in range(symbols.size):
        i = _L(symbols.size - 1 - k)  # unsigned: a signed index costs a test whether it is negative
        j = _L(symbols[i])
        f, x = frequencies[j], states[i & mask]
        full = _L(x >> high >= f)
        words[at - _L(1)] = np.uint16(x & _U(0xFFFF))
        at -= full
        x >>= _U(full << _L(4))  # no branch on chance
        q = _U(_L(x) * reciprocals[j] >> shift)
        states[i & mask] = (q << short) + (x - q * f) + starts[j]
    return np.int64(at)


@compiled(inline="always")
def _renewed(x, words, at, last):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Return a state that has taken a word if it needs one, and the next place: no branch on chance, no read beyond."""
    low = _L(x < _U(START))
    word = _U(words[min(at, last)]) & (_U(0) - _U(low))
    return x << _U(low << _L(4)) | word, at + low


@compiled()
def _decode_bits(words, first, states, done, contexts, table, used, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    at, mask, last, done = _L(first), _L(states.size - 1), _L(words.size - 1), _L(done)
    for k in range(out.size):
        i = _L(k)
        lane, context = (done + i) & mask, _L(contexts[i])
        x, ones = states[lane], _U(table[context])
        used[context] = True
        zeros, q = _U(256) - ones, x & _U(255)
        bit = _U(q >= zeros)
        taken = _U(0) - bit  # all its bits are set, or none
        x = (zeros ^ (taken & (zeros ^ ones))) * (x >> _U(8)) + q - (taken & zeros)
        states[lane], at = _renewed(x, words, at, last)
        out[i] = bit
    return np.int64(at)


@compiled()
def _decode_runs(words, states, start, stop, ends, offsets, frequencies, firsts, slots, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write first + symbol for the elements start..stop-1; slots is room for 2^12 entries."""
    at, mask, last = _L(0), _L(states.size - 1), _L(words.size - 1)
    run, begin = np.searchsorted(ends, start, side="right"), start
    while begin < stop:
        until, slot, first, only = min(stop, ends[run]), 0, np.int32(firsts[run]), -1
        o = out[begin:until]
        for symbol in range(offsets[run + 1] - offsets[run]):
            f = frequencies[offsets[run] + symbol]
            if f == 1 << 12:  # does not fit into twelve bits, and changes no state
                only = symbol
            for b in range(f):  # the frequency, the slot's place among its own, and the symbol in one word
                slots[slot + b] = _U(f) << _U(20) | _U(b) << _U(8) | _U(symbol)
            slot += f
        if only >= 0:
            for k in range(o.size):
                o[k] = first + np.int32(only)
        else:
            skipped = _L(begin - start)
            for k in range(o.size):
                lane = (skipped + _L(k)) & mask
                x = states[lane]
                step = slots[_L(x & _U(4095))]
                x = (step >> _U(20)) * (x >> _U(12)) + (step >> _U(8) & _U(4095))
                states[lane], at = _renewed(x, words, at, last)
                o[k] = first + np.int32(step & _U(255))
        begin, run = until, run + 1
    return np.int64(at)


def encode_lanes(symbols: Symbols, steps: SymbolSteps) -> bytes:
    """Code symbols, at least one: the states of the lanes, then the words.

    Args:
        symbols: of 16 or 32 bits, shape (n,): indices into the steps, of symbols that have a frequency.
        steps: of all symbols.
    """
    states, words = np.full(lanes_of(symbols.size), START, np.uint32), np.empty(symbols.size + 1, np.uint16)
    at = _encode(symbols, steps.frequencies, steps.starts, steps.reciprocals, steps.bits, states, words[1:])
    return states.astype("<u4").tobytes() + words[1 + at :].astype("<u2").tobytes()


class LaneReader:
    """Reads a block that `encode_lanes` wrote, a piece at a time.

    Args:
        data: the block.
        count: its symbols.

    Raises:
        MalformedFrameError: it is too short, or not of whole words, or a state cannot be.
    """

    def __init__(self, data: memoryview, count: int) -> None:
        lanes = lanes_of(count)
        if len(data) < 4 * lanes or len(data) % 2:
            raise MalformedFrameError(f"{len(data)} bytes are not the states of {lanes} lanes and whole words")
        self._states = np.frombuffer(data, "<u4", lanes).astype(np.uint32)
        if (self._states < START).any():
            raise MalformedFrameError("a state of a coded block is below 2^16")
        words = np.frombuffer(data, "<u2", offset=4 * lanes)
        self._words = np.append(words, words.dtype.type(0)).astype(np.uint16)  # read, but not taken, after the last one
        self._at = self._done = 0

    def bits(
        self, contexts: NDArray[np.uint32], table: NDArray[np.uint8], used: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return the next bits, one for each context.

        Args:
            contexts: of each bit.
            table: how often a bit is 1, in 1/256, by context.
            used: set where a context occurs.
        """
        out = np.empty(contexts.size, np.bool_)
        self._at = _decode_bits(self._words, self._at, self._states, self._done, contexts, table, used, out)
        self._done += out.size
        return out

    def numbers(
        self,
        start: int,
        stop: int,
        ends: NDArray[np.int64],
        offsets: NDArray[np.int64],
        frequencies: NDArray[np.uint32],
        firsts: NDArray[np.int64],
        out: NDArray[np.int32],
    ) -> None:
        """Write the whole block to out[start:stop]: the first number of a run's table, plus the symbol.

        Args:
            start, stop: elements of the block.
            ends: where each run of elements ends that has a table of its own.
            offsets: where the frequencies of each run's table start, and the end of the last; at most 256 a table.
            frequencies: of the symbols; those of a table add up to 2^12.
            firsts: what symbol 0 of each table stands for.
            out: int32.
        """
        slots = np.empty(1 << 12, np.uint32)
        self._at = _decode_runs(self._words, self._states, start, stop, ends, offsets, frequencies, firsts, slots, out)

    def close(self) -> None:
        """Check that nothing is left over, and nothing was missing.

        Raises:
            MalformedFrameError: the lanes do not end as they began, or words are left or were missing.
        """
        if self._at != self._words.size - 1 or (self._states != START).any():
            raise MalformedFrameError("a coded block does not end where its symbols do")
