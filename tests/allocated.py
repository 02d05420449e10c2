"""What a call allocates, whichever tests ran before it in the same process."""

import tracemalloc
from collections.abc import Callable


def allocated(call: Callable[[], object]) -> int:
    """Bytes that Python and NumPy hold at most, beyond those before, during a second run of `call`.

    The first one loads compiled functions and fills caches, some 100 kB that are no answer to the input.
    """
    call()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
