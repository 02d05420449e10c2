"""Mistakes: one line that says what to do, and exit code 2."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command import Cli, changes, refused_in_one_line

from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.wire.frame import HEADER_SIZE, Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "digit"], ["'digit'", "did you mean 'digits'"]),
        (["run", "mine.toml"], ["there is no configuration file mine.toml"]),
        (["run", "digits", "--method", "fedmnr"], ["'fedmnr'", "did you mean 'fedmrn'"]),
        (["run", "digits", "--set", "train.round=3"], ["unknown key train.round", "did you mean 'train.rounds'"]),
        (["run", "digits", "--set", "trian.rounds=3"], ["unknown key trian", "did you mean 'train'"]),
        (["run", "digits", "--set", "rounds=3"], ["did you mean train.rounds"]),
        (["run", "digits", "--set", "lr=3"], ["did you mean method.lr"]),
        (["run", "digits", "--set", "method.rl=3"], ["method.rl", "did you mean 'lr'"]),
        (["run", "digits", "--set", "method.fedmnr.lr=3"], ["method.fedmnr", "did you mean 'fedmrn'"]),
        (["run", "digits", "--set", "train.rounds"], ["key=value"]),
        (["run", "digits", "--set", "train.rounds=many"], ["train.rounds", "'many'", "integer"]),
        (["run", "digits", "--set", "train.rounds=0"], ["train.rounds", "greater than or equal to 1"]),
        (["run", "digits", "--set", "data.alpha=0"], ["data.alpha", "greater than 0"]),
        (["run", "digits", "--set", "data.alpha=nan"], ["data.alpha"]),
        (["run", "digits", "--set", "method.fedmrn.scale=0"], ["noise scale 0"]),
        (["run", "digits", "--set", "method.noise=unifrom"], ["'unifrom'", "did you mean 'uniform'"]),
        (["run", "digits", "--set", "data.name=mnits"], ["'mnits'", "did you mean 'mnist'"]),
        (["run", "digits", "--set", "data.partition=ii"], ["data.partition", "'iid'"]),
        (["run", "digits", "--set", "model.name=cnn5"], ["cnn5", "did you mean 'cnn"]),
        (["run", "digits", "--set", "model.name=cnn4"], ["cnn4", "16 pixels", "8"]),
        (["run", "digits", "--set", "train.clients_per_round=11"], ["clients_per_round is 11", "data.clients is 10"]),
        (["run", "digits", "--set", "data.clients=100000", "--set", "train.clients_per_round=1"], ["100000"]),
        (["run", "digits", "--set", "method.fedmrn.scale=true"], ["fedmrn: scale = True must be a number"]),
        (["run", "digits", "--set", "method.fedmrn.noise=3"], ["fedmrn: noise = 3 must be a word"]),
        (["run", "digits", "--method", "qsgd", "--set", "method.qsgd.levels=1.5"], ["levels", "a whole number"]),
        (["run", "digits", "--method", "topk", "--set", "method.topk.density=0"], ["density in (0, 1]"]),
        (["run", "digits", "--method", "eden2", "--set", "method.eden2.keep=0"], ["keep"]),
        (["run", "digits", "--method", "fedbat", "--set", "method.fedbat.warmup=2"], ["warmup", "0 to 1"]),
        (["run", "digits", "--method", "fedsparsify-local", "--set", "method.merge=most"], ["'most'", "majority"]),
        (["run", "digits", "--set", "method.optimizer=sdg"], ["optimizer", "'sgd'"]),
        (["run", "digits", "--set", "density=0.1"], ["did you mean method.density"]),
        (["report", "nowhere"], ["nowhere holds no run", "config.toml"]),
        (["report", "one", "two"], ["--out FOLDER is needed with several folders"]),
        (["report", "one", "--target", "85"], ["--target 85", "such as 0.85"]),
        (["compare", "digits", "--seeds", "one"], ["--seeds", "1,2,5"]),
        (["compare", "digits", "--seeds", "3-1"], ["--seeds"]),
        (["compare", "digits", "--methods", "fedavg,fedavg"], ["--methods", "once"]),
        (["compare", "digits", "--seeds", "1-9999999999"], ["--seeds"]),
        (["compare", "digits", "--seeds", "9223372036854775808"], ["seed", "9223372036854775808"]),
        (["compare", "digits", "--set", "method.fedavg.scale=1"], ["method.fedavg.scale", "choose one of", "lr"]),
        (["compare", "digits", "--tune", "lr"], ["--tune 'lr'", "lr=0.01,0.03"]),
        (["compare", "digits", "--tune", "lr=0.1"], ["at least two values of lr"]),
        (["compare", "digits", "--tune", "lr=0.1,many"], ["--tune lr=many", "lr = 'many'", "number"]),
        (["compare", "digits", "--tune", "lr=0.1,0.10"], ["each once"]),
        (["compare", "digits", "--tune-set", "data.partition=iid"], ["with --tune only"]),
        (["compare", "digits", "--tune", "lr=0.1,0.2", "--tune-set", "foo"], ["--tune-set 'foo'", "key=value"]),
        (["run", "digits", "--set", "seed=3"], ["--seed"]),
        (["compare", "digits", "--tune", "lr=0.1,0"], ["lr", "greater than 0"]),
        (["compare", "digits", "--tune", "density=0.1,0.2"], ["none of these methods", "density"]),
        (["compare", "digits", "--tune", "scale=0.1,0", "--methods", "fedmrn"], ["noise scale 0"]),
        (["run", "digits", "--set", "method.fedavg.lrr=3"], ["method.fedavg.lrr", "did you mean 'lr'"]),
        (["run", "digits", "--set", "train.rounds=true"], ["train.rounds", "valid integer"]),
        (["run", "digits", "--set", "train.threads=1000000000000"], ["train.threads"]),
        (["run", "digits", "--set", "train.workers=0"], ["train.workers"]),
        (["run", "digits", "--set", "train.autocast=float16"], ["train.autocast", "bfloat16"]),
        (["run", "digits", "--set", "train.device=tpu"], ["train.device", "'cpu', 'cuda' or 'auto'"]),
        (["run", "digits", "--set", "train.graphs=1"], ["train.graphs", "boolean"]),
        (["run", "digits", "--set", "data=5"], ["key needs its section"]),
        (["run", "digits", "--set", "method.lr=0.1\nx=3"], ["key=value"]),
        (["run", "digits", "--set", "method={lr=1}"], ["needs its section"]),
        (["run", "misspelt.toml"], ["method.topk.densty", "did you mean 'density'"]),
        (["sweep", "papers"], ["sweep 'papers'", "did you mean 'paper'"]),
        (["sweep", "paper", "--data-dir", "none", "--set", "train.rounds=1"], ["train-images-idx3-ubyte.gz", "none"]),
        (["inspect", "nothing.bin"], ["nothing.bin", "not a file"]),
        (["inspect", "/dev/zero"], ["not a regular file"]),
        (["calibrate", "nowhere"], ["nowhere", "holds no run"]),
        (["run", "digits", "--set", "train.calibrate=always"], ["train.calibrate", "'never', 'last' or 'every'"]),
        (["run", "digits", "--set", "train.test_every=0"], ["train.test_every", "greater than or equal to 1"]),
        (["run", "digits", "--set", "train.statistics=-1"], ["train.statistics"]),
    ],
    ids=lambda v: " ".join(v[1:])[:60] if isinstance(v, list) and len(v) > 1 else None,
)  # fmt: skip
def test_mistakes_end_in_one_line(cli: Cli, tmp_path: Path, args: list[str], words: list[str]) -> None:
    (tmp_path / "misspelt.toml").write_text("[method.topk]\ndensty = 0.1\n")
    done = cli(*args)
    refused_in_one_line(done, words)


def test_a_misspelt_option_is_pointed_at(cli: Cli) -> None:
    done = cli("run", "digits", "--sed", "3", fresh=True)
    assert done.returncode == 2
    assert "--seed" in done.stderr


def test_missing_data_says_what_to_put_where(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "fmnist-iid", "--data-dir", str(tmp_path / "empty"), fresh=True)
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
    another = cli("run", "digits", "--method", "topk", "--out", "r", "--resume", *changes())
    assert another.returncode == 2
    assert "method is 'fedmrn' there and 'topk' here" in another.stderr
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


def test_an_output_that_cannot_be_written_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in ("file", "file/x"):
        done = cli("run", "digits", "--out", out, *changes())
        refused_in_one_line(done, ["file"])


def test_a_configuration_that_is_no_text_is_named(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    done = cli("run", "mine.toml")
    assert done.returncode == 2
    assert "mine.toml is not a text file" in done.stderr


def sealed(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda d: d[:-1], "TruncatedFrameError"),
        (lambda d: d + b"x", "TrailingBytesError"),
        (lambda d: b"PNG!" + d[4:], "BadMagicError"),
        (lambda d: d[:70] + bytes([d[70] ^ 1]) + d[71:], "ChecksumError"),
        (lambda d: sealed(d[:-8] + bytes.fromhex("0000c07f") + d[-4:]), "NonFiniteError"),
    ],
)
def test_inspect_names_what_is_wrong_with_a_frame(
    cli: Cli, tmp_path: Path, change: Callable[[bytes], bytes], name: str
) -> None:
    (tmp_path / "bad.bin").write_bytes(change(_frame()))
    done = cli("inspect", "bad.bin")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_inspect_shows_a_frame_with_a_codec_of_another_version(cli: Cli, tmp_path: Path) -> None:
    data = bytearray(_frame())
    data[HEADER_SIZE] = 250
    (tmp_path / "new.bin").write_bytes(sealed(bytes(data)))
    done = cli("inspect", "new.bin")
    assert done.returncode == 0, done.stderr
    assert "unknown codec 250" in done.stdout


def _frame() -> bytes:
    """A small update: four masked elements, and one float just before the checksum."""
    layout = Layout.of([TensorSpec("w", (4,), Group.CODED), TensorSpec("b", (1,), Group.DENSE)])
    server = Server(layout, method("fedmrn").scheme(), np.zeros(5, np.float32), bytes(16), run=bytes(16))
    broadcast = Frame.from_bytes(server.begin(1, [0]).broadcast(0))
    return encode_update(broadcast, layout, np.zeros(5, np.float32), weight=1, sampling_key=0).to_bytes()
