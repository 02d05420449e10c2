"""Shakespeare's two formats, against a slow reading of the definition; and files that are not what they should be."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmrn.data import DATASETS, load
from fedmrn.data.shakespeare import CHARACTERS, encode
from fedmrn.errors import DataError
from made_up import leaf_document, raw_document, texts, write_leaf, write_raw

REAL = Path(__file__).resolve().parents[4] / "shared" / "data"


def samples(text: str) -> tuple[list[str], list[str]]:
    return [text[i : i + 80] for i in range(len(text) - 80)], list(text[80:])


def split(text: str) -> tuple[tuple[list[str], list[str]], tuple[list[str], list[str]]]:
    x, y = samples(text)
    end = int(0.8 * len(x))
    return (x[:end], y[:end]), (x[end + 80 :], y[end + 80 :])


def decoded(codes: torch.Tensor) -> list[str]:
    return ["".join(CHARACTERS[int(c)] for c in np.atleast_1d(row)) for row in codes.numpy()]


def test_leafs_eighty_characters() -> None:
    assert len(CHARACTERS) == len(set(CHARACTERS)) == DATASETS["shakespeare"].classes == 80
    assert encode(CHARACTERS).tolist() == list(range(80))
    assert encode("$é€\udc80😀\x7f").tolist() == [79] * 6


@pytest.mark.parametrize("form", ["raw", "leaf"])
def test_both_forms_give_the_windows_of_the_definition(tmp_path: Path, form: str) -> None:
    spoken = texts(4)
    parts = {role: split(text) for role, text in spoken.items()}
    if form == "raw":
        write_raw(tmp_path, raw_document(spoken))
    else:  # two files, as of a larger data set; a role without samples is there too
        first, last = (dict(list(parts.items())[i : i + 2]) for i in (0, 2))
        documents = [[leaf_document({r: p[i] for r, p in half.items()}) for half in (first, last)] for i in (0, 1)]
        write_leaf(tmp_path, *documents)
    data = load("shakespeare", tmp_path)
    assert (data.train_x.dtype, data.train_y.dtype) == (torch.uint8, torch.int64)
    assert decoded(data.train_x) == [x for (train, _) in parts.values() for x in train[0]]
    assert decoded(data.train_y) == [y for (train, _) in parts.values() for y in train[1]]
    assert decoded(data.test_x) == [x for (_, test) in parts.values() for x in test[0]]
    assert decoded(data.test_y) == [y for (_, test) in parts.values() for y in test[1]]
    assert [len(role) for role in data.roles] == [len(train[0]) for train, _ in parts.values()]
    assert np.concatenate(data.roles).tolist() == list(range(len(data.train_x)))
    assert torch.equal(data.normalised_train(), data.train_x)  # characters are not normalised


def test_leafs_folders_come_first(tmp_path: Path) -> None:
    write_raw(tmp_path, raw_document(texts(4)))
    one = leaf_document({"A": (["a" * 80], ["b"])})
    write_leaf(tmp_path, [one], [one])
    assert len(load("shakespeare", tmp_path).train_x) == 1


def test_no_test_sample_shares_a_character_with_a_training_sample() -> None:
    text = "".join(chr(i) for i in range(1000, 1700))  # each character once
    train, test = split(text)
    assert not set("".join(train[0] + train[1])) & set("".join(test[0] + test[1]))
    assert len(test[0]) == 620 - 496 - 80


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"put LEAF's folders train/ and test/, or shakespeare_by_role.json.gz into"):
        load("shakespeare", tmp_path)


def _set(document: Any, key: str, value: Any) -> None:
    *path, last = key.split("/")
    for part in path:
        document = document[part]
    document[last] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _set(d, "users", "PLAY_ROLE_0"), "users is not a list of names, each once"),
        (lambda d: _set(d, "users", [*list(d["user_data"])[:3], 7]), "users is not a list of names"),
        (lambda d: _set(d, "users", [*list(d["user_data"])[:3], "PLAY_ROLE_0"]), "users is not a list of names"),
        (lambda d: _set(d, "num_samples", [1, 2]), "num_samples is not a list of 4 whole numbers"),
        (lambda d: _set(d, "num_samples", [1, 2, 3, True]), "num_samples is not a list of 4 whole numbers"),
        (lambda d: _set(d, "num_samples", [1, 0, 0, 0]), r"user_data\['PLAY_ROLE_0'\] has \d+ characters, so num_samp"),
        (lambda d: d["user_data"].pop("PLAY_ROLE_1"), "user_data has not the keys that users lists"),
        (lambda d: _set(d, "user_data/PLAY_ROLE_1", ["raw"]), r"user_data\['PLAY_ROLE_1'\] is not an object"),
        (lambda d: _set(d, "user_data/PLAY_ROLE_1", {"x": []}), r"user_data\['PLAY_ROLE_1'\].raw is not a text"),
        (lambda d: _set(d, "user_data/PLAY_ROLE_1/raw", 5), r"user_data\['PLAY_ROLE_1'\].raw is not a text"),
    ],
)
def test_a_wrong_file_of_texts_is_refused(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    document = raw_document(texts(4))
    change(document)
    path = write_raw(tmp_path, document)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        load("shakespeare", tmp_path)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"no gzip", "is not sound gzip"),
        (gzip.compress(b"{}", mtime=0)[:-3], "is not sound gzip"),
        (gzip.compress(b"{", mtime=0), "is not sound JSON"),
        (gzip.compress(b"\xff\xfe", mtime=0), "is not sound JSON"),
        (gzip.compress(b"[" * 100_000, mtime=0), "is not sound JSON"),
        (gzip.compress(b"[]", mtime=0), "the whole is not an object"),
    ],
    ids=["text", "cut", "brace", "bytes", "deep", "list"],
)
def test_what_is_no_json_in_gzip_is_refused(tmp_path: Path, blob: bytes, message: str) -> None:
    path = write_raw(tmp_path, {})
    path.write_bytes(blob)
    with pytest.raises(DataError, match=f"{path}:? {message}"):
        load("shakespeare", tmp_path)


def test_a_file_that_inflates_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmrn.data.shakespeare._MOST_TEXT", 1000)
    write_raw(tmp_path, raw_document(texts(4)))
    with pytest.raises(DataError, match="inflates to more than 1000 bytes"):
        load("shakespeare", tmp_path)


@pytest.mark.parametrize("form", ["raw", "leaf"])
def test_more_samples_than_their_windows_may_take_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Of all roles, or of all files of a folder, together."""
    if form == "raw":
        path = write_raw(tmp_path, raw_document({"A": "a" * 580, "B": "b" * 580}))
        count = 1000
    else:
        one, two = (leaf_document({role: (["a" * 80] * 2, ["b"] * 2)}) for role in "AB")
        path = write_leaf(tmp_path, [one, two], [one]) / "train" / "all_data_1_train_8.json"
        count = 4
    monkeypatch.setattr("fedmrn.data.shakespeare._MOST_SAMPLES", count)
    load("shakespeare", tmp_path)
    monkeypatch.setattr("fedmrn.data.shakespeare._MOST_SAMPLES", count - 1)
    with pytest.raises(DataError, match=f"{path} brings more than {count - 1} samples; put the right file there"):
        load("shakespeare", tmp_path)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    count = (1 << 24) + 1  # its windows would be 1.3 GB
    start = b'{"users":["A"],"num_samples":[%d],"user_data":{"A":{"raw":"' % count
    path = write_raw(tmp_path, {})
    path.write_bytes(gzip.compress(start + b"a" * (count + 80) + b'"}}}', mtime=0))
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="brings more than 16777216 samples"):
        load("shakespeare", tmp_path)


