import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from data_samples import archive, describe, python2_pickle, tar_gz, tiny_cifar, write, zipped

from fedmrn.data import load_source
from fedmrn.data.cifar import read_members
from fedmrn.data.pickles import read_batch
from fedmrn.errors import DataError

SHAPE = (4, 6)
IMAGES = np.arange(24, dtype=np.uint8).reshape(SHAPE)
LABELS = [3, 0, 9, 1]
GOOD = python2_pickle(IMAGES, LABELS, b"labels")


def read(blob: bytes):
    return read_batch(blob, SHAPE, b"labels", "batch")


@pytest.mark.parametrize("fortran", [False, True])
def test_reads_what_python_2_wrote(fortran):
    images, labels = read(python2_pickle(IMAGES, LABELS, b"labels", fortran))
    np.testing.assert_array_equal(images, IMAGES)
    assert images.flags.c_contiguous
    assert images.flags.writeable
    assert labels.dtype == np.int64
    assert labels.tolist() == LABELS


@pytest.mark.parametrize("protocol", [3, 4])
def test_reads_what_today_s_numpy_writes(protocol):
    images, labels = read(pickle.dumps({b"data": IMAGES, b"labels": LABELS}, protocol))
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == LABELS


def test_the_hand_written_pickle_is_a_real_one():
    # If the opcodes above were wrong, the tests that use them would prove nothing.
    found = pickle.loads(GOOD.replace(b"numpy.core.multi", b"numpy._core.multi"), encoding="bytes")  # noqa: S301
    np.testing.assert_array_equal(found[b"data"], IMAGES)
    assert found[b"labels"] == LABELS


