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


def rows(images: Tensor, labels: Tensor) -> dict[str, list[int]]:
    """Return images as whole numbers, one after the other, beside their labels."""
    return {"images": (images * LARGEST).round().int().flatten().tolist(), "labels": labels.tolist()}


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="The digits of scikit-learn, split over clients, as JSON.")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits")
    options = parser.parse_args()
    data = load("digits", Path("data"))
    options.out.mkdir(parents=True, exist_ok=True)
    for k in range(options.clients):
        part = slice(k, None, options.clients)
        train = rows(data.train_x[part], data.train_y[part])
        file = {"pixels": 64, "largest": LARGEST, "classes": 10, "train": train, "test": rows(data.test_x, data.test_y)}
        path = options.out / f"{k}.json"
        path.write_text(json.dumps(file, separators=(",", ":")) + "\n")
        print(f"{path}: {len(train['labels'])} images")


if __name__ == "__main__":
    main()
