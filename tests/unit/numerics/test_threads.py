"""Ranges cover everything once, whoever does them; errors arrive; threads stay, and a forked process has its own."""

import os
import threading
import time

import numpy as np
import pytest

from fedmrn.numerics import threads
from fedmrn.numerics.threads import PIECE, in_parallel

Ranges = list[tuple[int, int]]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE, 5 * PIECE + 3])
def test_ranges_cover_all(size: int, count: int) -> None:
    seen: Ranges = []
    in_parallel(lambda a, b: seen.append((a, b)), size, count, step=1 << 10)
    seen.sort()
    assert [a for a, _ in seen] == [0, *(b for _, b in seen[:-1])]
    assert seen[-1][1] == size
    assert all(a % 1024 == 0 for a, _ in seen)
    assert len(seen) == 1 or len(seen) > min(count, size // PIECE) > 1


def test_a_slow_thread_holds_none_up() -> None:
    """The first range waits until all others are done."""
    done: Ranges = []
    others = threading.Event()

    def work(first: int, last: int) -> None:
        if not first:
            assert others.wait(60)
        done.append((first, last))
        if len(done) == ranges - 1:
            others.set()

    counted: Ranges = []
    in_parallel(lambda a, b: counted.append((a, b)), 4 * PIECE, 2)
    ranges = len(counted)
    in_parallel(work, 4 * PIECE, 2)
    assert done[-1][0] == 0


def test_errors_arrive_and_end_the_work() -> None:
    started = threading.Barrier(2, timeout=60)

    def everywhere(first: int, last: int) -> None:
        raise ZeroDivisionError

    def elsewhere(first: int, last: int) -> None:
        started.wait()
        if threading.current_thread() is not threading.main_thread():
            raise ZeroDivisionError
        time.sleep(0.05)

    for work in (everywhere, elsewhere):
        with pytest.raises(ZeroDivisionError):
            in_parallel(work, 2 * PIECE, 2)


def test_threads_stay_and_work_inside_of_work_ends() -> None:
    names: set[str] = set()

    def inner(first: int, last: int) -> None:
        names.add(threading.current_thread().name)

    for _ in range(20):
        in_parallel(lambda a, b: in_parallel(inner, 2 * PIECE, 2), 2 * PIECE, 2)
    before = threading.active_count()
    in_parallel(inner, 2 * PIECE, 2)
    assert threading.active_count() == before
    assert len(names) <= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    meet = threading.Barrier(2, timeout=60)
    in_parallel(lambda a, b: None, 2 * PIECE, 2)
    child = os.fork()
    if not child:
        status = 1
        try:
            first = [True, True]
            in_parallel(lambda a, b: first and (first.pop(), meet.wait()), 2 * PIECE, 2)
            status = int(threads.cores() < 1)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_memory_is_mapped_without_a_change() -> None:
    numbers = np.arange(-7, 2 * PIECE, dtype=np.int64)
    numbers.setflags(write=False)
    for array, workers in ((numbers, 1), (numbers[:-8], 2)):  # nothing to do: one thread, or a short array
        threads.map_pages(array, workers)
    with pytest.raises(ValueError, match="read-only"):  # each page is written
        threads.map_pages(numbers, 2)
    copy = numbers.copy()
    threads.map_pages(copy, 2)
    assert np.array_equal(copy, numbers)
