"""Data of a person's own: what is read, and that each mistake is told in a line with its cure."""

import io
import os
import pickle
import sys
import types
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from own_files import CLASSES, modules_of, write_pictures
from PIL import Image

from fedmrn.data.dataset import Dataset
from fedmrn.data.own import Wanted, load_own
from fedmrn.data.own.arrays import checked
from fedmrn.data.own.split import split
from fedmrn.data.source import Arrays
from fedmrn.errors import ConfigError, DataError

N = 12


def sound(**changes: Any) -> Arrays:
    rng = np.random.default_rng(1)
    whole = {
        "train_x": rng.random((N, 1, 8, 8), np.float32),
        "train_y": np.arange(N) % 3,
        "test_x": rng.random((6, 1, 8, 8), np.float32),
        "test_y": np.arange(6) % 3,
    }
    return Arrays(**(whole | changes))


def load(folder: Path, source: str, **more: Any) -> Dataset:
    return load_own(Wanted(name="mine", source=source, folder=folder, data_dir=folder / "data", **more))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    with modules_of(tmp_path) as folder:
        yield folder


class TestArrays:
    def test_sound_ones_are_taken_as_they_are(self) -> None:
        found = checked(sound(), "w")
        for mine, given_ in zip(found[:4], sound()[:4], strict=True):
            np.testing.assert_array_equal(mine, given_)
        assert found.train_y.dtype == np.int64

    @pytest.mark.parametrize(
        ("given_", "kind"),
        [
            (np.float64, np.float32),
            (np.float16, np.float32),
            (">f4", np.float32),
            (np.uint8, np.uint8),
        ],
    )
    def test_types_of_images(self, given_: Any, kind: Any) -> None:
        whole = sound()
        found = checked(sound(train_x=whole.train_x.astype(given_), test_x=whole.test_x.astype(given_)), "w")
        assert found.train_x.dtype == found.test_x.dtype == kind
        assert found.train_x.dtype.isnative

    def test_tokens_are_whole_numbers(self) -> None:
        tokens = np.arange(N * 5, dtype=np.uint16).reshape(N, 5)
        assert checked(sound(train_x=tokens, test_x=tokens[:6]), "w").train_x.dtype == np.int64

    def test_tensors_lists_and_views_are_arrays(self) -> None:
        whole = sound()
        frozen = whole.train_x[:, :, ::-1]
        frozen.flags.writeable = False
        found = checked(sound(train_x=frozen, train_y=torch.from_numpy(whole.train_y), test_y=[0, 1, 2] * 2), "w")
        np.testing.assert_array_equal(found.train_x, frozen)
        assert found.train_x.flags.c_contiguous
        assert found.train_x.flags.writeable

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"train_x": np.zeros(N)}, ["train_x has shape (12,)", "give (n, ...)"]),
            ({"train_x": 3}, ["train_x has shape ()"]),
            ({"test_x": np.zeros((0, 1, 8, 8), np.float32)}, ["test_x is empty"]),
            ({"train_x": np.zeros((N, 8, 9, 3), np.uint8)}, ["channels last", "x.transpose(0, 3, 1, 2)"]),
            ({"train_x": np.zeros((N, 28, 28), np.uint8)}, ["uint8 of shape (12, 28, 28)", "x[:, None]"]),
            ({"train_x": np.zeros((N, 1, 8, 8), np.int64)}, ["train_x is int64", "x.astype(np.float32)"]),
            ({"train_x": np.zeros((N, 4), bool)}, ["train_x is bool"]),
            ({"train_x": np.zeros((N, 4), complex)}, ["train_x is complex128"]),
            ({"train_x": np.full((N, 4), "a")}, ["train_x is <U1"]),
            ({"train_x": np.full((N, 4), 1 << 63, np.uint64)}, ["beyond int64"]),
            ({"train_x": np.array([[{}]] * N)}, ["train_x is an array of Python objects"]),
            ({"train_x": [[1], [2, 3]]}, ["train_x is no array"]),
            ({"train_x": torch.zeros(N, 4, requires_grad=True)}, ["train_x is no array", "detach"]),
            ({"train_x": np.zeros((N + 1, 1, 8, 8), np.float32)}, ["train_x has 13 samples, and train_y 12 labels"]),
            ({"test_x": np.zeros((6, 1, 4, 8), np.float32)}, ["shape (1, 8, 8)", "shape (1, 4, 8)", "alike"]),
            ({"test_x": np.zeros((6, 1, 8, 8), np.uint8)}, ["train_x are float32", "test_x uint8"]),
            ({"train_y": np.arange(N) % 3 / 1.0}, ["train_y is float64", "y.astype(np.int64)"]),
            ({"train_y": np.array(["a", "b", "c"] * 4)}, ["train_y is <U1", "return_inverse"]),
            ({"train_y": np.arange(N)[:, None] % 3}, ["train_y has shape (12, 1)", "y[:, 0]"]),
            ({"train_y": np.eye(3, dtype=int)[np.arange(N) % 3]}, ["train_y has shape (12, 3)", "y.argmax(1)"]),
            ({"train_y": np.zeros((N, 2, 2), int)}, ["train_y has shape (12, 2, 2)"]),
            ({"train_y": np.arange(N) % 3 + 1}, ["labels up to 3, and no 0", "without a gap"]),
            ({"train_y": np.arange(N) % 3 * 2}, ["labels up to 4, and no 1"]),
            ({"train_y": np.arange(N) % 3 - 1}, ["train_y has label -1"]),
            ({"train_y": np.arange(N) % 3 * 10**9}, ["labels up to 2000000000, and no 1"]),
            ({"train_y": np.zeros(N, int), "test_y": np.zeros(6, int)}, ["one class only"]),
            ({"test_y": np.array([0, 1, 2, 3, 0, 1])}, ["test_y has label 3, which train_y has not"]),
            ({"train_x": np.ma.masked_equal(np.arange(4.0 * N).reshape(N, 4), 3)}, ["train_x has masked values"]),
            ({"train_y": np.ma.masked_equal(np.arange(N) % 3, 2)}, ["train_y has masked values"]),
            ({"train_y": np.full(N, 1 << 63, np.uint64)}, ["train_y has label 9223372036854775808"]),
            ({"roles": None}, ["roles are a NoneType"]),
            ({"roles": 5}, ["roles are a int"]),
            ({"roles": (np.array([0, N]),)}, ["roles must be indices"]),
            ({"roles": (np.array([0.5]),)}, ["roles must be indices"]),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
    )
    def test_mistakes(self, changes: dict[str, Any], words: list[str]) -> None:
        with pytest.raises(DataError) as caught:
            checked(sound(**changes), "here")
        for word in ("here", *words):
            assert word in str(caught.value)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
    def test_values_that_are_not_finite_are_found(self, value: float) -> None:
        x = sound().train_x.astype(np.float64)
        x[7, 0, 3, 3] = value
        with pytest.raises(DataError, match=r"not finite .*first in sample 7"):
            checked(sound(train_x=x), "w")


