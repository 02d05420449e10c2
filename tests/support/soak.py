"""Whether memory and open files stay flat over a long run: what takes the samples, and the rule that judges them.

A sample is taken at the end of each of `BLOCKS` blocks of rounds, after a warm-up. What an allocator keeps wanders: a
jump stays. So the rule looks at the increments between samples. Something grows if their mean is above what counts
(`FLOORS`) by more than chance would make it in one of ten thousand flat runs: t of Student's law times the mean's
standard error, as the increments themselves say it. One jump is no growth; a little in every block is.

Python's cache of method lookups is emptied before each sample. It keeps the last name that was looked up in each of its
4,096 places, by address, and names that come from C (numpy's "setflags", "accumulate") are new strings each time: for
10,000 rounds and more the traced memory rises by some bytes a round, less and less, up to some 200 KB.
"""

import gc
import os
import sys
import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Self

import numpy as np
from scipy.stats import t as student

BLOCKS = 20
CHANCE = 1e-4
"""That a run which is flat is said to grow, in each measure."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
FLOORS: Mapping[str, float] = {"resident": _PAGE, "traced": 0.0, "objects": 0.0, "files": 0.0, "threads": 0.0}
"""What a block may add: of resident memory a page, since it comes in pages."""
LEAST = 1.0
"""Bytes a round that are no leak of Python's: the least object has 16, and one of sixteen rounds may keep one."""


def growth(samples: Sequence[float], floor: float = 0.0) -> float:
    """Return how much a measure grows from sample to sample, surely: 0 where chance may have done it."""
    steps = [after - before for before, after in pairwise(samples)]
    error = stdev(steps) / len(steps) ** 0.5
    surely = fmean(steps) - float(student.ppf(1 - CHANCE, len(steps) - 1)) * error
    return surely if surely > floor else 0.0


def forget_lookups() -> None:
    """Empty Python's cache of method lookups: since 3.13 under another name."""
    (getattr(sys, "_clear_internal_caches", None) or sys._clear_type_cache)()


class Soak:
    """Takes samples of this process over so many rounds, and of what a folder holds.

    Args:
        rounds: of the run; a fifth of them is the warm-up.
        folder: whose files are counted, and their bytes; those of a log, which grows by its nature, are left out.
    """

    def __init__(self, rounds: int, folder: Path | None = None) -> None:
        self.block = rounds * 4 // 5 // BLOCKS
        self.first = rounds - self.block * BLOCKS
        self._folder, self._taken = folder, 0
        self.names = (*FLOORS, *(() if folder is None else ("files on disk", "bytes on disk")))
        self._table = np.zeros((BLOCKS + 1, len(self.names)))  # made beforehand: samples are no growth

    def __enter__(self) -> Self:
        tracemalloc.start()
        return self

    def __exit__(self, *_: object) -> None:
        tracemalloc.stop()

    def after(self, round: int) -> None:
        """Take a sample if a block ends with this round, from 1."""
        if round >= self.first and (round - self.first) % self.block == 0:
            self._table[self._taken] = self._sample()
            self._taken += 1

    def _sample(self) -> list[float]:
        gc.collect()
        forget_lookups()
        found: list[float] = [
            int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE,
            tracemalloc.get_traced_memory()[0],
            len(gc.get_objects()),
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
        ]
        if self._folder is not None:
            files = [path for path in self._folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
            found += [len(files), sum(path.stat().st_size for path in files)]
        return found

    def grows(self) -> dict[str, float]:
        """Return what grows surely, and by how much in a round; nothing where all is flat.

        Raises:
            ValueError: the run ended before its last sample.
        """
        if self._taken != BLOCKS + 1:
            raise ValueError(f"{self._taken} samples of {BLOCKS + 1}: the run was shorter than it said")
        found = {}
        for name, samples in zip(self.names, self._table.T.tolist(), strict=True):
            floor = LEAST * self.block if name == "traced" else FLOORS.get(name, 0.0)
            if more := growth(samples, floor):
                found[name] = more / self.block
        return found

    def __str__(self) -> str:
        first, last = self._table[0], self._table[self._taken - 1]
        ends = zip(self.names, first, last, strict=True)
        return ", ".join(f"{name} {start:,.0f} to {end:,.0f}" for name, start, end in ends)
