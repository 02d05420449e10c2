"""What is left of a measurement: a table on the screen, and a JSON file that says on which machine it was made."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from fedmrn.files import write_atomic

PACKAGES = ("fedmrn", "numpy", "numba", "torch")


def show(console: Console, measured: Mapping[str, Any]) -> None:
    """Print the table of one benchmark."""
    baselines = next(iter(measured["cases"].values()))["ratio"]
    table = Table(title=measured["name"], title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("ns an element", no_wrap=True)
    for name in ("median", "min", "quartiles", *(f"/ {b}" for b in baselines)):
        table.add_column(name, justify="right", no_wrap=True)
    for case, figures in measured["cases"].items():
        ns = figures["ns_per_element"]
        spread = f"{ns['q1']:.3f} - {ns['q3']:.3f}"
        ratios = (f"{r:.3g}" for r in figures["ratio"].values())
        table.add_row(case, f"{ns['median']:.3f}", f"{ns['min']:.3f}", spread, *ratios)
    console.print(table)


def machine() -> dict[str, Any]:
    """Describe where the figures come from: they hold for this machine only. Call it before the work, for the load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # others at work disturb
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the JSON file, with the time."""
    whole = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **report}
    write_atomic(path, (json.dumps(whole, indent=2) + "\n").encode())