class TestSplit:
    @given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 99))
    def test_every_sample_is_in_one_part_and_every_label_in_both(
        self, counts: list[int], share: float, seed: int
    ) -> None:
        labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
        train, test = split(labels, share, seed, "w")
        assert sorted([*train, *test]) == list(range(len(labels)))
        for label, count in enumerate(counts):
            there = int((labels[test] == label).sum())
            assert 1 <= there < count
            assert abs(there - share * count) <= 1

    def test_the_seed_and_nothing_else_decides(self) -> None:
        labels = np.arange(60, dtype=np.int64) % 3
        parts = [split(labels, 0.2, seed, "w")[1].tolist() for seed in (0, 0, 1)]
        assert parts[0] == parts[1] != parts[2]
        assert parts[0][:4] == [3, 4, 9, 19]  # accuracies would change with it, so it is pinned

    def test_a_lone_sample_is_told(self) -> None:
        with pytest.raises(DataError, match="w: label 1 has one sample"):
            split(np.array([0, 0, 1]), 0.5, 0, "w")


class TestFolder:
    def test_classes_are_numbered_in_alphabetical_order(self, here: Path) -> None:
        for part in ("train", "test"):
            write_pictures(here / "p" / part)
        (here / "p" / ".hidden").mkdir()
        (here / "p/train/.DS_Store").write_text("")
        (here / "p/train/cross/.thumb").write_text("")
        data = load(here, "p")
        assert data.class_names == CLASSES
        assert (data.train_x.shape, data.train_x.dtype) == ((12, 1, 8, 8), torch.uint8)
        assert data.train_y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert (data.name, data.classes, data.task, data.augment, data.published) == ("mine", 3, "images", False, False)
        with Image.open(here / "p/test/cross/2.png") as image:
            np.testing.assert_array_equal(data.test_x[6, 0].numpy(), np.asarray(image))

    def test_images_are_normalised_by_their_own_statistics(self, here: Path) -> None:
        for part in ("train", "test"):
            write_pictures(here / "p" / part, mode="RGB")
        data = load(here, "p")
        assert data.train_x.shape == (12, 3, 8, 8)
        x = data.train_x.double() / 255
        np.testing.assert_allclose(data.mean_train, x.mean((0, 2, 3)), rtol=1e-12)
        np.testing.assert_allclose(data.std_train, x.std((0, 2, 3), correction=0), rtol=1e-12)
        assert (data.mean_test, data.std_test) == (data.mean_train, data.std_train)

    def test_a_channel_without_variance_is_shifted_only(self, here: Path) -> None:
        for part, name in (("train", "a"), ("train", "b"), ("test", "a")):
            (here / "p" / part / name).mkdir(parents=True)
            Image.new("L", (4, 4), 51).save(here / "p" / part / name / "0.png")
        assert torch.equal(load(here, "p").normalised_train(), torch.zeros(2, 1, 4, 4))

    @pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
    def test_names_of_the_part_for_testing(self, here: Path, name: str) -> None:
        write_pictures(here / "p/train")
        write_pictures(here / "p" / name, classes=CLASSES[1:], count=2)
        assert load(here, "p").test_y.tolist() == [1, 1, 2, 2]

    def test_one_folder_is_shared_by_a_seed_of_its_own(self, here: Path) -> None:
        write_pictures(here / "p", count=10)
        whole, again, other = (load(here, "p", test_share=0.3, split_seed=seed) for seed in (0, 0, 1))
        assert Counter(whole.test_y.tolist()) == {0: 3, 1: 3, 2: 3}
        assert whole.digest() == again.digest() != other.digest()
        every = {x.numpy().tobytes() for x in (*whole.train_x, *whole.test_x)}
        assert len(every) == 30, "no picture is in both"

    def test_pictures_of_several_sizes_are_scaled_when_asked(self, here: Path) -> None:
        write_pictures(here / "p")
        pixels = np.zeros((6, 10), np.uint8)
        pixels[:, 2:8] = 200  # the middle square
        Image.fromarray(pixels).save(here / "p/cross/wide.png")
        with pytest.raises(DataError, match=r"wide\.png is of 10x6 pixels, .*\.png of 8x8: set data\.image_size"):
            load(here, "p")
        data = load(here, "p", image_size=4)
        assert data.shape == (1, 4, 4)
        assert any((x == 200).all() for x in torch.cat([data.train_x, data.test_x]))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
    def test_modes(self, here: Path, mode: str) -> None:
        for part in ("train", "test"):
            write_pictures(here / "p" / part, count=1)
        suffix = "tif" if mode == "CMYK" else "png"
        Image.new("L", (8, 8), 255).convert(mode).save(here / f"p/train/cross/1.{suffix}")
        data = load(here, "p")
        assert data.shape[0] == (1 if mode in ("1", "L", "LA") else 3)
        assert (data.train_x[2] == 255).all()

    def _empty(self, folder: Path) -> None:
        (folder / "triangle").mkdir()

    def _note(self, folder: Path) -> None:
        (folder / "cross/notes.txt").write_text("x")

    def _damaged(self, folder: Path) -> None:
        (folder / "cross/9.png").write_bytes((folder / "cross/0.png").read_bytes()[:60])

    def _other(self, folder: Path) -> None:
        (folder / "cross/9.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")

    def _deep(self, folder: Path) -> None:
        Image.fromarray(np.zeros((8, 8), np.uint16)).save(folder / "cross/9.png")

    def _huge(self, folder: Path) -> None:
        (folder / "cross/9.ppm").write_bytes(b"P6 9000 9000 255\nx")

    def _bomb(self, folder: Path) -> None:
        (folder / "cross/9.ppm").write_bytes(b"P6 100000 100000 255\nx")

    def _loose(self, folder: Path) -> None:
        (folder / "0.png").write_bytes((folder / "cross/0.png").read_bytes())

    def _gone(self, folder: Path) -> None:
        (folder / "cross/9.png").symlink_to(folder / "nowhere.png")

    def _pipe(self, folder: Path) -> None:
        os.mkfifo(folder / "cross/9.png")

    def _inner(self, folder: Path) -> None:
        (folder / "cross/more").mkdir()

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (_empty, ["triangle", "a class without a picture", "delete the folder"]),
            (_note, ["notes.txt", "is not a picture", "move it out"]),
            (_damaged, ["9.png", "not a sound picture", "replace or delete"]),
            (_other, ["9.png", "no picture of a format that is read"]),
            (_deep, ["9.png", "more than 8 bits"]),
            (_huge, ["9.ppm", "9000x9000 pixels", "scale it"]),
            (_bomb, ["9.ppm", "10000000000 pixels"]),
            (_loose, ["0.png lies beside the folders"]),
            (_inner, ["more", "is not a picture"]),
            (_gone, ["9.png cannot be read", "; replace or delete it"]),
            (_pipe, ["9.png is not a regular file", "; replace or delete it"]),
        ],
        ids=lambda value: value.__name__ if callable(value) else "",
    )
    @pytest.mark.parametrize("parted", [False, True])
    def test_mistakes(
        self, here: Path, spoil: Callable[["TestFolder", Path], None], words: list[str], parted: bool
    ) -> None:
        folder = here / "p/train" if parted else here / "p"
        write_pictures(folder)
        if parted:
            write_pictures(here / "p/test")
        spoil(self, folder)
        with pytest.raises(DataError) as caught:
            load(here, "p")
        for word in words:
            assert word in str(caught.value)
        assert str(caught.value).isprintable()

    def test_missing_parts_and_classes(self, here: Path) -> None:
        (here / "p").mkdir()
        with pytest.raises(DataError, match="p has no folder: it must have one for each class"):
            load(here, "p")
        write_pictures(here / "p", classes=("a",))
        with pytest.raises(DataError, match="the folder a only"):
            load(here, "p")
        write_pictures(here / "q/train")
        with pytest.raises(DataError, match="train and none for testing: add test"):
            load(here, "q")
        write_pictures(here / "q/test", classes=("cross", "star"))
        with pytest.raises(DataError, match=r"star is a class that .*train has not"):
            load(here, "q")


