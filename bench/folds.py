"""Aggregation, end to end: from the bytes of all clients' frames to the mean.

fedmrn, fedmrn-s           Frame.from_bytes, every check, noise again, fold; one core
..., all cores             the same with a thread a core (models above a million elements)
dense, numpy               np.load of float32 bytes, mean += weight * array, mean /= total: in place, one core
dense, frames              float32 in frames of ours (FedAvg): the same fold without masks
sum                        the fold's memory traffic alone: an int64 sum read and written
multiplications            the noise's 5 widening multiplications an element, alone, in cache
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numba as nb
import numpy as np
from harness import Agreement, Benchmark, Case, Goal, Planned, of_one_scale
from limits import by_width, multiplications

from fedmrn.methods import METHODS
from fedmrn.server.aggregate import Aggregator
from fedmrn.server.fold import TOGETHER
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import templates

CORES = os.cpu_count() or 1
CLIENTS = 10
HEADER = 128  # bytes of an .npy file of one dimension before its values
LIMITS = replace(DEFAULT_LIMITS, max_bytes=1 << 40)


class Fold:
    """The clients of one round of a method, all with frames of random content.

    Args:
        method: its name.
        elements: coded parameters.
        threads: of the fold.
        clients: how many frames the round takes at most.
    """

    def __init__(self, method: str, elements: int, threads: int = 1, clients: int = CLIENTS) -> None:
        self.layout = Layout.of([TensorSpec("w", (elements,), Group.CODED)])
        self.row, self.threads, self.clients = METHODS[method], threads, clients
        self.scheme = self.row.scheme(of_one_scale(self.row))
        self.templates = templates(self.layout, self.scheme.codecs_at(1))
        self.generator = np.random.default_rng(1)

    def frame(self, key: int) -> bytes:
        """Return a client's update."""
        (template,), count = self.templates, self.layout.size
        if self.row.name == "fedavg":
            body = self.generator.standard_normal(count, dtype=np.float32).tobytes()
        else:
            body = self.generator.bytes(count // 8)
        section = Section(template.codec, Role.UPDATE, Group.CODED, count, template.params, body)
        return Frame(Kind.UPDATE, self.row.id, 1, key, self.layout.digest, 1 + key, (section,)).to_bytes()

    def start(self) -> Aggregator:
        """Return the empty sum."""
        return Aggregator(
            self.layout,
            self.templates,
            method=self.row.id,
            round=1,
            max_clients=self.clients,
            limits=LIMITS,
            threads=self.threads,
        )

    def mean(self, frames: Sequence[bytes]) -> np.ndarray:
        """Return the mean of frames whose keys count from 0, in the sum's memory, as a server's round has it."""
        fold = self.start()
        for key, data in enumerate(frames):
            fold.add(Frame.from_bytes(data, kind=Kind.UPDATE, limits=LIMITS), key)
        return fold.close()


def loaded(data: bytes) -> np.ndarray:
    """Return the array that `np.save` wrote."""
    array: np.ndarray = np.load(BytesIO(data), allow_pickle=False)
    return array


def in_place(data: bytes) -> np.ndarray:
    """Return the array that `np.save` wrote as a view of its bytes."""
    return np.frombuffer(data, "<f4", offset=HEADER)


def dense(arrays: Sequence[bytes], read: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Return the weighted mean of arrays, in place and without a temporary a client."""
    first = read(arrays[0])
    mean, part = np.zeros_like(first), np.empty_like(first)
    for weight, data in enumerate(arrays, 1):
        add(read(data), weight, mean, part)
    mean /= np.float32(len(arrays) * (len(arrays) + 1) / 2)
    return mean


def add(array: np.ndarray, weight: int, mean: np.ndarray, part: np.ndarray) -> None:
    """Add weight * array to the mean."""
    np.multiply(array, np.float32(weight), out=part)
    np.add(mean, part, out=mean)


def saved(array: np.ndarray) -> bytes:
    """Return an array as bytes."""
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


@nb.njit(cache=True, nogil=True)
def _sum(total, times):  # type: ignore[no-untyped-def]
    for _ in range(times):
        for i in range(total.size):
            total[i] += i


def fold(elements: int) -> Benchmark:
    """Build the benchmark of a round of CLIENTS clients."""
    folds = {name: Fold(name, elements) for name in ("fedmrn", "fedmrn-s", "fedavg")}
    frames = {name: [f.frame(key) for key in range(CLIENTS)] for name, f in folds.items()}
    arrays = [saved(np.frombuffer(Frame.from_bytes(data).sections[0].body, "<f4")) for data in frames["fedavg"]]
    total = np.zeros(elements, np.int64)
    means: dict[str, Callable[[], np.ndarray]] = {
        "fedmrn": lambda: folds["fedmrn"].mean(frames["fedmrn"]),
        "fedmrn-s": lambda: folds["fedmrn-s"].mean(frames["fedmrn-s"]),
        "dense, numpy": lambda: dense(arrays, loaded),
        "dense, no copy": lambda: dense(arrays, in_place),
        "dense, frames": lambda: folds["fedavg"].mean(frames["fedavg"]),
    }
    limits: dict[str, Case] = {
        "sum": lambda: _sum(total, CLIENTS),
        "multiplications": multiplications(elements * CLIENTS),
    }
    goals = [
        Goal("fedmrn", by_width(0.65, 1.0)),
        Goal("fedmrn", 1.0, "dense, numpy"),
        Goal("fedmrn-s", 1.0, "dense, numpy"),
    ]
    if CORES > 1 and elements >= 1 << 20:
        many = Fold("fedmrn", elements, CORES)
        means |= {"fedmrn, all cores": lambda: many.mean(frames["fedmrn"])}
        goals.append(Goal("fedmrn, all cores", 1.2 / CORES, "fedmrn"))

    def check() -> dict[str, Agreement]:
        """Numpy's mean is ours, but for float32's rounding of CLIENTS products and sums of values below 6 or so."""
        apart = np.abs(means["dense, numpy"]() - means["dense, frames"]()).max()
        found = {"dense, numpy": Agreement(float(apart), 6.0 * (CLIENTS + 2) * 2.0**-24)}
        if "fedmrn, all cores" in means:
            apart = np.abs(means["fedmrn"]() - means["fedmrn, all cores"]()).max()
            found["fedmrn, all cores"] = Agreement(float(apart), 0.0)
        return found

    return Benchmark(
        f"fold, {elements:,} parameters, {CLIENTS} clients",
        elements * CLIENTS,
        {**means, **limits},
        ("dense, numpy", "dense, no copy", "fedmrn", "multiplications", "sum"),
        check,
        unit="ns a parameter a client",
        goals=tuple(goals),
        limit=("multiplications", "multiply rate: 5 widening multiplications"),
        facts=lambda: {
            "bytes a client": f"{len(frames['fedmrn'][0]):,}",
            "bytes a dense client": f"{len(arrays[0]):,}",
        },
    )


def large(elements: int, clients: int) -> Benchmark:
    """Build the benchmark of a round of many clients: eight more a repetition, in one and the same sum.

    Eight, because frames of a large model are folded together, eight at a time.
    """
    folds = {
        "fedmrn": Fold("fedmrn", elements, 1, clients + 2 * TOGETHER),
        "fedmrn, all cores": Fold("fedmrn", elements, CORES, clients + 2 * TOGETHER),
    }
    sums = {name: f.start() for name, f in folds.items()}
    array = saved(np.ones(elements, np.float32))
    mean, part = np.zeros(elements, np.float32), np.empty(elements, np.float32)
    frames, resident = list[bytes](), list[float]()

    def prepare() -> None:
        """Make the next clients' frames when both sums have folded the last ones."""
        counts = {f.count for f in sums.values()}
        if len(counts) == 1 and TOGETHER * len(resident) == (first := counts.pop()):
            frames[:] = [folds["fedmrn"].frame(first + i) for i in range(TOGETHER)]
            resident.append(_resident())

    def fold_some(name: str) -> None:
        first = sums[name].count
        for i, frame in enumerate(frames):
            sums[name].add(Frame.from_bytes(frame, kind=Kind.UPDATE, limits=LIMITS), first + i)
        if sums[name].sums.waiting:
            raise RuntimeError("frames are waiting: what was timed is not their fold")

    def add_some(read: Callable[[bytes], np.ndarray]) -> None:
        for _ in range(TOGETHER):
            add(read(array), 3, mean, part)

    def check() -> dict[str, Agreement]:
        """The arrays are read right; what the fold gives is checked at the smaller sizes."""
        return {"dense, no copy": Agreement(float(np.abs(in_place(array) - loaded(array)).max()), 0.0)}

    cases: dict[str, Case] = {name: partial(fold_some, name) for name in folds}
    cases |= {
        "dense, numpy": partial(add_some, loaded),
        "dense, no copy": partial(add_some, in_place),
    }
    return Benchmark(
        f"eight more clients, {elements:,} parameters",
        TOGETHER * elements,
        cases,
        ("dense, numpy", "dense, no copy", "fedmrn"),
        check,
        prepare,
        unit="ns a parameter a client",
        goals=(Goal("fedmrn", by_width(0.65, 1.0)), Goal("fedmrn", 1.0, "dense, numpy")),
        facts=lambda: {
            "clients folded": f"{sums['fedmrn'].count}",
            "resident after the first eight clients, MB": f"{resident[min(1, len(resident) - 1)]:.0f}",
            "resident after the last, MB": f"{_resident():.0f}",
        },
    )


def _resident() -> float:
    """This process's memory in MB, where the system tells."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS")), float("nan"))


def plan(quick: bool) -> Iterator[Planned]:
    """Yield a benchmark a size."""
    if quick:
        yield partial(fold, 1 << 16), 2
    else:
        yield partial(fold, 389_920), 21
        yield partial(fold, 10_000_000), 5


def plan_large(quick: bool) -> Iterator[Planned]:
    """Yield the benchmark of a hundred clients of a hundred million parameters."""
    yield (partial(large, 1 << 16, 24), 3) if quick else (partial(large, 100_000_000, 100), 12)
