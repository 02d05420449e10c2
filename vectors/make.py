"""Make the test vectors of the wire format: `python vectors/make.py`, the same bytes each time."""

import argparse
from pathlib import Path

from making.cases import cases
from making.folder import Folder, to_json
from making.layouts import LAYOUTS
from making.numbers import numbers
from making.refused import refused
from making.trees import trees

from fedmrn.numerics.noise import gaussian_table

FORMAT, WIRE = 1, 1
"""Versions of the index, and of the frames: header and document say the latter."""


def make() -> Folder:
    """Return all files of the vectors, index.json among them."""
    folder = Folder()
    index = {
        "format": FORMAT,
        "wire": WIRE,
        "gaussian": folder.add("gaussian.bin", gaussian_table().astype("<f4").tobytes()),
        "numbers": folder.add("numbers.json", (to_json(numbers()) + "\n").encode()),
        "layouts": {name: folder.layout(name, layout) for name, layout in LAYOUTS.items()},
        "cases": cases(folder),
        "refused": refused(folder),
        "trees": trees(folder),
    }
    folder.add("index.json", (to_json(index) + "\n").encode())
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    make().write(parser.parse_args().out)