def save(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


class TestNpz:
    def test_four_arrays_by_either_name(self, here: Path) -> None:
        whole = sound()
        save(here / "a.npz", **dict(zip(Arrays._fields, whole[:4], strict=False)))
        save(here / "b.npz", x_train=whole[0], y_train=whole[1], x_test=whole[2], y_test=whole[3], other=np.zeros(3))
        for name in ("a.npz", "b.npz", str(here / "a.npz")):
            data = load(here, name)
            np.testing.assert_array_equal(data.train_x.numpy(), whole.train_x)
            np.testing.assert_array_equal(data.test_y.numpy(), whole.test_y)
            assert data.mean_train == ()
            assert torch.equal(data.normalised_train(), data.train_x)

    def test_two_arrays_are_shared(self, here: Path) -> None:
        np.savez_compressed(here / "a.npz", x=np.arange(60.0).reshape(30, 2), y=np.arange(30, dtype=np.uint8) % 3)
        data = load(here, "a.npz", test_share=0.5)
        assert (len(data.train_y), len(data.test_y), data.task, data.shape) == (15, 15, "samples", (2,))

    def test_wrong_ones_in_one_piece_are_told_as_the_others(self, here: Path) -> None:
        save(here / "a.npz", x=np.zeros((6, 2)), y=np.arange(6) / 2)
        with pytest.raises(DataError, match="train_y is float64"):
            load(here, "a.npz")

    def test_objects_are_not_unpickled(self, here: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (here / "victim",))

        save(here / "a.npz", x=np.array([Attack()] * 4, object), y=np.arange(4))
        with pytest.raises(DataError, match="x holds Python objects, a pickle"):
            load(here, "a.npz")
        assert not (here / "victim").exists()
        pickle.loads(pickle.dumps(Attack()))  # noqa: S301 - the attack is a real one
        assert (here / "victim").exists()

    @staticmethod
    def _declared(shape: tuple[int, ...], body: bytes, dtype: str = "<f8") -> bytes:
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
        return buffer.getvalue() + body

    @pytest.mark.parametrize(
        ("member", "words"),
        [
            (_declared((1 << 40, 2), b""), "declares 17592186044416 bytes and holds others"),
            (_declared((4, 2), b"x" * 8), "declares 64 bytes and holds others"),
            (_declared((4, 2), b"x" * 65), "declares 64 bytes and holds others"),
            (b"\x93NUMPY\x09\x00rest", "a version of .npy that is not read"),
            (b"no array", "not a sound .npz file"),
            (b"", "not a sound .npz file"),
        ],
    )
    def test_sizes_are_checked_before_anything_is_allocated(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, member: bytes, words: str
    ) -> None:
        monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read before it was checked"))
        with zipfile.ZipFile(here / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", member)
            archive.writestr("y.npy", member)
        with pytest.raises(DataError) as caught:
            load(here, "a.npz")
        assert words in str(caught.value)

    def test_a_size_that_no_packing_gives_is_refused(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The directory of the file says two gigabytes, as the array's header does; a few bytes are there."""
        member = self._declared((1 << 28,), bytes(70))
        with zipfile.ZipFile(here / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", member)
            archive.writestr("y.npy", member)
        honest, lie = len(member), len(member) - 70 + (8 << 28)
        blob = (here / "a.npz").read_bytes()
        assert blob.count(honest.to_bytes(4, "little")) == 4
        (here / "a.npz").write_bytes(blob.replace(honest.to_bytes(4, "little"), lie.to_bytes(4, "little")))
        monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("read before it was checked"))
        with pytest.raises(DataError, match="x declares 2147483648 bytes and holds others"):
            load(here, "a.npz")

    @pytest.mark.parametrize("blob", [b"", b"text", b"PK\x03\x04" + b"x" * 99])
    def test_what_is_no_such_file(self, here: Path, blob: bytes) -> None:
        (here / "a.npz").write_bytes(blob)
        with pytest.raises(DataError, match=r"a\.npz is not a sound \.npz file"):
            load(here, "a.npz")

    def test_a_file_cut_off_or_changed(self, here: Path) -> None:
        save(here / "a.npz", x=np.random.default_rng(0).random((40, 5)), y=np.arange(40) % 2)
        blob = (here / "a.npz").read_bytes()
        for spoilt in (blob[:-30], blob[:500] + b"xxxx" + blob[504:]):
            (here / "a.npz").write_bytes(spoilt)
            with pytest.raises(DataError, match="not a sound"):
                load(here, "a.npz")

    def test_a_message_is_one_line(self, here: Path) -> None:
        """What zipfile says of a name may have several: found by fuzzing."""
        with zipfile.ZipFile(here / "a.npz", "w") as archive:
            archive.writestr("a\nb.npy", b"")
        with pytest.raises(DataError) as caught:
            load(here, "a.npz")
        assert str(caught.value).isprintable()

    def test_names_that_are_not_there(self, here: Path) -> None:
        save(here / "a.npz", images=np.zeros(3), labels=np.zeros(3))
        with pytest.raises(DataError, match="holds images, labels: give train_x"):
            load(here, "a.npz")


class TestFunction:
    def test_what_it_returns_is_the_data(self, here: Path) -> None:
        (here / "blobs_a.py").write_text(
            "import numpy as np\nfrom helper_a import SHIFT\n"
            "def load(data_dir, n=12):\n"
            "    assert data_dir.name == 'data'\n"
            "    x = np.arange(n * 2.0).reshape(n, 2) + SHIFT\n"
            "    return x, np.arange(n) % 2, x[:4], np.arange(4) % 2\n"
        )
        (here / "helper_a.py").write_text("SHIFT = 5\n")
        data = load(here, "blobs_a:load")
        assert data.train_x[0].tolist() == [5.0, 6.0]
        assert (data.classes, data.task) == (2, "samples")

    def test_roles_may_be_given_too(self, here: Path) -> None:
        (here / "blobs_b.py").write_text(
            "import numpy as np\nfrom fedmrn.data import Arrays\n"
            "def load():\n"
            "    x, y = np.zeros((6, 2)), np.arange(6) % 2\n"
            "    return Arrays(x, y, x, y, roles=(np.array([0, 1]), np.array([2, 3, 4, 5])))\n"
        )
        assert [role.tolist() for role in load(here, "blobs_b:load").roles] == [[0, 1], [2, 3, 4, 5]]

    @pytest.mark.parametrize(
        ("body", "kind", "words"),
        [
            ("return 1, 2, 3", DataError, ["returned 3 values (int, int, int)", "(train_x, train_y, test_x, test_y)"]),
            ("pass", DataError, ["returned a value of type NoneType", "it must return four arrays"]),
            ("return {}", DataError, ["returned a value of type dict"]),
            ("raise ValueError('no\\nfile')", DataError, ["raised an error: M.py, line 2: ValueError: no file"]),
            ("import sys; sys.exit(3)", DataError, ["raised an error: M.py, line 2: SystemExit: 3"]),
            ("import nowhere", DataError, ["ModuleNotFoundError: No module named 'nowhere'"]),
            ("return [0, 1, 2, 3]", DataError, ["train_x has shape ()"]),
        ],
    )
    def test_what_it_does_wrong(
        self, here: Path, request: pytest.FixtureRequest, body: str, kind: type[Exception], words: list[str]
    ) -> None:
        module = f"wrong_{abs(hash(request.node.name))}"
        (here / f"{module}.py").write_text(f"def load():\n    {body}\n")
        with pytest.raises(kind) as caught:
            load(here, f"{module}:load")
        for word in words:
            assert word.replace("M.py", f"{module}.py") in str(caught.value)
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("laoder_c:load", ["no module laoder_c", "did you mean 'loader_c'?"]),
            ("loader_c:laod", ["laod does not exist in", "did you mean 'load'?"]),
            ("loader_c:NUMBER", ["NUMBER cannot be called"]),
            ("loader_c.py:load", ["no module loader_c.py", "did you mean 'loader_c'?"]),
            ("loader_c:", ["is not module:name", "my_module:load"]),
            ("loader_c:a:b", ["is not module:name"]),
            ("load-er:x", ["is not module:name"]),
            ("json:load", ["Python takes json to be", "rename the latter"]),
            ("sys:path", ["Python takes sys to be a module of its own"]),
            ("loader_c:needs", ["needs path", "give them defaults", "data_dir"]),
            ("syntax_c:load", ["syntax_c.py, line 1: SyntaxError"]),
            ("imports_c:load", ["imports_c.py, line 1: ModuleNotFoundError: No module named 'nowhere'"]),
            ("ends_c:load", ["ends_c.py, line 1: SystemExit"]),
            ("xml.nowhere:load", ["no module xml.nowhere"]),
            ("time:load", ["load does not exist in time"]),
        ],
    )
    def test_names_that_lead_nowhere(self, here: Path, source: str, words: list[str]) -> None:
        (here / "loader_c.py").write_text("NUMBER = 3\ndef load(): ...\ndef needs(path): ...\n")
        (here / "syntax_c.py").write_text("def load(:\n")
        (here / "imports_c.py").write_text("import nowhere\n")
        (here / "ends_c.py").write_text("raise SystemExit\n")
        (here / "json.py").write_text("")
        (here / "sys.py").write_text("")
        with pytest.raises(ConfigError) as caught:
            load(here, source)
        for word in words:
            assert word in str(caught.value)
        assert str(caught.value).isprintable()


def test_a_source_that_is_not_there(here: Path) -> None:
    with pytest.raises(
        DataError, match=r"'digit' is neither in .* nor a data set that is known; did you mean 'digits'"
    ):
        load(here, "digit")
    (here / "table.csv").write_text("")
    with pytest.raises(DataError, match=r"table\.csv is a file and not \.npz"):
        load(here, "table.csv")


def test_the_digest_is_of_everything(here: Path) -> None:
    save(here / "a.npz", **dict(zip(Arrays._fields, sound()[:4], strict=False)))
    data = load(here, "a.npz")
    others = [
        replace(data, train_x=data.train_x + 1),
        replace(data, train_x=data.train_x.double()),
        replace(data, train_x=data.train_x.view(N, 1, 4, 16)),
        replace(data, test_y=data.test_y.flip(0)),
        replace(data, roles=(np.array([0]),)),
    ]
    assert len({each.digest() for each in (data, *others)}) == 6
    assert load(here, "a.npz").digest() == data.digest()


class FakeImage:
    def __init__(self, decode: bool = True) -> None: ...


class FakeLabels:
    def __init__(self, names: list[str]) -> None:
        self.names = names


class FakePart:
    """What is used of `datasets.Dataset`."""

    def __init__(self, features: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self.features, self.rows = features, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> list[Any]:
        return [row[column] for row in self.rows]

    def select_columns(self, names: list[str]) -> "FakePart":
        return FakePart({n: self.features[n] for n in names}, [{n: row[n] for n in names} for row in self.rows])

    def cast_column(self, name: str, kind: FakeImage) -> "FakePart":
        return self


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def part(count: int, **more: Any) -> FakePart:
    features = {"image": FakeImage(), "label": FakeLabels(["cat", "dog"])} | more
    rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 2} | dict.fromkeys(more) for i in range(count)]
    return FakePart(features, rows)


