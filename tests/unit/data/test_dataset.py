import functools
import http.server
import threading
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_samples import describe, idx, tiny_idx, write, zipped

from fedmrn.data import DATASETS, Dataset, FolderSource, Source, load, load_source
from fedmrn.errors import ConfigError, DataError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """The folder with Fashion-MNIST's official files."""
    if not (REAL / "fashion-mnist").is_dir():
        pytest.skip("Fashion-MNIST's files are not next to the repository, in ../shared/data/fashion-mnist")
    return REAL


@pytest.fixture
def no_network(monkeypatch):
    """Fail any download; collect what was asked for."""
    asked = []

    def refuse(url, *_, **__):
        asked.append(url)
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("pooch.retrieve", refuse)
    monkeypatch.setattr("pooch.HTTPDownloader", lambda **_: None)  # the real one wants tqdm for its bar
    return asked


@pytest.mark.parametrize("folder", ["fashion-mnist", "."])
def test_files_are_found_in_both_places(tmp_path, folder, no_network):
    source, blobs, arrays = tiny_idx()
    write(source, blobs, tmp_path / folder)
    data = load_source(source, tmp_path)
    np.testing.assert_array_equal(data.train_x.numpy(), arrays[0][:, None])
    np.testing.assert_array_equal(data.train_y.numpy(), arrays[1])
    np.testing.assert_array_equal(data.test_x.numpy(), arrays[2][:, None])
    np.testing.assert_array_equal(data.test_y.numpy(), arrays[3])
    assert (data.train_x.dtype, data.train_y.dtype) == (torch.uint8, torch.int64)
    assert no_network == []


def test_its_own_folder_comes_first(tmp_path):
    source, blobs, _ = tiny_idx()
    write(source, blobs, tmp_path / source.name)
    write(source, [b"another data set's"] * 4, tmp_path)
    assert len(load_source(source, tmp_path, download=False).train_x) == 20


def test_missing_files_are_named_with_their_source(tmp_path):
    source, blobs, _ = tiny_idx()
    write(source, blobs, tmp_path)
    gone = source.files[2]
    (tmp_path / gone.name).unlink()
    with pytest.raises(DataError) as caught:
        load_source(source, tmp_path, download=False)
    message = str(caught.value)
    assert f"put {gone.name} (from {gone.url}) into {tmp_path / 'fashion-mnist'}" in message
    assert source.files[0].name not in message
    assert list(tmp_path.glob("fashion*")) == []  # asking without download leaves nothing behind


def test_a_failed_download_is_one_line(tmp_path, no_network):
    with pytest.raises(DataError, match="no route to host") as caught:
        load("cifar10", tmp_path)
    assert "\n" not in str(caught.value)
    assert "cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in str(caught.value)
    assert len(no_network) == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda b: b[:-1], r"expected \d+ bytes, found \d+"),
        (lambda b: b + b"x", r"expected \d+ bytes, found \d+"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), r"expected MD5 \w{32}, found \w{32}"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, what):
    source, blobs, _ = tiny_idx()
    blobs[3] = change(blobs[3])
    write(source, blobs, tmp_path / source.name)
    with pytest.raises(DataError, match=rf"t10k-labels.* is damaged: {what}; delete it or download"):
        load_source(source, tmp_path)


def test_the_digest_is_in_the_message(tmp_path):
    source, blobs, _ = tiny_idx()
    wrong = blobs[0][:-1] + bytes([blobs[0][-1] ^ 1])
    write(source, [wrong, *blobs[1:]], tmp_path)
    found = describe(source, [wrong, *blobs[1:]]).files[0].md5
    with pytest.raises(DataError) as caught:
        load_source(source, tmp_path)
    assert f"expected MD5 {source.files[0].md5}, found {found}" in str(caught.value)
    assert f"put the right one into {tmp_path / 'fashion-mnist'}" in str(caught.value)


def test_an_unreadable_file_is_reported(tmp_path, monkeypatch):
    source, blobs, _ = tiny_idx()
    write(source, blobs, tmp_path)

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("fedmrn.files._open", refuse)
    with pytest.raises(DataError, match=r"train-images.* cannot be read: Permission denied; check its perm"):
        load_source(source, tmp_path)


