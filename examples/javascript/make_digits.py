"""Write the handwritten digits of scikit-learn as JSON, a file for each client: digits/0.json, digits/1.json, ...

python examples/javascript/make_digits.py --clients 4

Each file has a client's own training images and the test images that all clients share. Pixels are 0 to 16.
"""

import argparse
import json
from pathlib import Path

from torch import Tensor

from fedmrn.data import load

LARGEST = 16


def as_rows(images: Tensor, labels: Tensor) -> dict[str, list[int]]:
    """Return images as whole numbers, one after the other, beside their labels."""
    return {"images": (images * LARGEST).round().int().flatten().tolist(), "labels": labels.tolist()}


def write_digits(folder: Path, clients: int) -> list[Path]:
    """Write a file for each client; return their paths. Client k has every `clients`-th training image from k on."""
    data = load("digits", folder)
    test = as_rows(data.test_x, data.test_y)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(clients):
        part = slice(k, None, clients)
        train = as_rows(data.train_x[part], data.train_y[part])
        file = {"pixels": 64, "largest": LARGEST, "classes": 10, "train": train, "test": test}
        paths.append(folder / f"{k}.json")
        paths[-1].write_text(json.dumps(file, separators=(",", ":")) + "\n", encoding="utf-8")
    return paths


def main() -> None:
    """Write the files, and say where they are."""
    parser = argparse.ArgumentParser(description="The digits of scikit-learn, split over clients, as JSON.")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits")
    options = parser.parse_args()
    for path in write_digits(options.out, options.clients):
        print(path)


if __name__ == "__main__":
    main()
