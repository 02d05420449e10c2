"""Work on a long vector in threads, a range each; compiled kernels release Python's lock."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

PIECE = 1 << 19
"""A thread is started only for at least this many elements."""


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(work: Callable[[int, int], None], size: int, threads: int, step: int = 1 << 10) -> None:
    """Call work(first, last) for ranges that cover 0..size, in up to `threads` threads.

    Ranges start at multiples of `step`. What `work` raises is raised here.
    """
    threads = min(threads, size // PIECE)
    if threads <= 1:
        work(0, size)
        return
    share = -(-size // (threads * step)) * step
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda first: work(first, min(first + share, size)), range(0, size, share)):
            pass
