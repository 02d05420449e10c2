"""Time fedmrn against other ways to do the same, and against what the machine could do at best.

Every figure has its baseline in the same process; the repetitions of all cases are interleaved, and the median counts.
Before anything is timed the results must agree. One thread, unless a case says otherwise. Parts:

"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import entropy
import every_codec
import folds
import gpu
import noises
import profiles
import publics
import rounds
import starts
import steps
import torch
import transforms
from harness import DisagreementError, Planned, measure
from report import NOT_MEASURED, machine, rewrite, show, write
from rich.console import Console
from threadpoolctl import threadpool_limits

from fedmrn.federation.warmup import warm_up
from fedmrn.methods import METHODS

HERE = Path(__file__).parent
PAGES = [HERE.parent / "docs" / name for name in ("performance.md", "performance-tables.md")]
Plan = Callable[[bool], Iterator[Planned]]
PARTS: Mapping[str, tuple[Plan, str]] = {
    "noise": (noises.plan, "the noise against torch's generator"),
    "codecs": (every_codec.plan, "encode and decode of every codec against a copy"),
    "entropy": (entropy.plan, "entropy coding of masks against plain bits and zlib"),
    "public": (publics.plan, "public models: choosing, writing and reading them against a copy"),
    "transform": (transforms.plan, "the Walsh-Hadamard transform against other ways to compute it"),
    "fold": (folds.plan, "aggregation from bytes to the mean against numpy on dense arrays"),
    "large": (folds.plan_large, "a hundred clients of a hundred million parameters; 5 GB of memory"),
    "step": (steps.plan, "a training step against plain SGD and the published layers"),
    "round": (rounds.plan, "a round of the Fashion-MNIST preset against the published trainer"),
    "workers": (rounds.plan_workers, "the same with clients in worker processes"),
    "start": (starts.plan, "from the start of a process to the library, the help and the first round"),
    "gpu": (gpu.plan, "steps and rounds on a CUDA device, where there is one"),
    "profile": (lambda _: iter(()), "where the time of a step goes"),
}
EXAMPLES = """examples:
  python bench/suite.py                       everything; a quarter of an hour on two cores
  python bench/suite.py --only noise,fold     two parts
  python bench/suite.py --quick               small sizes and few repetitions, to see that it works: figures mean little
  python bench/suite.py --docs                then put the tables into docs/performance*.md
  python bench/suite.py --only none --docs    the tables again, from the files of earlier runs
"""


def main() -> None:
    """Measure, print the tables, write a file a part."""
    parts = "\n".join(f"  {name:<10} {what}" for name, (_, what) in PARTS.items())
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{parts}", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few repetitions: a smoke test")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help="names with commas between, or none")
    default = HERE / "results"
    parser.add_argument("--out", type=Path, default=default, help="folder of PART.json; default: bench/results")
    parser.add_argument(
        "--docs", action="store_true", help="rewrite the tables of docs/performance*.md from the folder"
    )
    parser.add_argument("--page", type=Path, nargs="+", default=PAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = [] if options.only == "none" else options.only.split(",")
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"--only: there is no part {unknown[0]!r}; choose from {', '.join(PARTS)}, or none")
    # Tables are not broken to fit where nobody has said how wide it is.
    out, err = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)
    torch.set_num_threads(1)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if chosen:
            prepare(err)
        for place, name in enumerate(chosen, 1):
            err.print(f"\n[{place}/{len(chosen)}] {name}: {PARTS[name][1]}", style="bold", markup=False, soft_wrap=True)
            write(options.out / f"{name}.json", run(name, options.quick, out, err))
            out.print(f"written: {options.out / name}.json", markup=False, highlight=False, soft_wrap=True)
        if options.docs:
            files = {name: options.out / f"{name}.json" for name in PARTS}
            reports = {name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.is_file()}
            absent = [rewrite(page, reports) for page in options.page]
            pages = ", ".join(map(str, options.page))
            out.print(f"written: {pages}", markup=False, highlight=False, soft_wrap=True)
            for name in sorted(set.intersection(*map(set, absent))):
                err.print(f"{pages}: no block for {name}", style="red", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        err.print("stopped; the parts that were through are written")
        sys.exit(130)
    except (DisagreementError, OSError) as error:
        err.print(f"suite.py: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)


def prepare(err: Console) -> None:
    """Compile the kernels, or read them from the disk, before anything is timed."""
    started = time.perf_counter()
    with err.status("preparing the kernels (compiled once for an installation)"):
        for row in METHODS.values():
            warm_up(row.scheme())
    err.print(f"kernels ready after {time.perf_counter() - started:.1f} s; in no figure below", style="dim")


def run(name: str, quick: bool, out: Console, err: Console) -> dict[str, Any]:
    """Run one part; progress goes to `err`, tables to `out`, as they come."""
    here, measured = machine(), []
    with threadpool_limits(1):
        for build, repetitions in PARTS[name][0](quick):
            measured.append(measure(build(), repetitions, err))
            show(out, measured[-1])
        if name == "profile":
            measured.append(profiles.profiled(quick))
            show(out, measured[-1])
    if not measured:
        out.print(NOT_MEASURED, highlight=False, soft_wrap=True)
    return {"part": name, "quick": quick, "machine": here, "measurements": measured}


if __name__ == "__main__":
    main()
