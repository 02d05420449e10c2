"""The changes of docs/adding-a-method.md, made to a copy of the source and run; and the page's codec by itself."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fedmrn.codecs
from fedmrn.codecs import Codec
from fedmrn.errors import EncodeError, MalformedFrameError, NonFiniteError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-method.md").read_text("utf-8")
NEW = re.findall(r"^```python\n# new: (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
EDITS = re.findall(r"^```diff\n # (\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def edited(text: str, hunk: str) -> str:
    """A file's text with a hunk's new lines, after the lines that are there, which occur once."""
    lines = hunk.splitlines(keepends=True)
    there = "".join(line[1:] for line in lines if line.startswith(" "))
    assert text.count(there) == 1, there
    return text.replace(there, "".join(line[1:] for line in lines))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source (and of what was compiled for it) with the page's changes."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src" / "fedmrn", folder / "src" / "fedmrn")
    for name, text in NEW:
        assert not (folder / name).exists()
        (folder / name).write_text(text, "utf-8")
    for name, hunk in EDITS:
        (folder / name).write_text(edited((folder / name).read_text("utf-8"), hunk), "utf-8")
    return folder


def python_of(copy: Path, *arguments: str) -> str:
    """What Python prints with the copy in place of the library."""
    own = {
        name: value for name, value in os.environ.items() if not name.startswith("COV")
    }  # the copy is not the library
    env = {**own, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=env, cwd=copy, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fedmrn_of(copy: Path, *arguments: str) -> str:
    """What the command line of the copy prints."""
    return python_of(copy, "-m", "fedmrn", *arguments)


def test_the_changes_are_few() -> None:
    added: dict[str, int] = {name: text.count("\n") for name, text in NEW}
    for name, hunk in EDITS:
        assert not any(line.startswith("-") for line in hunk.splitlines()), "nothing is taken away"
        added[name] = added.get(name, 0) + sum(line.startswith("+") for line in hunk.splitlines())
    assert all(name.startswith("src/fedmrn/") for name in added)
    assert len(added) <= 5
    assert sum(lines == 1 for lines in added.values()) == 2


@pytest.mark.slow
def test_the_changed_library_trains_and_tells_its_clients(copy: Path) -> None:
    assert "half" in fedmrn_of(copy, "methods")
    common = ["run", "digits", "--method", "half", "--set", "train.rounds=1", "--set", "train.threads=1"]
    usual, told = "runs/usual", "runs/told"
    fedmrn_of(copy, *common, "--out", usual)
    fedmrn_of(copy, *common, "--set", "method.half.tail=0.25", "--out", told)
    a, b = (json.loads((copy / out / "rounds.jsonl").read_text("utf-8")) for out in (usual, told))
    assert a["accuracy"] > 0.5
    assert a["loss"] != b["loss"]
    # What the codec observes stands in the record, for whoever draws it, and what draws nothing of it goes on.
    shares = a["zeros"]
    assert set(shares) == {"0.weight", "4.weight", "8.weight", "13.weight"}
    assert all(0 <= share < 0.5 for share in shares.values())
    code = "import sys, pathlib; from fedmrn.report.collect import collect; "
    code += "print(collect([pathlib.Path(sys.argv[1])])[0][0].variants[0].observed('zeros')[0])"
    assert "13.weight" in python_of(copy, "-c", code, usual)
    fedmrn_of(copy, "report", usual)
    # Ten clients are told: 20 bytes of a section's header, its version, and a tag, a length and a double.
    assert b["down"]["header"] - a["down"]["header"] == 10 * (20 + 1 + 6 + 8)
    assert "half" in fedmrn_of(copy, "inspect", f"{told}/last-update.bin")


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> type[Codec]:
    """The page's codec, in a module of its own."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    (text,) = [text for name, text in NEW if "codecs" in name]
    exec(compile(text, "docs/adding-a-method.md", "exec"), module.__dict__)  # noqa: S102
    codec: type[Codec] = module.Half
    assert codec.id not in fedmrn.codecs.CODECS
    return codec


def test_its_codec_refuses_what_the_page_says(half: type[Codec]) -> None:
    codec = half()
    keys = fedmrn.codecs.EncodeKeys(0, 0)
    with pytest.raises(EncodeError):
        codec.encode(np.array([1e6], np.float32), keys)
    with pytest.raises(MalformedFrameError):
        codec.open(b"\0" * 3, 2, 0, 1.0)
    with pytest.raises(MalformedFrameError):
        codec.from_params(b"x")
    with pytest.raises(NonFiniteError):
        codec.open(np.array([np.nan], "<f2").tobytes(), 1, 0, 1.0)
    assert dataclasses.is_dataclass(codec)


def test_its_codec_reads_what_it_writes(half: type[Codec]) -> None:
    vector = np.linspace(-1, 1, 33, dtype=np.float32)
    body = half().encode(vector, fedmrn.codecs.EncodeKeys(0, 0))
    assert len(body) == 2 * 33
    assert half().decode(body, 33, 0).tolist() == vector.astype(np.float16).tolist()