class Reduce:
    """Pickles to a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("where", ["root", "value", "key"])
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol, where):
    victim = tmp_path / "victim"
    attack = Reduce(os.mkdir, str(victim))
    holder = {"root": attack, "value": {"data": attack}, "key": {(attack,): 1}}[where]
    blob = pickle.dumps(holder, protocol)
    with pytest.raises(DataError, match=r"asks for \w+\.mkdir"):
        read(blob)
    assert not victim.exists()
    pickle.loads(blob)  # noqa: S301 - the attack is a real one: the plain reader falls for it
    assert victim.exists()


@pytest.mark.parametrize(
    "call",
    [(os.system, "true"), (eval, "1"), (getattr, 1, "real"), (__import__, "os"), (np.frombuffer, b"1")],
)
def test_other_names_are_refused(call):
    with pytest.raises(DataError, match="which no data needs"):
        read(pickle.dumps(Reduce(*call)))


@pytest.mark.parametrize(
    "name",
    [b"numpy\nload", b"numpy.core.multiarray\nscalar", b"numpy\ndtype.type", b"fedmrn.errors\nDataError"],
)
def test_neighbours_of_the_allowed_names_are_refused(name):
    with pytest.raises(DataError, match="which no data needs"):
        read(b"\x80\x02c" + name + b"\n.")
    short = b"".join(b"\x8c" + bytes([len(part)]) + part for part in name.split(b"\n"))
    with pytest.raises(DataError, match="which no data needs"):
        read(b"\x80\x04" + short + b"\x93.")


def batch(**changes):
    return pickle.dumps({b"data": IMAGES, b"labels": LABELS} | {k.encode(): v for k, v in changes.items()}, 4)


@pytest.mark.parametrize(
    ("blob", "what"),
    [
        (b"", "not a CIFAR batch"),
        (GOOD[:-1], "not a CIFAR batch"),
        (GOOD + b"x", "not a CIFAR batch"),
        (pickle.dumps([1, 2]), "not a CIFAR batch"),
        (pickle.dumps({b"data": IMAGES}, 4), "not a CIFAR batch"),
        (pickle.dumps({b"labels": LABELS}), "not a CIFAR batch"),
        (batch(data=IMAGES.tolist()), "not a CIFAR batch"),
        (batch(data=IMAGES.astype(np.float64)), "not one of unsigned bytes"),
        (batch(data=IMAGES.astype(object)), "not one of unsigned bytes"),
        (batch(data=IMAGES[:3]), r"shape \(3, 6\), expected \(4, 6\)"),
        (batch(data=IMAGES.reshape(6, 4)), r"shape \(6, 4\)"),
        (batch(labels=LABELS[:3]), "does not hold 4 labels"),
        (batch(labels=[0, 1, 2, -1]), "does not hold 4 labels"),
        (batch(labels=[0, 1, 2, 1 << 70]), "does not hold 4 labels"),
        (batch(labels=[0, 1, 2, 1.5]), "does not hold 4 labels"),
        (batch(labels=[0, 1, 2, True]), "does not hold 4 labels"),
        (GOOD.replace(IMAGES.tobytes(), b"")[:-1], "not a CIFAR batch"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.", "not a CIFAR batch"),  # a string of 2^60 bytes
        (b"\x80\x02}r\xff\xff\xff\x7f.", "place 2147483647 of the memo"),  # 32 GB for a memo of one
        (b"}p98765432109\n.", "place 98765432109 of the memo"),
        (
            b"\x80\x02cnumpy\ndtype\n}(U\x04codeU\x01xub.",
            "not a CIFAR batch",
        ),  # state set on the class itself
    ],
)
def test_damaged_batches_are_refused(blob, what):
    with pytest.raises(DataError, match=what) as caught:
        read(blob)
    assert "\n" not in str(caught.value)


def test_an_array_with_other_bytes_than_its_shape_is_refused():
    raw = b"T" + (24).to_bytes(4, "little") + IMAGES.tobytes()
    assert raw in GOOD
    with pytest.raises(DataError, match=r"shape \(4, 6\), expected \(4, 6\)|does not fill"):
        read(GOOD.replace(raw, b"T" + (23).to_bytes(4, "little") + IMAGES.tobytes()[:23]))


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_archive(tmp_path, name):
    source, blobs, batches = tiny_cifar(name)
    write(source, blobs, tmp_path / name)
    data = load_source(source, tmp_path, download=False)
    expected_x = np.concatenate([batches[member][0] for member in source.read.train]).reshape(-1, 3, 32, 32)
    expected_y = [label for member in source.read.train for label in batches[member][1]]
    np.testing.assert_array_equal(data.train_x.numpy(), expected_x)
    assert data.train_y.tolist() == expected_y
    assert data.test_x.shape == (3, 3, 32, 32)
    assert data.test_x.dtype == torch.uint8
    assert data.test_y.tolist() == batches[source.read.test[0]][1]
    assert data.augment
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([name, source.files[0].name])


def test_members_are_found_by_exact_name():
    blob = tar_gz({"a/x": b"1", "x": b"2", "a/x/../y": b"3", "/x": b"4"})
    assert read_members(blob, ["x"], 10, "t") == {"x": b"2"}


def test_padding_behind_the_end_is_allowed():
    # tar pads to whole records, of a size that the writer chooses.
    assert read_members(zipped(gzip.decompress(WHOLE) + bytes(20_480)), ["x"], 4000, "t") == {"x": NOISE}


def special(kind: bytes, name: str = "x", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/hostname"
    return archive((info, bytes(size)))


TWICE = archive((tarfile.TarInfo("x"), b"1"), (tarfile.TarInfo("x"), b"2"))
NOISE = np.random.default_rng(0).bytes(3000)
WHOLE = tar_gz({"x": NOISE})


@pytest.mark.parametrize(
    ("blob", "what"),
    [
        (b"", "not a sound archive"),
        (zipped(b""), "not a sound archive"),
        (WHOLE + b"x", "not a sound archive"),
        (b"text", "not a sound archive"),
        (zipped(b"text" * 999), "not a sound archive"),
        (tar_gz({"y": b"1"}), "lacks x"),
        (tar_gz({"x": bytes(4001)}), "repeated, too large or not a file"),
        (TWICE, "repeated, too large or not a file"),
        (special(tarfile.SYMTYPE), "repeated, too large or not a file"),
        (special(tarfile.LNKTYPE), "repeated, too large or not a file"),
        (special(tarfile.DIRTYPE), "repeated, too large or not a file"),
        (special(tarfile.FIFOTYPE), "repeated, too large or not a file"),
        (tar_gz({"bomb": bytes(1 << 20), "x": b"1"}), "inflates to more"),
        (zipped(gzip.decompress(WHOLE) + bytes(1 << 20)), "inflates to more"),
        (WHOLE[: len(WHOLE) // 2], "not a sound archive"),
        (WHOLE[:1500] + b"\xff" * 8 + WHOLE[1508:], "not a sound archive"),
    ],
)
def test_damaged_archives_are_refused(blob, what):
    with pytest.raises(DataError, match=what):
        read_members(blob, ["x"], 4000, "t")


def test_a_malicious_archive_runs_nothing(tmp_path):
    source, _, _ = tiny_cifar()
    victim = tmp_path / "victim"
    attack = pickle.dumps(Reduce(os.mkdir, str(victim)))
    blob = tar_gz({f"{source.read.folder}/{name}": attack for name in (*source.read.train, *source.read.test)})
    source = describe(source, [blob])
    write(source, [blob], tmp_path)
    with pytest.raises(DataError, match=r"cifar10: .*data_batch_1 .*mkdir"):
        load_source(source, tmp_path, download=False)
    assert not victim.exists()


def test_labels_beyond_the_classes_are_refused(tmp_path):
    source, _, batches = tiny_cifar()
    wrong = {name: python2_pickle(images, [10] * len(images), b"labels") for name, (images, _) in batches.items()}
    blob = tar_gz({f"{source.read.folder}/{name}": batch for name, batch in wrong.items()})
    source = describe(source, [blob])
    write(source, [blob], tmp_path)
    with pytest.raises(DataError, match="train labels are not 20 numbers from 0 to 9"):
        load_source(source, tmp_path, download=False)
