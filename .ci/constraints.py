"""Write constraints.txt from what pip would install: make constraints.

    pip install --dry-run --ignore-installed --report FILE ... && python .ci/constraints.py FILE

The comment at the head of constraints.txt stays.
Left out are fedmrn itself, torch, and what a CUDA build of torch brings.
"""

import json
import re
import sys
from pathlib import Path

TARGET = Path(__file__).parents[1] / "constraints.txt"
LEFT_OUT = re.compile(r"fedmrn|torch|triton|nvidia-.*|cuda-.*|pip|setuptools|wheel")


def pins(report: str) -> list[str]:
    """Return a line for each distribution of pip's report, in order of names."""
    found = [item["metadata"] for item in json.loads(report)["install"]]
    lines = [f"{one['name']}=={one['version']}" for one in found if not LEFT_OUT.fullmatch(one["name"].lower())]
    return sorted(lines, key=str.lower)


def main() -> None:
    """Replace the lines of constraints.txt that are no comments."""
    head = [line for line in TARGET.read_text("utf-8").splitlines() if line.startswith("#")]
    lines = pins(Path(sys.argv[1]).read_text("utf-8"))
    TARGET.write_text("\n".join([*head, *lines]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
