"""CIFAR from the folder of its unpacked archive, and files where other libraries leave them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_samples import cifar_pickles, tiny_cifar, tiny_idx, tiny_svhn, write

from fedmrn.data import DATASETS, Source, load, load_source
from fedmrn.data.files import is_here
from fedmrn.errors import DataError

SCRIPT = Path(__file__).resolve().parents[4] / "shared" / "data" / "cifar10" / "unpack.py"


def unpack(folder: Path, name: str = "cifar10") -> tuple[Source, dict[str, tuple[np.ndarray, list[int]]]]:
    """Write the files of a small archive into a folder."""
    source, _, batches = tiny_cifar(name)
    folder.mkdir(parents=True)
    for member, blob in cifar_pickles(name, batches).items():
        (folder / member).write_bytes(blob)
    return source, batches


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("place", ["{own}", "{name}/{own}", "{name}", "{own}-target/{own}"])
def test_the_folder_is_found_and_holds_what_the_archive_does(tmp_path: Path, name: str, place: str) -> None:
    own = DATASETS[name].read.folder
    source, batches = unpack(tmp_path / place.format(own=own, name=name), name)
    assert is_here(source, tmp_path)
    data = load_source(source, tmp_path, download=False)
    _, blobs, _ = tiny_cifar(name)
    write(source, blobs, tmp_path / "archive")
    same = load_source(source, tmp_path / "archive", download=False)
    for mine, theirs in ((data.train_x, same.train_x), (data.test_x, same.test_x)):
        assert torch.equal(mine, theirs)
    assert data.train_y.tolist() == [label for member in source.read.train for label in batches[member][1]]
    assert torch.equal(data.test_y, same.test_y)


def test_the_data_folder_may_be_the_folder_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = unpack(tmp_path / "cifar-10-batches-py")
    assert len(load_source(source, tmp_path / "cifar-10-batches-py", download=False).train_x) == 20
    monkeypatch.chdir(tmp_path / "cifar-10-batches-py")
    assert len(load_source(source, Path(), download=False).train_x) == 20


def test_the_archive_goes_before_the_folder(tmp_path: Path) -> None:
    source, blobs, _ = tiny_cifar()
    write(source, blobs, tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    unpack(folder)
    (folder / "data_batch_1").write_bytes(b"damaged")
    assert len(load_source(source, tmp_path, download=False).train_x) == 20


ATTACK = b"\x80\x02cos\nsystem\n(U\x0ctouch victimtR."


@pytest.mark.parametrize("damaged", [lambda b: b[:-1], lambda b: b + b"x", lambda _: b"", lambda _: ATTACK])
def test_a_file_of_another_digest_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged) -> None:
    source, _ = unpack(tmp_path / "cifar-10-batches-py")
    path = tmp_path / "cifar-10-batches-py" / "data_batch_4"
    path.write_bytes(damaged(path.read_bytes()))
    monkeypatch.setattr("fedmrn.data.cifar.read_batch", lambda *_: pytest.fail("parsed before it was checked"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data_batch_4 is damaged: expected MD5 \w{32}, found \w{32}; delete .* anew"):
        load_source(source, tmp_path, download=False)
    assert not (tmp_path / "victim").exists()


def test_a_folder_that_lacks_a_file_is_named(tmp_path: Path) -> None:
    source, _ = unpack(tmp_path / "cifar-10-batches-py")
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(
        DataError, match=r"cifar-10-batches-py lacks test_batch; delete .*unpack cifar-10-python\.tar\.gz"
    ):
        load_source(source, tmp_path)  # nothing is downloaded beside a folder that is there


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    source, _ = unpack(tmp_path / "cifar-10-batches-py")
    small = replace(source, extracted=replace(source.extracted, most=1000))
    with pytest.raises(DataError, match="data_batch_1 is larger than 1,000 bytes"):
        load_source(small, tmp_path, download=False)


@pytest.mark.parametrize(
    ("tiny", "place"),
    [(tiny_idx, "FashionMNIST/raw"), (tiny_svhn, "SVHN"), (tiny_svhn, "svhn"), (tiny_svhn, ".")],
    ids=["fashion-mnist", "svhn-SVHN", "svhn-own", "svhn-flat"],
)
def test_where_torchvision_leaves_files(tmp_path: Path, tiny, place: str) -> None:
    source, blobs, _ = tiny()
    assert not is_here(source, tmp_path)
    write(source, blobs, tmp_path / place)
    if place == "FashionMNIST/raw":
        write(source, [b"mnist's"] * 4, tmp_path)  # of the same names, and not what is asked for
    assert is_here(source, tmp_path)
    assert len(load_source(source, tmp_path, download=False).train_x) == source.train


def test_svhn_of_another_digest_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, blobs, _ = tiny_svhn()
    write(source, [blobs[0][:-1] + b"x", blobs[1]], tmp_path / "SVHN")
    monkeypatch.setattr("fedmrn.data.svhn.parse_mat", lambda *_: pytest.fail("parsed before it was checked"))
    with pytest.raises(DataError, match=r"train_32x32\.mat is damaged: expected MD5"):
        load_source(source, tmp_path, download=False)


def test_published_digests_of_the_batches() -> None:
    for name, count in (("cifar10", 6), ("cifar100", 2)):
        row = DATASETS[name]
        assert [member for member, _ in row.extracted.files] == [*row.read.train, *row.read.test]
        assert all(len(bytes.fromhex(digest)) == 16 for _, digest in row.extracted.files)
        assert len({digest for _, digest in row.extracted.files}) == count


@pytest.mark.slow
def test_real_cifar10(tmp_path: Path) -> None:
    if not SCRIPT.is_file():
        pytest.skip("CIFAR-10 is not next to the repository, in ../shared/data/cifar10")
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], check=True, capture_output=True)
    data = load("cifar10", tmp_path, download=False)
    assert (data.train_x.shape, data.test_x.shape) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert torch.bincount(data.train_y).tolist() == [5000] * 10
    assert torch.bincount(data.test_y).tolist() == [1000] * 10
    assert data.train_y[:5].tolist() == [6, 9, 9, 4, 1]
    # The means and deviations that are quoted for its training images.
    mean, std = data.train_x.double().mean((0, 2, 3)) / 255, data.train_x.double().std((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, (0.4914, 0.4822, 0.4465), atol=5e-5)
    np.testing.assert_allclose(std, (0.2470, 0.2435, 0.2616), atol=5e-5)
