"""Files of a person's own, for tests: pictures by class, modules."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("circle", "cross", "square")


def write_pictures(
    folder: Path, classes: tuple[str, ...] = CLASSES, count: int = 4, size: tuple[int, int] = (8, 8), mode: str = "L"
) -> None:
    """Write random pictures of each class, all of them different."""
    rng = np.random.default_rng(len(str(folder.name)))
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
            Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode).save(folder / name / f"{i}.png")


@contextmanager
def modules_of(folder: Path) -> Iterator[Path]:
    """Forget what is imported from a folder in between: other tests have modules of the same names."""
    path, before = list(sys.path), set(sys.modules)
    try:
        yield folder
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            found = getattr(sys.modules[name], "__file__", None)
            if found and Path(found).is_relative_to(folder):
                del sys.modules[name]
