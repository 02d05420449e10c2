"""A million clients, on paper and in simulation: the figures of docs/scale.md.

    python studies/scale.py fit        small rounds, and the constants of the formulas
    python studies/scale.py predict    what the formulas say of the large rounds
    python studies/scale.py large      the large rounds: 100,000 clients of 1M parameters, 1,000 of 100M
    python studies/scale.py refit      the constants anew, from small and large rounds together
    python studies/scale.py sizes      lengths of updates and broadcasts, and what they cost a client and the root
    python studies/scale_flower.py     what one SuperLink serves
    python studies/scale_page.py       the tables of the page, from the data

A round goes through a tree of four processes, three edges and a root, by the library's own code. What is done already
is in the data and is not done again; Ctrl-C loses nothing. CPU is user and system time of all processes, and does not
count what making the frames takes.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scale_fit import ADDED, case_of, fitted, predicted, total_cpu
from scale_frames import RAW, Case

import fedmrn
from fedmrn.files import write_atomic

HERE = Path(__file__).parent
DATA = HERE / "records" / "scale.json"
CODED = "entropy"
PLAIN_FIT = (
    *((1 << 16, 300), (1 << 16, 10_000), (1 << 18, 300, 64)),
    *((1_000_000, 60), (1_000_000, 3_000), (1_000_000, 300, 64)),
    *((5_120_000, 240), (10_240_000, 72), (10_240_000, 240), (20_480_000, 120)),
)
CODED_FIT = (
    *((1 << 16, 300), (1 << 18, 60, 64), (1_000_000, 30), (1_000_000, 150)),
    *((5_120_000, 24), (10_240_000, 24)),
)
METHODS = ("fedmrn", "fedmrn-s")
FIT = [
    Case(method, coding, *sizes)
    for coding, cases in ((RAW, PLAIN_FIT), (CODED, CODED_FIT))
    for method in METHODS
    for sizes in cases
]
_SIZES = (1_000_000, 10_000_000)
LARGE = [
    *(Case(method, RAW, *sizes) for sizes in ((1_000_000, 100_000), (100_000_000, 1_000)) for method in METHODS),
    *(Case(method, CODED, 1_000_000, 3_000) for method in METHODS),
    Case("fedmrn", CODED, 100_000_000, 24),
]
QUICK = [Case("fedmrn", RAW, 1 << 16, 30), Case("fedmrn-s", CODED, 1 << 16, 5)]
SIZES = [
    *((Case(method, coding, d, 1), "float32") for coding in (RAW, CODED) for method in METHODS for d in _SIZES),
    *((Case("fedmrn", RAW, d, 1), "grid") for d in _SIZES),
    *((Case("fedmrn", RAW, 100_000_000, 1), down) for down in ("float32", "grid")),
]
_SINGLE = 30_000_000
"""Clients times parameters up to which one server is given the same frames, and must come to the same model."""
Data = dict[str, Any]


def machine() -> dict[str, Any]:
    """Say where figures come from."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "fedmrn": fedmrn.__version__,
    }


def run(case: Case, work: Path, *, single: bool) -> dict[str, Any]:
    """Run a case in processes of its own, and return its record.

    Raises:
        KeyboardInterrupt: it was stopped; what is folded is kept.
        CalledProcessError: it failed.
    """
    folder = work / case.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "case.json", json.dumps(asdict(case)).encode())
    begun = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine()}
    command = [sys.executable, str(HERE / "scale_root.py"), str(folder), *(["--single"] if single else [])]
    with subprocess.Popen(command) as root:  # noqa: S603 - our own
        while root.poll() is None:
            try:
                root.wait()
            except KeyboardInterrupt:  # it has heard of it too, and asks its edges to leave what they have
                continue
    if root.returncode == 130:
        raise KeyboardInterrupt
    if root.returncode:
        raise subprocess.CalledProcessError(root.returncode, command)
    result = json.loads((folder / "result.json").read_text())
    shutil.rmtree(folder)
    return {"case": asdict(case), **begun, **result}


