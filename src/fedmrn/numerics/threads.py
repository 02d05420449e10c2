"""Work on a long vector in threads, a range at a time; compiled kernels release Python's lock.

The threads stay: starting some for each of many short works would cost more than a core saves. Ranges are handed out as
threads ask for them, so that a core that something else slows down holds none up. The caller is one of the threads, so
that work is done even where all others are at other work, and work inside of work waits for nothing.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

from numpy.typing import NDArray

PIECE = 1 << 19
"""A thread is asked only for at least this many elements."""
_PAGE = 1 << 12
"""Bytes: no page of memory is smaller."""
_TURNS = 8
"""Ranges for each thread."""

_lock = Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _helpers(count: int) -> ThreadPoolExecutor:
    """Return the pool of so many threads."""
    with _lock:
        if count not in _pools:
            _pools[count] = ThreadPoolExecutor(count, "fedmrn")
        return _pools[count]


def _forget() -> None:
    """Begin again in a forked process: it has none of its parent's threads, and the lock may be taken for ever."""
    global _lock  # noqa: PLW0603 - one for the process
    _lock = Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class _Ranges:
    """Ranges that cover 0..size, for whoever asks next."""

    def __init__(self, size: int, share: int) -> None:
        self._size, self._share, self._first, self._lock = size, share, 0, Lock()

    def take(self) -> tuple[int, int] | None:
        with self._lock:
            first = self._first
            self._first = min(first + self._share, self._size)
            return (first, self._first) if first < self._size else None

    def stop(self) -> None:
        with self._lock:
            self._first = self._size


def map_pages(fresh: NDArray[Any], threads: int) -> None:
    """Let the system give an array its memory now, where several threads are to write it first.

    Threads that touch new pages at the same time wait for one another in the kernel, for longer than one takes alone.

    Args:
        fresh: contiguous numbers; they keep their values.
        threads: that will write it; nothing is done for one.
    """
    if threads > 1 and fresh.size >= 2 * PIECE:
        fresh[:: _PAGE // fresh.itemsize] += 0


def in_parallel(work: Callable[[int, int], None], size: int, threads: int, step: int = 1 << 10) -> None:
    """Call work(first, last) for ranges that cover 0..size, in up to `threads` threads, this one among them.

    Ranges start at multiples of `step`. What `work` raises is raised here, once no other thread is at it.
    """
    threads = min(threads, size // PIECE)
    if threads <= 1:
        work(0, size)
        return
    share = max(-(-size // (threads * _TURNS)), PIECE // _TURNS)
    ranges = _Ranges(size, -(-share // step) * step)

    def turns() -> None:
        try:
            while (taken := ranges.take()) is not None:
                work(*taken)
        finally:
            ranges.stop()

    helpers = [_helpers(threads - 1).submit(turns) for _ in range(threads - 1)]
    try:
        turns()
    finally:
        running = [helper for helper in helpers if not helper.cancel()]
        errors = [helper.exception() for helper in running]
    for error in errors:
        if error is not None:
            raise error
