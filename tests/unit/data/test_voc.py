"""Pascal VOC's folder: what is read of it, and what is refused."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedmrn.data import load
from fedmrn.data.voc import IGNORED, SIZE
from fedmrn.errors import DataError
from made_up import write_voc


def mask_of(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "SegmentationClass" / f"{name}.png"))


def test_images_and_masks_are_scaled_alike(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, train=3, val=2)
    data = load("voc", tmp_path)
    assert data.task == "segmentation"
    assert (data.train_x.shape, data.train_x.dtype) == ((3, 3, SIZE, SIZE), torch.uint8)
    assert (data.test_y.shape, data.test_y.dtype) == ((2, SIZE, SIZE), torch.uint8)
    # 32 pixels become 128: by the nearest pixel, each becomes 4 by 4 of itself.
    for i in range(3):
        found = mask_of(folder, f"2007_train{i:03}")
        np.testing.assert_array_equal(data.train_y[i].numpy(), found.repeat(4, 0).repeat(4, 1))
        assert set(np.unique(found)) == {0, 1 + i, IGNORED}
        inside = torch.from_numpy(found.repeat(4, 0).repeat(4, 1) == 1 + i)
        colour = data.train_x[i][:, inside].double().mean(1)
        expected = torch.tensor([40.0 * i, 255.0 - 40 * i, 90.0], dtype=torch.double)
        assert (colour - expected).abs().max() < 20  # JPEG, and the blur at the rim
    assert data.labels().tolist() == [1, 2, 3]


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    folder = write_voc(tmp_path, train=1, val=1, size=(60, 32))
    classes = np.zeros((32, 60), np.uint8)
    classes[:, :14], classes[:, 46:] = 1, 2  # outside of columns 14 to 45
    classes[:, 14], classes[:, 45] = 3, 4
    Image.fromarray(classes).save(folder / "SegmentationClass" / "2007_train000.png")
    row = load("voc", tmp_path).train_y[0, 5].tolist()
    assert row == [3] * 4 + [0] * 120 + [4] * 4


def test_it_may_lie_in_the_data_folder_itself(tmp_path: Path) -> None:
    write_voc(tmp_path, 1, 1)
    assert len(load("voc", tmp_path / "voc").train_x) == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"voc: put VOCdevkit/VOC2012, as in the archive, into .*voc; see docs/data.md"):
        load("voc", tmp_path)


def _big(path: Path) -> None:
    Image.new("P", (5000, 32)).save(path)


def _bomb(side: int) -> Callable[[Path], None]:
    """A PNG of one small chunk of data that says it has this many pixels a side."""

    def write(path: Path) -> None:
        header = struct.pack(">II5B", side, side, 8, 0, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
        parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))

    return write


def _colours(path: Path) -> None:
    Image.new("RGB", (32, 32)).save(path)


def _class_21(path: Path) -> None:
    Image.new("L", (32, 32), 21).save(path)


def _jpeg(path: Path) -> None:
    Image.new("L", (32, 32)).save(path, "JPEG")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("ImageSets/Segmentation/train.txt", lambda p: p.write_text("../../etc\n"), "holds '../../etc'"),
        ("ImageSets/Segmentation/val.txt", lambda p: p.write_text("\n"), "holds 0 names"),
        ("ImageSets/Segmentation/train.txt", lambda p: p.write_text("a\na\n"), "or one twice"),
        ("ImageSets/Segmentation/train.txt", lambda p: p.write_bytes(b"\xff\n"), "is not a text file in ASCII"),
        ("ImageSets/Segmentation/train.txt", lambda p: p.unlink(), "cannot be read: No such file"),
        ("JPEGImages/2007_train000.jpg", lambda p: p.unlink(), "cannot be read: No such file"),
        ("JPEGImages/2007_train000.jpg", lambda p: p.write_bytes(b"\xff\xd8\xff"), "is not a sound JPEG file"),
        ("JPEGImages/2007_train000.jpg", lambda p: p.write_bytes(p.read_bytes()[:-300]), "is not a sound JPEG file"),
        ("SegmentationClass/2007_val000.png", lambda p: p.write_bytes(p.read_bytes()[:60]), "is not a sound PNG file"),
        ("SegmentationClass/2007_val000.png", _big, "5000, 32"),
        ("SegmentationClass/2007_val000.png", _bomb(9_600), r"\(9600, 9600\) pixels, at most 4096 a side"),
        ("SegmentationClass/2007_val000.png", _bomb(60_000), "is not a sound PNG file .*decompression bomb"),
        ("SegmentationClass/2007_val000.png", _colours, "has no palette"),
        ("SegmentationClass/2007_val000.png", _class_21, "has classes other than 0 to 20 and 255"),
        ("SegmentationClass/2007_val000.png", _jpeg, "is not a sound PNG file"),
        (
            "SegmentationClass/2007_val000.png",
            lambda p: Image.new("P", (9, 32)).save(p),
            r"is of \(9, 32\) pixels, its",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_what_is_wrong_is_refused(tmp_path: Path, file: str, change: Callable[[Path], None], message: str) -> None:
    path = write_voc(tmp_path, 1, 1) / file
    change(path)
    with pytest.raises(DataError, match=f"{path}.*{message}"):
        load("voc", tmp_path)


def test_files_that_are_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_voc(tmp_path, 1, 1)
    monkeypatch.setattr("fedmrn.data.voc._MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"2007_train000.jpg is larger than 100 bytes"):
        load("voc", tmp_path)
