"""Made-up data in the formats of Shakespeare, Banking77 and Pascal VOC, for tests of any folder."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = [
    "the",
    "king",
    "is",
    "dead",
    "and",
    "so",
    "long",
    "live",
    "a",
    "queen",
    "who",
    "would",
    "be",
    "kind,",
    "or",
    "else!",
]


def texts(roles: int, words: int = 180) -> dict[str, str]:
    """Some words in random order for each role; the last role says nearly nothing."""
    rng = np.random.default_rng(1)
    found = {f"PLAY_ROLE_{i}": " ".join(rng.choice(WORDS, words)) for i in range(roles - 1)}
    return {**found, f"PLAY_ROLE_{roles - 1}": "Exit."}


def raw_document(spoken: dict[str, str]) -> dict[str, Any]:
    return {
        "users": list(spoken),
        "num_samples": [max(0, len(text) - 80) for text in spoken.values()],
        "hierarchies": ["PLAY"] * len(spoken),
        "user_data": {role: {"raw": text} for role, text in spoken.items()},
    }


def write_raw(data_dir: Path, document: Any) -> Path:
    path = data_dir / "shakespeare" / "shakespeare_by_role.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json.dumps(document).encode(), mtime=0))
    return path


def leaf_document(samples: dict[str, tuple[list[str], list[str]]]) -> dict[str, Any]:
    return {
        "users": list(samples),
        "num_samples": [len(x) for x, _ in samples.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in samples.items()},
    }


def write_leaf(data_dir: Path, train: list[Any], test: list[Any]) -> Path:
    """Write documents as files of LEAF's two folders, and return the folder of both."""
    folder = data_dir / "shakespeare"
    for part, documents in (("train", train), ("test", test)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for i, document in enumerate(documents):
            (folder / part / f"all_data_{i}_{part}_8.json").write_text(json.dumps(document))
    return folder


def write_banking77(data_dir: Path, train: int = 2, test: int = 1) -> Path:
    """Write so many questions an intent, in which the intent's number is a word; return their folder."""
    folder = data_dir / "banking77"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for part, count in (("train", train), ("test", test)):
        rows = [
            (f"{' '.join(rng.choice(WORDS, rng.integers(1, 9)))} {i}?", f"intent_{i:02}")
            for _ in range(count)
            for i in range(77)
        ]
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "category"), *rows])
    return folder


def write_voc(data_dir: Path, train: int = 6, val: int = 2, size: tuple[int, int] = (32, 32)) -> Path:
    """Write coloured squares on grey, each colour a class, rims unknown; return the folder VOC2012."""
    folder = data_dir / "voc" / "VOCdevkit" / "VOC2012"
    rng = np.random.default_rng(2)
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    width, height = size
    for part, count in (("train", train), ("val", val)):
        names = [f"2007_{part}{i:03}" for i in range(count)]
        (folder / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            pixels = np.full((height, width, 3), 128, np.uint8)
            classes = np.zeros((height, width), np.uint8)
            top, left = rng.integers(4, 12, 2)
            classes[top - 1 : top + 13, left - 1 : left + 13] = 255
            classes[top : top + 12, left : left + 12] = 1 + i % 20
            pixels[top : top + 12, left : left + 12] = (40 * (i % 6), 255 - 40 * (i % 6), 90)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
            mask = Image.fromarray(classes, "L")
            mask.putpalette(bytes(range(256)) * 3)
            mask.save(folder / "SegmentationClass" / f"{name}.png")
    return folder
