"""What is left of a measurement: a table on the screen, a JSON file that says on which machine it was made, and the
tables of docs/performance*.md, made from such files."""

import json
import os
import platform
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from limits import flags
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import fedmrn
from fedmrn.files import write_atomic

PACKAGES = ("numpy", "numba", "torch")
NOT_MEASURED = "no CUDA device: not measured"
MANY = 5  # measurements alike are shown together from here on
Row = tuple[str, ...]


def show(console: Console, measured: Mapping[str, Any]) -> None:
    """Print the tables of one measurement."""
    for header, rows in tables(measured):
        table = Table(
            title=measured["name"], title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        table.add_column(header[0], no_wrap=True)
        for name in header[1:]:
            table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)
    for goal in measured.get("goals", ()):
        console.print(f"{_told(goal, measured)}: {_verdict(goal)}", markup=False, highlight=False, soft_wrap=True)
    for name, fact in measured.get("facts", {}).items():
        console.print(f"{name}: {fact}", markup=False, highlight=False, soft_wrap=True)


def tables(measured: Mapping[str, Any]) -> Iterable[tuple[Row, list[Row]]]:
    """Yield header and rows of each table of one measurement."""
    if "shares" in measured:
        for way, shares in measured["shares"].items():
            yield (way, "share of the step"), [(op, f"{share:.1%}") for op, share in shares.items()]
        return
    cases = measured["cases"]
    baselines = next(iter(cases.values()))["ratio"]
    rows = []
    for case, figures in cases.items():
        time = figures["time"]
        spread = f"{_figure(time['q1'])} - {_figure(time['q3'])}"
        ratios = (f"{r:.3g}" for r in figures["ratio"].values())
        rows.append((case, _figure(time["median"]), spread, *ratios))
    yield (measured["unit"], "median", "quartiles", *(f"/ {b}" for b in baselines)), rows


def _figure(x: float) -> str:
    return f"{x:.3f}" if x < 10 else f"{x:.1f}"


def _told(goal: Mapping[str, Any], measured: Mapping[str, Any]) -> str:
    return f"{goal['case']} / {goal['of']}" if goal["of"] else f"{goal['case']}, {measured['unit']}"


def _verdict(goal: Mapping[str, Any]) -> str:
    return f"{goal['found']:.3g}, wanted at most {goal['at_most']:.3g}{'' if goal['met'] else ' - not met'}"


def machine() -> dict[str, Any]:
    """Describe where the figures come from: they hold for this machine only. Call it before the work, for the load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    widest = next((name for name in ("avx512f", "avx2", "avx") if name in flags()), "")
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "vectors": widest,
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # others at work disturb
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "fedmrn": fedmrn.__version__,
        **{name: version(name) for name in PACKAGES},
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the JSON file, with the time."""
    whole = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **report}
    write_atomic(path, (json.dumps(whole, indent=2) + "\n").encode())


def rewrite(page: Path, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Put the tables of these parts, and the goals of all, into the page's marked blocks; return what was not there.

    A block is what stands between `<!-- bench NAME -->` and `<!-- end -->`.
    """
    text, absent = page.read_text("utf-8"), []
    blocks = {name: _block(report) for name, report in reports.items()} | {"goals": _goals(reports)}
    for name, block in blocks.items():
        start = f"<!-- bench {name} -->"
        pattern = re.compile(re.escape(start) + r"\n.*?<!-- end -->", re.DOTALL)
        new = f"{start}\n{block}<!-- end -->"
        text, count = pattern.subn(new.replace("\\", r"\\"), text)
        absent += [name] if not count else []
    write_atomic(page, text.encode())
    return absent


def _markdown(header: Row, rows: Iterable[Row]) -> str:
    lines = [header, ("---", *("---:" for _ in header[1:])), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _block(report: Mapping[str, Any]) -> str:
    if not report["measurements"]:
        return f"\n{NOT_MEASURED[0].upper()}{NOT_MEASURED[1:]}.\n\n"
    at = report["machine"]
    cpu = f"{at['cpu']}, {at['cores']} cores{', ' + at['vectors'] if at['vectors'] else ''}"
    load = f"load {at['load']:.1f} before" if at["load"] is not None else "load unknown"
    cpu += f"; {at['gpu']}" if report["part"] == "gpu" else ""
    made = f"{cpu}; torch {at['torch']}, numba {at['numba']}; {load}; {report['created'][:10]}"
    parts = [f"{made}{'; --quick, figures mean little' if report['quick'] else ''}\n"]
    if _alike(report["measurements"]):
        parts.append(_markdown(*_merged(report["measurements"])))
        return "\n" + "\n".join(parts) + "\n"
    for measured in report["measurements"]:
        facts = "".join(f"; {name} {fact}" for name, fact in measured.get("facts", {}).items())
        parts.append(f"**{measured['name']}**{facts}\n")
        parts += [_markdown(*table) for table in tables(measured)]
    return "\n" + "\n".join(parts) + "\n"


def _alike(measured: Sequence[Mapping[str, Any]]) -> bool:
    """Whether there are many measurements of the same cases: they become rows of one table."""
    kinds = {(m.get("unit"), *m.get("cases", ()), "", *m.get("facts", ())) for m in measured}
    return len(measured) >= MANY and len(kinds) == 1


def _merged(measured: Sequence[Mapping[str, Any]]) -> tuple[Row, list[Row]]:
    first = measured[0]
    rows = []
    for m in measured:
        medians = (_figure(case["time"]["median"]) for case in m["cases"].values())
        rows.append((m["name"], *medians, *m["facts"].values()))
    return (f"medians, {first['unit']}", *first["cases"], *first["facts"]), rows


def _goals(reports: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for report in reports.values():
        same = defaultdict(list)
        for measured in report["measurements"]:
            for goal in measured.get("goals", ()):
                same[goal["case"], goal["of"], goal["at_most"]].append((goal, measured))
        for found in same.values():
            worst = [max(found, key=lambda pair: pair[0]["found"])] if len(found) >= MANY else found
            for goal, measured in worst:
                of = f"/ {goal['of']}" if goal["of"] else measured["unit"]
                name = f"worst of {len(found)}, {measured['name']}" if len(found) >= MANY else measured["name"]
                figures = (f"{goal['found']:.3g}", f"{goal['at_most']:.3g}", "yes" if goal["met"] else "**no**")
                rows.append((f"{name}: {goal['case']}", of, *figures, *_limit(goal, measured)))
    header = ("figure", "against", "measured", "target", "met", "the limit, same unit", "which limit")
    return "\n" + _markdown(header, rows) + "\n"


def _limit(goal: Mapping[str, Any], measured: Mapping[str, Any]) -> tuple[str, str]:
    """What the goal's figure would be if the case ran at the machine's limit."""
    if not measured["limit"]:
        return "", ""
    case, why = measured["limit"]
    best = measured["cases"][case]["time"]["median"]
    if goal["of"]:
        best /= measured["cases"][goal["of"]]["time"]["median"]
    return f"{best:.3g}", why