def test_sound_files_with_wrong_labels_are_refused(tmp_path):
    source, blobs, arrays = tiny_idx()
    blobs[3] = zipped(idx(np.full_like(arrays[3], 10)))
    source = describe(source, blobs)
    write(source, blobs, tmp_path)
    with pytest.raises(DataError, match="test labels are not 7 numbers from 0 to 9"):
        load_source(source, tmp_path)


@pytest.mark.parametrize("change", [{"train": 21}, {"shape": (1, 4, 4)}])
def test_a_reader_is_held_to_the_catalogue(tmp_path, change):
    source = DATASETS["digits"]
    with pytest.raises(DataError, match="train images are float32 of shape"):
        load_source(replace(source, **change), tmp_path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine for a folder: (folder, address)."""
    pytest.importorskip("tqdm", reason="the progress bar of downloads needs tqdm")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{web.server_port}/"
        web.shutdown()
        thread.join()


def served(source, address):
    return replace(source, files=tuple(replace(file, url=address + file.name) for file in source.files))


def test_downloads_what_is_absent(tmp_path, server, capfd):
    folder, address = server
    source, blobs, arrays = tiny_idx()
    write(source, blobs, folder)
    data_dir = tmp_path / "data" / "deeper"
    data = load_source(served(source, address), data_dir)
    np.testing.assert_array_equal(data.test_x.numpy(), arrays[2][:, None])
    assert sorted(path.name for path in (data_dir / "fashion-mnist").iterdir()) == sorted(
        file.name for file in source.files
    )
    assert "100%" in capfd.readouterr().err
    for path in folder.iterdir():
        path.unlink()
    assert len(load_source(served(source, address), data_dir).train_x) == 20  # and not twice


def test_a_download_with_other_bytes_is_not_kept(tmp_path, server):
    folder, address = server
    source, blobs, _ = tiny_idx()
    write(source, [blobs[0], *[blob + b"x" for blob in blobs[1:]]], folder)
    with pytest.raises(DataError, match=r"download failed: put train-labels.*t10k-labels.*hash"):
        load_source(served(source, address), tmp_path)
    assert [path.name for path in (tmp_path / "fashion-mnist").iterdir()] == [source.files[0].name]


def test_a_missing_page_is_reported(tmp_path, server):
    source, _, _ = tiny_idx()
    with pytest.raises(DataError, match="404"):
        load_source(served(source, server[1]), tmp_path)


@pytest.mark.parametrize(
    ("name", "near"), [("cifar-10", "cifar10"), ("fashion_mnist", "fashion-mnist"), ("Digits", "digits")]
)
def test_unknown_names_suggest_the_nearest(tmp_path, name, near):
    with pytest.raises(ConfigError, match=f"data set '{name}' does not exist; did you mean '{near}'"):
        load(name, tmp_path)


def test_a_hopeless_name_lists_all(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load("zzz", tmp_path)
    assert "did you mean" not in str(caught.value)
    assert all(name in str(caught.value) for name in DATASETS)


def test_digits(tmp_path, no_network):
    data = load("digits", tmp_path)
    assert data.train_x.shape == (1255, 1, 8, 8)
    assert data.test_x.shape == (542, 1, 8, 8)
    assert data.train_x.dtype == torch.float32
    assert (data.train_x.min(), data.train_x.max()) == (0, 1)
    assert list(tmp_path.iterdir()) == []
    share = torch.bincount(data.test_y) / (torch.bincount(data.test_y) + torch.bincount(data.train_y))
    assert (share - 0.3).abs().max() < 0.005  # stratified: nearly the same share of each class
    assert data.mean_train[0] == pytest.approx(float(data.train_x.double().mean()), abs=5e-5)
    assert data.std_train[0] == pytest.approx(float(data.train_x.double().std(correction=0)), abs=5e-5)
    # The split is part of the data set. Accuracies would change with it, so it is pinned.
    assert data.test_y[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 5, 0]
    both = torch.cat([data.train_x, data.test_x]).flatten(1).sum(1)
    assert float(both.sum()) * 16 == pytest.approx(561_718)


def test_digits_are_those_that_scikit_learn_reads(tmp_path):
    """The reader opens the file without the package: it must be the same file, read the same way."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - a second, for this test alone

    data, bunch = load("digits", tmp_path), load_digits()
    for label in range(10):
        mine = torch.cat([data.train_x[data.train_y == label], data.test_x[data.test_y == label]]) * 16
        theirs = torch.from_numpy(bunch.images[bunch.target == label]).float()[:, None]
        in_file = torch.cat(
            [theirs[3 * torch.arange(len(theirs)) % 10 >= 3], theirs[3 * torch.arange(len(theirs)) % 10 < 3]]
        )
        assert torch.equal(mine, in_file)


def test_normalisation_is_the_formula():
    images = torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8).view(1, 1, 2, 2).repeat(2, 3, 1, 1)
    labels = torch.zeros(2, dtype=torch.int64)
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)
    data = Dataset("x", images, labels, images, labels, 1, mean, std, (0.2,), (0.1,), False)
    train, test = data.normalised_train(), data.normalised_test()
    assert train.dtype == test.dtype == torch.float32
    for channel in range(3):
        for (row, column), value in (((0, 0), 0.0), ((0, 1), 1.0), ((1, 0), 0.2), ((1, 1), 0.4)):
            expected = (value - mean[channel]) / std[channel]
            assert float(train[1, channel, row, column]) == pytest.approx(expected, abs=1e-6)
            assert float(test[1, channel, row, column]) == pytest.approx((value - 0.2) / 0.1, abs=2e-6)
    assert images[0, 0, 0, 1] == 255  # the stored images are left alone
    assert torch.equal(data.black().expand(3, 1, 1)[:, 0, 0], train[0, :, 0, 0])


