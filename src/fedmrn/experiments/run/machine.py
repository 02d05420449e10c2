"""machine.json of a run folder: which machine and versions ran it, and when; a line for each that it went on with.

Nothing of a run's results depends on the file. Floating-point sums do depend on what it names: the processor and torch.
"""

import json
import os
import platform
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from fedmrn.experiments.run.json_file import read_json
from fedmrn.files import write_atomic
from fedmrn.text import printable

FILE = "machine.json"
_MOST_BYTES, _MOST_STARTS = 1 << 20, 1 << 10
Word = Annotated[str, Field(max_length=200, strict=True)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Machine:
    """Where and when a run was started, or went on.

    Attributes:
        processor: its name as the system has it.
        device: what clients train on: "cpu", or the name of a GPU.
        torch: version of PyTorch.
        fedmrn: version of this package.
        date: of the start, such as 2026-01-31, in UTC.
    """

    processor: Word
    device: Word
    torch: Word
    fedmrn: Word
    date: Word


_FILE = TypeAdapter(Annotated[list[Machine], Field(max_length=_MOST_STARTS)])


def this_machine(device: str) -> Machine:
    """Return the machine that this process runs on; `device` is what clients train on."""
    today = datetime.now(UTC).date().isoformat()
    return Machine(
        processor=_processor(), device=device, torch=_version("torch"), fedmrn=_version("fedmrn"), date=today
    )


def note_machine(folder: Path, machine: Machine) -> None:
    """Add a machine to a run folder's file, unless its last start was on the same one.

    Raises:
        RunError: the file is there, and not what the runner writes.
    """
    known = read_machines(folder)
    if known and replace(known[-1], date=machine.date) == machine:
        return
    lines = ",\n".join(json.dumps(asdict(each)) for each in [*known, machine][-_MOST_STARTS:])
    write_atomic(folder / FILE, f"[\n{lines}\n]\n".encode())


def read_machines(folder: Path) -> list[Machine]:
    """Return the machines of a run folder, oldest first; none for a run from before they were noted.

    Raises:
        RunError: machine.json is not what the runner writes.
    """
    return read_json(folder / FILE, _FILE, _MOST_BYTES, "; delete it") or []


def _processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name, with the number of its cores that the system shows."""
    try:
        lines = info.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return printable(f"{name}, {os.cpu_count()} cores")


def _version(package: str) -> str:
    try:
        return printable(version(package), 60)
    except PackageNotFoundError:
        return "not installed"
