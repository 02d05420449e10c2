"""Small data sets, written in the official formats, and records that describe them."""

import gzip
import io
import struct
import tarfile
from dataclasses import replace
from hashlib import md5
from pathlib import Path

import numpy as np
from scipy.io import savemat

from fedmrn.data import DATASETS, RemoteFile, Source


def describe(source: Source, blobs: list[bytes], **changes: object) -> Source:
    """A catalogue row with the sizes and digests of other files."""
    files = tuple(
        RemoteFile(file.name, file.url, md5(blob, usedforsecurity=False).hexdigest(), len(blob))
        for file, blob in zip(source.files, blobs, strict=True)
    )
    return replace(source, files=files, **changes)


def write(source: Source, blobs: list[bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, blob in zip(source.files, blobs, strict=True):
        (folder / file.name).write_bytes(blob)


def idx(array: np.ndarray) -> bytes:
    """IDX by the format's description, not yet compressed."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def tiny_idx() -> tuple[Source, list[bytes], list[np.ndarray]]:
    rng = np.random.default_rng(1)
    arrays = [
        rng.integers(0, 256, (20, 28, 28), np.uint8),
        rng.integers(0, 10, 20, np.uint8),
        rng.integers(0, 256, (7, 28, 28), np.uint8),
        rng.integers(0, 10, 7, np.uint8),
    ]
    blobs = [zipped(idx(array)) for array in arrays]
    return describe(DATASETS["fashion-mnist"], blobs, train=20, test=7), blobs, arrays


def _string(data: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(data)) + data


def python2_pickle(array: np.ndarray, labels: list[int], label_key: bytes, fortran: bool = False) -> bytes:
    """A CIFAR batch, opcode by opcode, as Python 2 wrote it: protocol 2 with eight-bit strings."""
    rows, columns = array.shape
    raw = array.tobytes(order="F" if fortran else "C")
    dtype = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\x00K\x01\x87R(K\x03" + _string(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"".join(b"J" + struct.pack("<i", n) for n in (rows, columns)) + b"\x86"
    data = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + _string(b"b") + b"\x87R"
    data += b"(K\x01" + shape + dtype + (b"\x88" if fortran else b"\x89") + _string(raw) + b"tb"
    listing = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    names = b"](" + b"".join(_string(b"name_%d.png" % i) for i in range(rows)) + b"e"
    items = _string(b"data") + data + _string(label_key) + listing + _string(b"filenames") + names
    return b"\x80\x02}(" + items + b"u."


def zipped(data: bytes) -> bytes:
    """The same bytes at any time: they name tests, which two processes must find alike."""
    return gzip.compress(data, mtime=0)


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, blob in members:
            info.size = len(blob)
            tar.addfile(info, io.BytesIO(blob))
    return zipped(buffer.getvalue())


def tar_gz(members: dict[str, bytes]) -> bytes:
    return archive(*((tarfile.TarInfo(name), blob) for name, blob in members.items()))


def tiny_cifar(name: str = "cifar10") -> tuple[Source, list[bytes], dict[str, tuple[np.ndarray, list[int]]]]:
    """Batches of 4 training images and 3 test images each, in the official archive's layout."""
    rng = np.random.default_rng(2)
    row = DATASETS[name]
    batches = {
        member: (rng.integers(0, 256, (count, 3072), np.uint8), rng.integers(0, row.classes, count).tolist())
        for members, count in ((row.read.train, 4), (row.read.test, 3))
        for member in members
    }
    pickles = cifar_pickles(name, batches)
    top = row.read.folder
    members = {f"{top}/{member}": blob for member, blob in pickles.items()}
    blob = tar_gz({f"{top}/readme.html": b"<html>", **members, f"{top}/batches.meta": b"never read"})
    digests = tuple((member, md5(pickles[member], usedforsecurity=False).hexdigest()) for member in pickles)
    extracted = replace(row.extracted, files=digests)
    return describe(row, [blob], train=4 * len(row.read.train), test=3, extracted=extracted), [blob], batches


def cifar_pickles(name: str, batches: dict[str, tuple[np.ndarray, list[int]]]) -> dict[str, bytes]:
    """The files of an unpacked archive, by name."""
    return {member: python2_pickle(*batch, DATASETS[name].read.label_key) for member, batch in batches.items()}


def mat(images: np.ndarray, labels: np.ndarray, compress: bool = True) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"X": images, "y": labels}, do_compression=compress)
    return buffer.getvalue()


def tiny_svhn() -> tuple[Source, list[bytes], list[np.ndarray]]:
    rng = np.random.default_rng(3)
    arrays = [
        rng.integers(0, 256, (32, 32, 3, 11), np.uint8),
        np.arange(11, dtype=np.uint8)[:, None] % 10 + 1,
        rng.integers(0, 256, (32, 32, 3, 5), np.uint8),
        np.array([[10], [1], [10], [9], [5]], np.uint8),
    ]
    blobs = [mat(*arrays[:2]), mat(*arrays[2:])]
    return describe(DATASETS["svhn"], blobs, train=11, test=5), blobs, arrays
