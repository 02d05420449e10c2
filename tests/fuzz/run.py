"""Fuzz the readers of bytes from outside, one target after the other, and say what came of it."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from hashlib import sha1
from pathlib import Path

from rich.console import Console
from rich.table import Table
from targets import MODULES, Target
from targets import target as target_of

HERE = Path(__file__).parent
EXAMPLES = """examples:
  python tests/fuzz/run.py                           a minute of each target
  python tests/fuzz/run.py frame --runs 10000000     ten million executions of one
  python tests/fuzz/engine.py frame FILE             one input again, such as one that a run has left in .fuzz
"""
_LIVE = re.compile(r"#(\d+)\t.*?cov: (\d+) ft: (\d+) corp: (\d+)")
_STAT = re.compile(r"stat::(\w+): +(\d+)")


def fuzz(target: Target, options: argparse.Namespace, console: Console) -> dict[str, str]:
    """Run one target in a process of its own; return what libFuzzer says at the end."""
    corpus = options.folder / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds():
        (corpus / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    command = [sys.executable, str(HERE / "engine.py"), target.name, "-print_final_stats=1", "-timeout=10"]
    command += ["-keep_seed=1"]  # a codec that numba compiled shows no new branch, and is worth its inputs
    command += [f"-artifact_prefix={options.folder / target.name}-", f"-seed={options.seed}"]
    command += [f"-runs={options.runs}" if options.runs else f"-max_total_time={options.seconds}", str(corpus)]
    found = {"target": target.name, "finding": "none"}
    log = options.folder / f"{target.name}.log"
    with tempfile.TemporaryDirectory() as scratch, log.open("w") as file, console.status(target.name) as status:
        env = {**os.environ, "TMPDIR": scratch, "OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=file, text=True, errors="replace", env=env) as p:
            for line in p.stderr or ():
                file.write(line)
                if live := _LIVE.match(line):
                    found |= dict(zip(("executions", "counters", "features", "corpus"), live.groups(), strict=True))
                    status.update(f"{target.name}: {line.strip()[:100]}")
                elif stat := _STAT.match(line):
                    found[stat[1]] = stat[2]
        if p.returncode:
            found["finding"] = f"see {log}"
    return found


def table(results: list[dict[str, str]]) -> Table:
    """The results, a row a target."""
    shown = Table()
    columns = {
        "target": "target",
        "executions": "number_of_executed_units",
        "a second": "average_exec_per_sec",
        "counters hit": "counters",
        "features": "features",
        "inputs kept": "corpus",
        "peak RSS, MiB": "peak_rss_mb",
        "finding": "finding",
    }
    for name in columns:
        shown.add_column(name, justify="left" if name in ("target", "finding") else "right")
    for found in results:
        shown.add_row(*(found.get(key, "-") for key in columns.values()))
    return shown


def main() -> None:
    """Fuzz, print the table, end with 1 if there is a finding."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(MODULES)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target; default: 60")
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="executions of each, instead of a time")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations; default: 1")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"), help="of inputs kept and logs; default: .fuzz")
    options = parser.parse_args()
    unknown = [name for name in options.targets if name not in MODULES]
    if unknown:
        parser.error(f"there is no target {unknown[0]!r}; choose from {', '.join(MODULES)}")
    out, err, results = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True), []
    try:
        for name in options.targets or MODULES:
            results.append(fuzz(target_of(name), options, err))
    except KeyboardInterrupt:
        err.print("stopped; the inputs found so far are kept")
        sys.exit(130)
    finally:
        if results:
            out.print(table(results))
    sys.exit(any(found["finding"] != "none" for found in results))


if __name__ == "__main__":
    main()
