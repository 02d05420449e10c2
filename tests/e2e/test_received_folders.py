"""Run folders that came from somebody else: one line that names the file, exit code 2, nothing written elsewhere."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Cli, changes

from run_folders import write_run

PRECIOUS = b"precious"


def deep(path: Path) -> None:
    path.write_text('{"a":' * 100_000)


def digits(path: Path) -> None:
    path.write_text('{"round": ' + "1" * 5_000 + "}\n")


def toml_digits(path: Path) -> None:
    path.write_text("seed = 0x" + "f" * 5_000)


def toml_deep(path: Path) -> None:
    path.write_text("a" + ".a" * 20_000 + " = 1")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


def link(path: Path) -> None:
    path.symlink_to(path.parents[1] / "target")


MAKERS: dict[str, Callable[[Path], None]] = {"pipe": os.mkfifo, "folder": Path.mkdir, "huge": huge}
MAKERS |= {"link": link, "binary": binary, "deep": deep, "digits": digits}
EVERYWHERE = ("pipe", "folder", "huge", "link")
CASES = [
    *(("config.toml", maker) for maker in (*EVERYWHERE, "binary", "toml digits", "toml deep")),
    *(("rounds.jsonl", maker) for maker in (*EVERYWHERE, "binary", "deep", "digits")),
    *(("layout.json", maker) for maker in (*EVERYWHERE, "binary", "deep", "digits")),
    *(("partition.json", maker) for maker in (*EVERYWHERE, "binary", "deep", "digits")),
    *(("partition.png", maker) for maker in (*EVERYWHERE, "binary")),
    *(("tuning.json", maker) for maker in (*EVERYWHERE, "binary", "deep", "digits")),
]


def odd(path: Path, maker: str) -> None:
    path.unlink(missing_ok=True)
    {**MAKERS, "toml digits": toml_digits, "toml deep": toml_deep}[maker](path)


@pytest.mark.parametrize(("name", "maker"), CASES)
def test_a_report_names_the_file(cli: Cli, tmp_path: Path, name: str, maker: str) -> None:
    (tmp_path / "target").write_bytes(PRECIOUS)
    folder = write_run(tmp_path / "all" / "fedmrn-seed1")
    place = folder.parent / name if name == "tuning.json" else folder / name
    (tmp_path / "all" / "target").write_bytes(PRECIOUS)
    if name == "rounds.jsonl" and maker in ("binary", "deep", "digits"):
        odd(place, maker)
        place.write_bytes(place.read_bytes().rstrip(b"\n") + b"\n")  # a torn last line is left out
    else:
        odd(place, maker)
    done = cli("report", "all", "--out", "out")
    if name == "config.toml" and maker == "folder":
        assert "holds no run" in done.stderr
    else:
        assert name in done.stderr
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert name == "partition.png" or not (tmp_path / "out").exists()  # the picture is read when it is drawn


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "r"


@pytest.fixture
def finished(cli: Cli, tmp_path: Path, kept: Path) -> Path:
    """A run of two rounds, made once."""
    if not kept.exists():
        more = changes("method.server=momentum")
        assert cli("run", "digits", "--method", "topk-ef", "--out", str(kept), *more).returncode == 0
    return Path(shutil.copytree(kept, tmp_path / "r"))


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_size < 1 << 30)
    return {str(p): p.read_bytes() for p in found if p.name != ".lock"}


@pytest.mark.parametrize("maker", EVERYWHERE)
@pytest.mark.parametrize("name", ["config.toml", "rounds.jsonl", "checkpoint.bin", "memory/0-2.bin"])
def test_a_run_that_is_resumed_names_the_file(cli: Cli, tmp_path: Path, finished: Path, name: str, maker: str) -> None:
    (tmp_path / "target").write_bytes(PRECIOUS)
    (finished / "target").write_bytes(PRECIOUS)
    path = next(finished.glob("memory/*-2.bin")) if name.startswith("memory") else finished / name
    odd(path, maker)
    before = files(finished)
    more = changes("method.server=momentum", "train.rounds=3")
    done = cli("run", "digits", "--method", "topk-ef", "--out", "r", "--resume", *more)
    assert done.returncode == 2
    assert path.name in done.stderr
    assert done.stderr.count("\n") == 1
    assert {k: v for k, v in files(finished).items() if "partition" not in k and "layout" not in k} == {
        k: v for k, v in before.items() if "partition" not in k and "layout" not in k
    }
    assert (tmp_path / "target").read_bytes() == PRECIOUS


@pytest.mark.parametrize("maker", ["deep", "digits", "binary"])
def test_a_line_that_no_run_wrote_is_named_on_resuming(cli: Cli, finished: Path, maker: str) -> None:
    odd(finished / "rounds.jsonl", maker)
    more = changes("method.server=momentum", "train.rounds=3")
    done = cli("run", "digits", "--method", "topk-ef", "--out", "r", "--resume", *more)
    assert done.returncode == 2
    assert "rounds.jsonl" in done.stderr
    assert done.stderr.count("\n") == 1


LINKS = [
    "rounds.jsonl",
    "checkpoint.bin",
    ".lock",
    "last-update.bin",
    "config.toml",
    "machine.json",
    "partition.json",
    "partition.png",
]
LINKS += ["layout.json", "memory", "checkpoint.bin.part", "report.html.part", "rounds.jsonl.part"]


@pytest.mark.parametrize("name", LINKS)
def test_a_run_writes_through_no_link(cli: Cli, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(PRECIOUS)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).symlink_to(outside if name == "memory" else outside / "file")
    done = cli("run", "digits", "--method", "topk-ef", "--out", "r", *changes("method.server=momentum"), "--resume")
    assert done.returncode == (0 if name.endswith(".part") else 2)
    assert name.endswith(".part") or f"r/{name} is a link" in done.stderr
    assert {p.name: p.read_bytes() for p in outside.iterdir()} == {"file": PRECIOUS}


@pytest.mark.parametrize(
    "name", ["report.html", "summary.json", "summary.md", "times.png", "accuracy-rounds.pdf", "report.html.part"]
)
def test_a_report_writes_through_no_link(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "target").write_bytes(PRECIOUS)
    folder = write_run(tmp_path / "r")
    (folder / name).symlink_to(tmp_path / "target")
    done = cli("report", "r")
    assert done.returncode == (0 if name.endswith(".part") else 2)
    assert name.endswith(".part") or f"r/{name} is a link" in done.stderr
    assert (tmp_path / "target").read_bytes() == PRECIOUS


def test_folders_of_a_sweep_or_a_comparison_that_are_links(cli: Cli, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "s.toml").write_text(
        'preset = "digits"\nmethods = ["fedavg"]\nseeds = [1]\n[set]\ntrain.rounds = 1\n[axes]\nmethod.lr = [0.1]\n'
    )
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "lr=0.1").symlink_to(outside)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "fedavg-seed1").symlink_to(outside)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "tuning.json").symlink_to(outside / "file")
    compare = ["compare", "digits", "--methods", "fedavg", *changes()]
    for command, named in (
        (["sweep", "s.toml", "--out", "s"], "s/lr=0.1"),
        ([*compare, "--out", "c", "--resume"], "c/fedavg-seed1"),
        ([*compare, "--out", "t", "--tune", "lr=0.1,0.2", "--tune-rounds", "1"], "t/tuning.json"),
    ):
        done = cli(*command)
        assert done.returncode == 2
        assert f"{named} is a link" in done.stderr
    assert not list(outside.iterdir())


@pytest.mark.parametrize("maker", ["pipe", "folder", "huge", "toml digits", "toml deep", "binary"])
@pytest.mark.parametrize("command", [["run", "mine.toml"], ["sweep", "mine.toml"]])
def test_a_setting_that_is_no_text(cli: Cli, tmp_path: Path, command: list[str], maker: str) -> None:
    odd(tmp_path / "mine.toml", maker)
    done = cli(*command)
    assert done.returncode == 2
    assert "mine.toml" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("maker", ["pipe", "folder", "huge"])
def test_a_frame_that_is_no_file(cli: Cli, tmp_path: Path, maker: str) -> None:
    odd(tmp_path / "a.bin", maker)
    done = cli("inspect", "a.bin")
    assert done.returncode == 2
    assert "a.bin" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("maker", ["pipe", "folder", "huge"])
def test_data_that_is_no_file(cli: Cli, tmp_path: Path, maker: str) -> None:
    (tmp_path / "data" / "fashion-mnist").mkdir(parents=True)
    for name in ("train-images", "train-labels", "t10k-images", "t10k-labels"):
        kind = "idx3" if "images" in name else "idx1"
        odd(tmp_path / "data" / "fashion-mnist" / f"{name}-{kind}-ubyte.gz", maker)
    done = cli("run", "fmnist-iid", "--data-dir", "data")
    assert done.returncode == 2
    assert "ubyte.gz" in done.stderr
    assert done.stderr.count("\n") == 1