def test_float_images_are_not_scaled_or_changed():
    images = torch.full((1, 1, 2, 2), 0.75)
    data = Dataset("x", images, torch.zeros(1).long(), images, torch.zeros(1).long(), 1, *[(0.25,)] * 4, False)
    assert torch.equal(data.normalised_train(), torch.full((1, 1, 2, 2), 2.0))
    assert torch.equal(images, torch.full((1, 1, 2, 2), 0.75))


def test_published_constants():
    # The settings of the published experiments; SVHN's and Fashion-MNIST's test images have their own.
    published = {name: row for name, row in DATASETS.items() if isinstance(row, Source)}
    constants = {name: (row.mean_train, row.std_train, row.mean_test, row.std_test) for name, row in published.items()}
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    cifar100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    assert constants["cifar10"] == imagenet * 2
    assert constants["cifar100"] == cifar100 * 2
    assert constants["fashion-mnist"] == ((0.2860,), (0.3530,), (0.2868,), (0.3524,))
    assert constants["svhn"] == ((0.4496,), (0.1995,), (0.4560,), (0.2244,))
    assert constants["mnist"] == ((0.1307,), (0.3081,)) * 2
    assert {name for name, row in published.items() if row.augment} == {"cifar10", "cifar100"}


def test_catalogue_is_complete_and_frozen():
    assert list(DATASETS) == [
        "digits",
        "fashion-mnist",
        "mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "shakespeare",
        "banking77",
        "voc",
    ]
    for name, row in DATASETS.items():
        assert row.name == name
        assert row.licence
        assert row.description
        if isinstance(row, FolderSource):
            assert row.expects
            continue
        assert row.download_bytes == sum(file.size for file in row.files)
        for file in row.files:
            assert len(bytes.fromhex(file.md5)) == 16
            assert file.url.endswith("/" + file.name)
    digests = [file.md5 for row in DATASETS.values() if isinstance(row, Source) for file in row.files]
    assert len(set(digests)) == len(digests) == 12
    with pytest.raises(FrozenInstanceError):
        DATASETS["mnist"].train = 1
    with pytest.raises(TypeError):
        DATASETS["mnist"] = DATASETS["digits"]


def test_real_fashion_mnist(real_data):
    data = load("fashion-mnist", real_data, download=False)
    assert data.train_x.shape == (60_000, 1, 28, 28)
    assert data.test_x.shape == (10_000, 1, 28, 28)
    assert torch.bincount(data.train_y).tolist() == [6000] * 10
    assert torch.bincount(data.test_y).tolist() == [1000] * 10
    assert data.train_y[:5].tolist() == [9, 0, 0, 3, 0]
    # The published constants are those of the images, to their four digits.
    for images in (data.normalised_train(), data.normalised_test()):
        assert abs(float(images.mean())) < 5e-4
        assert abs(float(images.std()) - 1) < 5e-4