class TestSavedByHuggingFace:
    """With what is used of `datasets` in its place; `test_with_the_library_itself` has the real one."""

    @pytest.fixture
    def saved(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Dataset]:
        (here / "s").mkdir()
        (here / "s/dataset_dict.json").write_text("{}")

        def read(found: Any) -> Dataset:
            module = types.ModuleType("datasets")
            module.__dict__.update(Image=FakeImage, ClassLabel=FakeLabels, load_from_disk=lambda _: found)
            monkeypatch.setitem(sys.modules, "datasets", module)
            return load(here, "s")

        return read

    def test_parts(self, saved: Callable[[Any], Dataset]) -> None:
        data = saved({"train": part(6), "validation": part(4)})
        assert (data.shape, data.class_names) == ((1, 4, 4), ("cat", "dog"))
        assert data.train_x[5].unique().tolist() == [5]
        assert data.test_y.tolist() == [0, 1, 0, 1]

    def test_one_piece(self, saved: Callable[[Any], Dataset]) -> None:
        data = saved(part(20))
        assert (len(data.train_y), len(data.test_y)) == (16, 4)

    def test_a_picture_in_a_file_of_its_own(self, saved: Callable[[Any], Dataset], here: Path) -> None:
        (here / "7.png").write_bytes(png(77))
        whole = part(4)
        whole.rows[1]["image"] = {"bytes": None, "path": str(here / "7.png")}
        assert 77 in saved({"train": whole, "test": part(2)}).train_x

    @pytest.mark.parametrize(
        ("found", "words"),
        [
            ({"train": part(4)}, "has the parts train: give train and test"),
            ({"train": part(4, more=FakeImage()), "test": part(4)}, "2 hold pictures and 1 classes"),
            ({"train": FakePart({"text": str}, []), "test": part(4)}, "0 hold pictures and 0 classes"),
            ({"train": part(4), "test": FakePart({"image": FakeImage()}, [])}, "lacks the column image or label"),
            ({"train": part(4), "test": part(0)}, "a part without a row"),
        ],
    )
    def test_mistakes(self, saved: Callable[[Any], Dataset], found: Any, words: str) -> None:
        with pytest.raises(DataError) as caught:
            saved(found)
        assert words in str(caught.value)

    def test_rows_without_a_picture_or_a_class(self, saved: Callable[[Any], Dataset]) -> None:
        for column, words in (("image", "row 1 has no picture"), ("label", "rows without a class")):
            whole = part(4)
            whole.rows[1][column] = None
            with pytest.raises(DataError, match=words):
                saved(whole)

    def test_without_the_library(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (here / "s").mkdir()
        (here / "s/dataset_dict.json").write_text("{}")
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ConfigError, match=r'saved by Hugging Face datasets: pip install "fedmrn\[datasets\]"'):
            load(here, "s")

    def test_with_the_library_itself(self, here: Path) -> None:
        datasets = pytest.importorskip("datasets", reason='datasets is not installed: pip install "fedmrn[datasets]"')
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
        rows = {"image": [{"bytes": png(i), "path": None} for i in range(6)], "label": [i % 2 for i in range(6)]}
        whole = datasets.Dataset.from_dict(rows, features=features)
        datasets.DatasetDict({"train": whole, "test": whole}).save_to_disk(here / "both")
        whole.save_to_disk(here / "one")
        data = load(here, "both")
        assert data.class_names == ("cat", "dog")
        assert data.train_x[5].unique().tolist() == [5]
        assert data.test_y.tolist() == [i % 2 for i in range(6)]
        assert len(load(here, "one").test_y) == 2