def measure(data: Data, cases: Iterable[Case], kind: str, path: Path, work: Path) -> None:
    """Run the cases that are not in the data yet, and write each as soon as it is through."""
    cases = [*cases]
    for place, case in enumerate(cases, 1):
        if case.name in data[kind]:
            continue
        tell(f"[{place}/{len(cases)}] {case.name}")
        record = run(case, work, single=case.clients * case.parameters <= _SINGLE)
        data[kind][case.name] = record
        save(data, path)
        tell(f"  {total_cpu(record):.2f} s of CPU, {record['wall']:.1f} s in all")


def measure_sizes(data: Data, path: Path, work: Path) -> None:
    """Make frames of each size that is not in the data yet, in a process each.

    Raises:
        CalledProcessError: one failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    for case, down in SIZES:
        name = f"{case.name}-{down}"
        if name in data["sizes"]:
            continue
        tell(name)
        out = work / "sizes.json"
        words = (str(out), case.method, case.coding, str(case.parameters), down)
        subprocess.run([sys.executable, str(HERE / "scale_sizes.py"), *words], check=True)  # noqa: S603 - our own
        data["sizes"][name] = json.loads(out.read_text())
        save(data, path)


def fit(data: Data) -> None:
    """Put the constants of small rounds into the data, of each kind of mask."""
    data["constants"] = {kind: fitted(found) for kind, found in by_kind(data["fit"]).items()}


def refit(data: Data) -> None:
    """Put the constants of small and large rounds together into the data, with what predictions lacked."""
    together = data["fit"] | data["large"]
    data["refitted"] = {kind: fitted(found, ADDED) for kind, found in by_kind(together).items()}


def by_kind(records: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the records of each kind of mask."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records.values():
        found.setdefault(case_of(record).kind, []).append(record)
    return found


def predict(data: Data, cases: Iterable[Case]) -> None:
    """Put what the formulas say of large rounds into the data, where that is not known by measurement yet.

    Raises:
        SystemExit: a round was measured already: that would be no prediction.
    """
    for case in cases:
        if case.name in data["large"]:
            sys.exit(f"{case.name} is measured already; what was predicted of it stays")
        data["predicted"][case.name] = {"case": asdict(case), **predicted(data["constants"][case.kind], case)}


def load(path: Path) -> Data:
    """Return the data so far."""
    empty: Data = {"fit": {}, "constants": {}, "predicted": {}, "large": {}, "refitted": {}, "sizes": {}, "flower": {}}
    return empty | json.loads(path.read_text()) if path.is_file() else empty


def save(data: Data, path: Path) -> None:
    """Write the data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())


def tell(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "predict", "large", "refit", "sizes"))
    parser.add_argument("--quick", action="store_true", help="tiny rounds, to see that it works")
    parser.add_argument("--only", default="", metavar="TEXT", help="large: rounds whose name has it")
    parser.add_argument("--data", type=Path, default=DATA, metavar="FILE")
    parser.add_argument("--work", type=Path, default=HERE / "results" / "scale", help="for what is not done yet")
    args = parser.parse_args()
    data = load(args.data)
    try:
        if args.what == "fit":
            measure(data, QUICK if args.quick else FIT, "fit", args.data, args.work)
            fit(data)
        elif args.what == "predict":
            predict(data, LARGE)
        elif args.what == "refit":
            refit(data)
        elif args.what == "sizes":
            measure_sizes(data, args.data, args.work)
        else:
            chosen = [case for case in LARGE if args.only in case.name]
            unknown = [case.name for case in chosen if case.name not in data["predicted"]]
            if unknown:
                parser.error(f"nothing is predicted of {unknown[0]}: `predict` comes first")
            measure(data, chosen, "large", args.data, args.work)
    except KeyboardInterrupt:
        tell("stopped; the same command goes on from here")
        sys.exit(130)
    save(data, args.data)


if __name__ == "__main__":
    main()