def test_texts_that_are_all_too_short_are_refused(tmp_path: Path) -> None:
    write_raw(tmp_path, raw_document({"A": "a" * 80}))
    with pytest.raises(DataError, match="holds no train sample"):
        load("shakespeare", tmp_path)
    write_raw(tmp_path, raw_document({"A": "a" * 150}))
    with pytest.raises(DataError, match="holds no test sample"):
        load("shakespeare", tmp_path)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"x": ["a" * 80], "y": ["b"]}, r"user_data\['A'\].x is not a list of 2, as num_samples says"),
        ({"x": ["a" * 80] * 2}, r"user_data\['A'\].y is not a list of 2"),
        ({"x": "aa", "y": ["b", "c"]}, r"user_data\['A'\].x is not a list of 2"),
        ({"x": ["a" * 80, "a" * 79], "y": ["b", "c"]}, r"user_data\['A'\].x\[1\] is not a text of length 80"),
        ({"x": ["a" * 80, 3], "y": ["b", "c"]}, r"user_data\['A'\].x\[1\] is not a text of length 80"),
        ({"x": ["a" * 80] * 2, "y": ["b", "cd"]}, r"user_data\['A'\].y\[1\] is not a text of length 1"),
        ({"x": ["a" * 80] * 2, "y": ["b", None]}, r"user_data\['A'\].y\[1\] is not a text of length 1"),
    ],
)
def test_a_wrong_file_of_leaf_is_refused(tmp_path: Path, user: dict[str, Any], message: str) -> None:
    sound = leaf_document({"A": (["a" * 80], ["b"])})
    folder = write_leaf(tmp_path, [sound], [{"users": ["A"], "num_samples": [2], "user_data": {"A": user}}])
    with pytest.raises(DataError, match=f"{folder / 'test' / 'all_data_0_test_8.json'}: {message}"):
        load("shakespeare", tmp_path)


def test_a_role_in_two_files_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    sound = leaf_document({"A": (["a" * 80], ["b"])})
    folder = write_leaf(tmp_path, [sound, sound], [sound])
    with pytest.raises(DataError, match=r"all_data_1_train_8.json: user_data\['A'\] is in another file of .*train too"):
        load("shakespeare", tmp_path)
    for path in (folder / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"train holds no .json file"):
        load("shakespeare", tmp_path)


def test_a_file_of_leaf_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = leaf_document({"A": (["a" * 80], ["b"])})
    write_leaf(tmp_path, [sound], [sound])
    monkeypatch.setattr("fedmrn.data.shakespeare._MOST_BYTES", len(json.dumps(sound)) - 1)
    with pytest.raises(DataError, match=r"is larger than [\d,]+ bytes; unpack the archive anew"):
        load("shakespeare", tmp_path)


def test_the_real_file() -> None:
    if not (REAL / "shakespeare").is_dir():
        pytest.skip("Shakespeare's texts are not next to the repository, in ../shared/data/shakespeare")
    data = load("shakespeare", REAL)
    assert len(data.roles) == 1154
    assert (len(data.train_x), len(data.test_x)) == (3_377_092, 767_956)
    share = float(torch.bincount(data.test_y).max() / len(data.test_y))
    assert 0.17 < share < 0.21  # what guessing the most frequent character, the space, gives
    assert CHARACTERS[int(torch.bincount(data.test_y).argmax())] == " "
