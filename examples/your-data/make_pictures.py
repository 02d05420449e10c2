"""Draw pictures of circles, crosses and squares into shapes/: python make_pictures.py [FOLDER]"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
COUNTS = {"train": 120, "test": 40}  # of each class


def draw(name: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a picture of a shape of random size, place and brightness, on noise."""
    size, y, x = rng.integers(3, 6), *np.indices((SIDE, SIDE))
    down, right = abs(y - rng.integers(6, SIDE - 6)), abs(x - rng.integers(6, SIDE - 6))
    outlines = {
        "circle": abs(np.hypot(down, right) - size) < 0.7,
        "cross": (np.minimum(down, right) == 0) & (np.maximum(down, right) <= size),
        "square": np.maximum(down, right) == size,
    }
    pixels = rng.integers(0, 60, (SIDE, SIDE), np.uint8)
    pixels[outlines[name]] = rng.integers(120, 255)
    return pixels


def main(folder: Path) -> None:
    """Write shapes/train/circle/0.png and so on into a folder."""
    rng = np.random.default_rng(1)
    for part, count in COUNTS.items():
        for name in ("circle", "cross", "square"):
            place = folder / "shapes" / part / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(draw(name, rng)).save(place / f"{i}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
