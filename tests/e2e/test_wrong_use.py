"""Mistakes: one line that says what to do, and exit code 2."""

from pathlib import Path

import pytest
from command import Cli, changes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "digit"], ["'digit'", "did you mean 'digits'"]),
        (["run", "mine.toml"], ["there is no configuration file mine.toml"]),
        (["run", "digits", "--method", "fedmnr"], ["'fedmnr'", "did you mean 'fedmrn'"]),
        (["run", "digits", "--set", "train.round=3"], ["unknown key train.round", "did you mean train.rounds"]),
        (["run", "digits", "--set", "trian.rounds=3"], ["unknown key trian", "did you mean train"]),
        (["run", "digits", "--set", "rounds=3"], ["did you mean train.rounds"]),
        (["run", "digits", "--set", "lr=3"], ["did you mean method.lr"]),
        (["run", "digits", "--set", "method.rl=3"], ["method.rl", "did you mean 'lr'"]),
        (["run", "digits", "--set", "method.fedmnr.lr=3"], ["method.fedmnr", "did you mean 'fedmrn'"]),
        (["run", "digits", "--set", "train.rounds"], ["key=value"]),
        (["run", "digits", "--set", "train.rounds=many"], ["train.rounds", "'many'", "integer"]),
        (["run", "digits", "--set", "train.rounds=0"], ["train.rounds", "greater than or equal to 1"]),
        (["run", "digits", "--set", "data.alpha=0"], ["data.alpha", "greater than 0"]),
        (["run", "digits", "--set", "data.alpha=nan"], ["data.alpha"]),
        (["run", "digits", "--set", "method.fedmrn.scale=0"], ["scale", "greater than 0"]),
        (["run", "digits", "--set", "method.noise=unifrom"], ["'unifrom'", "did you mean 'uniform'"]),
        (["run", "digits", "--set", "data.name=mnits"], ["mnits", "mnist"]),
        (["run", "digits", "--set", "data.partition=ii"], ["data.partition", "'iid'"]),
        (["run", "digits", "--set", "model.name=cnn5"], ["cnn5", "did you mean 'cnn"]),
        (["run", "digits", "--set", "model.name=cnn4"], ["cnn4", "16 pixels", "8"]),
        (["run", "digits", "--set", "train.clients_per_round=11"], ["clients_per_round is 11", "data.clients is 10"]),
        (["run", "digits", "--set", "data.clients=100000", "--set", "train.clients_per_round=1"], ["100000"]),
        (["run", "digits", "--method", "fedavg", "--set", "method.stochastic=false"], ["fedavg learns no mask"]),
        (["compare", "digits", "--seeds", "one"], ["--seeds", "1,2,5"]),
        (["compare", "digits", "--seeds", "3-1"], ["--seeds"]),
        (["compare", "digits", "--methods", "fedavg,fedavg"], ["--methods", "once"]),
        (["inspect", "nothing.bin"], ["nothing.bin", "No such file"]),
    ],
    ids=lambda v: " ".join(v[1:])[:60] if isinstance(v, list) and len(v) > 1 else None,
)  # fmt: skip
def test_mistakes_end_in_one_line(cli: Cli, args: list[str], words: list[str]) -> None:
    done = cli(*args)
    assert done.returncode == 2, (done.stdout, done.stderr)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_a_misspelt_option_is_pointed_at(cli: Cli) -> None:
    done = cli("run", "digits", "--sed", "3")
    assert done.returncode == 2
    assert "--seed" in done.stderr


def test_missing_data_says_what_to_put_where(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "fmnist-iid", "--data-dir", str(tmp_path / "empty"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "train-images-idx3-ubyte.gz" in done.stderr
    assert str(tmp_path / "empty") in done.stderr


def test_damaged_data_is_named(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "files" / "fashion-mnist"
    folder.mkdir(parents=True)
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{part}-ubyte.gz").write_bytes(b"not a gzip file")
    done = cli("run", "fmnist-iid", "--data-dir", str(tmp_path / "files"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "train-images-idx3-ubyte.gz" in done.stderr
    assert "is damaged" in done.stderr


def test_a_folder_in_use_is_not_overwritten(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "r", *changes()).returncode == 0
    before = (tmp_path / "r" / "rounds.jsonl").read_bytes()
    again = cli("run", "digits", "--out", "r", *changes())
    other = cli("run", "digits", "--out", "r", "--resume", *changes("method.lr=0.2"))
    assert again.returncode == other.returncode == 2
    assert "--resume" in again.stderr
    assert "options.lr is 0.1 there and 0.2 here" in other.stderr
    assert (tmp_path / "r" / "rounds.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_or_configuration_is_named(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "r", *changes()).returncode == 0
    log = tmp_path / "r" / "rounds.jsonl"
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    checkpoint = tmp_path / "r" / "checkpoint.bin"
    data = bytearray(checkpoint.read_bytes())
    data[1000] ^= 1
    checkpoint.write_bytes(data)
    done = cli("run", "digits", "--out", "r", "--resume", *changes())
    assert done.returncode == 2
    assert "checkpoint.bin is damaged" in done.stderr
    (tmp_path / "r" / "config.toml").write_text("preset = ")
    done = cli("run", "digits", "--out", "r", "--resume", *changes())
    assert done.returncode == 2
    assert "config.toml cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda d: d[:-1], "TruncatedFrameError"),
        (lambda d: d + b"x", "TrailingBytesError"),
        (lambda d: b"PNG!" + d[4:], "BadMagicError"),
        (lambda d: d[:100] + bytes([d[100] ^ 1]) + d[101:], "ChecksumError"),
    ],
)
def test_inspect_names_what_is_wrong_with_a_frame(cli: Cli, tmp_path: Path, change: object, name: str) -> None:
    assert cli("run", "digits", "--out", "r", *changes("train.rounds=1")).returncode == 0
    bad = tmp_path / "bad.bin"
    bad.write_bytes(change((tmp_path / "r" / "last-update.bin").read_bytes()))  # type: ignore[operator]
    done = cli("inspect", str(bad))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: ")
    assert len(done.stderr.strip().splitlines()) == 1
