"""The tables of docs/scale.md, made from the data of `scale.py`.

python studies/scale_page.py [--data FILE] [--page FILE]
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import Any

from marked_pages import fill
from scale import DATA
from scale_fit import ADDED, BYTES, CPU, MEMORY, case_of, evaluate, predicted, total_cpu
from scale_frames import RAW, Case

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
Data = Mapping[str, Any]
Figures = Mapping[str, Mapping[str, float]]
Row = tuple[str, ...]
Table = tuple[Row, list[Row], int]
"""Header, rows, and how many of the first columns are text."""
CLIENTS = (1_000, 10_000, 100_000, 1_000_000)
PARAMETERS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
MINUTES = 10
"""An edge has one core, and folds its clients in this time: that says how many edges there are."""
_STEPS = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def size(count: float) -> str:
    """Return a number of bytes for people."""
    for name, step in _STEPS:
        if count >= step:
            return f"{count / step:.3g} {name}B"
    return f"{count:.0f} B"


def many(number: float) -> str:
    """Return a round number for people."""
    for name, step in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= step:
            return f"{number / step:g}{name}"
    return f"{number:g}"


def seconds(number: float) -> str:
    """Return CPU seconds for people."""
    for name, step in (("years", 365 * 86400.0), ("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if number >= 3 * step:
            return f"{number / step:.3g} {name}"
    return f"{number:.3g} s"


def words(kind: str) -> str:
    """Return how the page calls a kind of mask."""
    method, _, coding = kind.rpartition("-")
    return f"`{method}`, {'plain' if coding == RAW else 'coded'}"


def checked(data: Data) -> Table:
    """Return what was predicted of the large rounds, and what was measured."""
    header = ("round", "masks", "CPU predicted, s", "measured, s", "off", "wall, s", "sums, predicted / measured")
    rows = list[Row]()
    for name, said in data["predicted"].items():
        case, total, record = case_of(said), said["total"]["cpu"], data["large"].get(name)
        cells = (f"{total:.1f}", *("not run", "", ""), size(said["bytes"]["partials"]))
        if record is not None:
            found = total_cpu(record)
            off = f"{100 * (found / total - 1):+.0f} %"
            sums = _pair(size(r["bytes"]["partials"]) for r in (said, record))
            cells = (f"{total:.1f}", f"{found:.1f}", off, f"{record['wall']:.0f}", sums)
        rows.append((_round(case), words(case.kind), *cells))
    return header, rows, 2


def _round(case: Case) -> str:
    return f"{many(case.clients)} clients, {many(case.parameters)} parameters"


PHASES: Mapping[str, tuple[str, ...]] = {
    "fold": ("fold",),
    "edges besides": ("open", "partial"),
    "root": ("begin", "assign", "merge", "finish"),
}


def phases(data: Data) -> Table:
    """Return the same by what the time is spent on, and the most memory."""
    rows = list[Row]()
    for name, record in data["large"].items():
        both = (data["predicted"][name], record)
        cells = [_pair(f"{sum(r['cpu'][what] for what in parts):.3g}" for r in both) for parts in PHASES.values()]
        cells += [_pair(size(r["memory"][where]) for r in both) for where in ("edge", "root")]
        case = case_of(record)
        rows.append((_round(case), words(case.kind), *cells))
    return ("round", "masks", *PHASES, "memory of an edge", "memory of the root"), rows, 2


def _pair(texts: Iterable[str]) -> str:
    return " / ".join(texts)


TIMES: Mapping[str, tuple[str, float]] = {"1": ("ms", 1e3), "N": ("us", 1e6), "N T": ("us", 1e6)}
"""Units of CPU constants; of those with a parameter it is ns."""
PER: Mapping[str, str] = {
    "1": "",
    "N": " a client",
    "N T": " a client and tensor",
    "N d": " a client and parameter",
    "d": " a parameter",
    "E d": " an edge and parameter",
    "E d log2(N/E)": " an edge and parameter, times log2(N / E)",
    "N / E": " a client of the edge",
    "N T / E": " a client of the edge, and tensor",
}


def _per(term: str) -> str:
    base, _, which = term.partition(", ")
    return PER[base] + (f", {which}" if which else "")


def constants(data: Data) -> Table:
    """Return the constants of CPU time."""
    rows = list[Row]()
    for what, terms in CPU.items():
        for term in (*terms, *(ADDED if what == "fold" else ())):
            unit, times = TIMES.get(term, ("ns", 1e9))
            rows += _constant(data, ("cpu", what, term), what, unit, times)
    return ("part", "CPU", *map(words, data["refitted"])), rows, 2


def lengths(data: Data) -> Table:
    """Return the constants of bytes that travel, and of memory."""
    rows = list[Row]()
    for part, whats, named in (("bytes", BYTES, "{}"), ("memory", MEMORY, "memory of the {}")):
        for what, terms in whats.items():
            for term in terms:
                rows += _constant(data, (part, what, term), named.format(what), "bytes", 1.0)
    return ("what", "unit", *map(words, data["refitted"])), rows, 2


def _constant(data: Data, path: tuple[str, str, str], name: str, unit: str, times: float) -> list[Row]:
    part, what, term = path
    found = [known[part][what].get(term) for known in data["refitted"].values()]
    if not any(found):
        return []
    return [(name, unit + _per(term), *("" if x is None else _figure(x * times) for x in found))]


def _figure(x: float) -> str:
    return f"{x:.3g}" if x < 1000 else f"{x:,.0f}"


def sizes(data: Data) -> Table:
    """Return lengths of updates and broadcasts, and what they cost."""
    header = ("frame", "parameters", "bytes", "bits a parameter", "write, s", "read, s")
    return header, [*_updates(data), *_broadcasts(data)], 1


def _of(data: Data, down: str) -> Iterator[tuple[Case, Mapping[str, Any]]]:
    for record in data["sizes"].values():
        if record["down"] == down:
            yield case_of(record), record


def _line(what: str, case: Case, length: int, write: float, read: float | None) -> Row:
    bits = f"{8 * length / case.parameters:.3f}"
    return what, many(case.parameters), f"{length:,}", bits, f"{write:.2g}", "" if read is None else f"{read:.2g}"


def _updates(data: Data) -> Iterator[Row]:
    for case, record in _of(data, "float32"):
        yield _line(f"update, {words(case.kind)}", case, record["bytes"]["update"], record["cpu"]["encode"], None)


def _broadcasts(data: Data) -> Iterator[Row]:
    for case, record in _of(data, "float32"):
        if case.kind == f"fedmrn-{RAW}":
            times = record["cpu"]["write again"], record["cpu"]["read"]
            yield _line("broadcast, float32", case, record["bytes"]["broadcast"], *times)
    ways = (("difference of public models", "broadcast", ""), ("whole public model", "whole", " whole"))
    for what, length, suffix in ways:
        for case, record in _of(data, "grid"):
            times = record["cpu"]["write" + suffix], record["cpu"]["read" + suffix]
            yield _line(f"broadcast, {what}", case, record["bytes"][length], *times)


def _rounds(data: Data) -> Iterator[tuple[Case, int, Figures]]:
    """Yield rounds with as many edges as they need, and what the formulas say of them."""
    known = data["refitted"][f"fedmrn-{RAW}"]
    for parameters in PARAMETERS:
        for clients in CLIENTS:
            case = Case("fedmrn", RAW, parameters, clients)
            edges = ceil(evaluate(known["cpu"]["fold"], case, 1) / (60 * MINUTES))
            yield case, edges, predicted(known, case, edges)


def traffic(data: Data) -> Table:
    """Return the bytes of rounds."""
    grid = {case.parameters: record["bytes"]["broadcast"] for case, record in _of(data, "grid")}
    largest = max(grid)
    header = ("clients", "parameters", "up", "down, float32", "down, differences", "sum of an edge", "of all edges")
    rows = list[Row]()
    for case, edges, found in _rounds(data):
        sums = found["bytes"]["partials"]
        down = grid.get(case.parameters, grid[largest] * case.parameters / largest)
        each = (
            found["bytes"]["updates"],
            *(case.clients * x for x in (found["bytes"]["broadcast"], down)),
            sums / edges,
        )
        rows.append((many(case.clients), many(case.parameters), *map(size, (*each, sums))))
    return header, rows, 0


def work(data: Data) -> Table:
    """Return cores and memory of rounds."""
    header = ("clients", "parameters", "fold, CPU", "edges", "memory of an edge", "merge, CPU", "memory of the root")
    rows = list[Row]()
    for case, edges, found in _rounds(data):
        cpu, memory = found["cpu"], found["memory"]
        cells = (seconds(cpu["fold"]), f"{edges:,}", size(memory["edge"]), seconds(cpu["merge"]), size(memory["root"]))
        rows.append((many(case.clients), many(case.parameters), *cells))
    return header, rows, 0


def coded(data: Data) -> Table:
    """Return what coded masks change of it: bytes up, and CPU of the fold."""
    header = ("parameters", "masks", "up, 1M clients", "fold, 1M clients, CPU", "of plain masks")
    rows = list[Row]()
    for parameters in PARAMETERS:
        for method in ("fedmrn", "fedmrn-s"):
            known = data["refitted"][f"{method}-{RAW}"]
            plain = evaluate(known["cpu"]["fold"], Case(method, RAW, parameters, 10**6), 1)
            case = Case(method, "entropy", parameters, 10**6)
            known = data["refitted"][case.kind]
            fold = evaluate(known["cpu"]["fold"], case, 1)
            up = evaluate(known["bytes"]["updates"], case)
            rows.append((many(parameters), words(case.kind), size(up), seconds(fold), f"{fold / plain:.1f}x"))
    return header, rows, 2


def flower(data: Data) -> Table:
    """Return what one SuperLink serves."""
    found = data["flower"]
    cpu = found["cpu"]
    rows: list[Row] = [
        ("register a SuperNode", f"{1e3 * cpu['register']:.1f}", f"{1 / cpu['register']:.0f} a second"),
        (
            "a poll that finds nothing",
            f"{1e3 * cpu['poll']:.1f}",
            f"{3 / cpu['poll']:.0f} SuperNodes (3 s)",
        ),
        ("a heartbeat", f"{1e3 * cpu['heartbeat']:.1f}", f"{30 / cpu['heartbeat']:.0f} SuperNodes (30 s)"),
        ("a tiny message and its reply", f"{1e3 * cpu['message']:.1f}", f"{1 / cpu['message']:.0f} a second"),
        ("the same, in the ServerApp", f"{1e3 * found['server app']:.1f}", f"{1 / found['server app']:.0f} a second"),
    ]
    return ("what", "CPU, ms", "one core is busy with"), rows, 1


TABLES: Mapping[str, Callable[[Data], Table]] = {
    "traffic": traffic,
    "work": work,
    "coded": coded,
    "checked": checked,
    "phases": phases,
    "constants": constants,
    "lengths": lengths,
    "sizes": sizes,
    "flower": flower,
}


def publish(data: Data, page: Path) -> None:
    """Write all tables into the page.

    Raises:
        ValueError: it lacks a mark.
    """
    for name, table in TABLES.items():
        header, rows, texts = table(data)
        fill(page, f"<!-- study scale {name} -->", header, rows, texts)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, metavar="FILE")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE")
    args = parser.parse_args()
    publish(json.loads(args.data.read_text()), args.page)


if __name__ == "__main__":
    main()
