"""Secure sums from the command line: the plain run's model, kinds of bytes in the report, settings that cannot be."""

import json
import re
from pathlib import Path

import pytest
from command import Cli, changes, refused_in_one_line

pytest.importorskip("Crypto", reason='secure sums need their libraries: pip install -e ".[cli,secure]"')

ALIKE = ("method.noise_key=round", "train.weight_by=equal", "method.side=float32", "method.scale=0.01")
SECURE = (*ALIKE, "train.protect=secure-sum")


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_a_run_with_secure_sums(cli: Cli, tmp_path: Path) -> None:
    """Bytes by kind in its lines and in the report; without, there is none of them."""
    done = cli("run", "digits", "--method", "fedmrn-s", "--out", "secure", *changes(*SECURE, "train.threshold=1.0"))
    assert done.returncode == 0, done.stderr
    plain = cli("run", "digits", "--method", "fedmrn-s", "--out", "plain", *changes(*ALIKE))
    assert plain.returncode == 0, plain.stderr
    n, kinds = 2, {"keys", "shares", "unmasking"}
    for secure, other in zip(records(tmp_path / "secure"), records(tmp_path / "plain"), strict=True):
        up, down = secure["up"], secure["down"]
        assert isinstance(up, dict)
        assert isinstance(down, dict)
        assert {kind: up[kind] for kind in kinds} == {
            "keys": n * (32 + 192),
            "shares": n * (32 + (n - 1) * 50),
            "unmasking": n * (32 + n * 18),
        }
        assert kinds <= down.keys()
        assert up["total"] == sum(size for part, size in up.items() if part != "total")
        assert not kinds & other["up"].keys()  # type: ignore[attr-defined]
        assert secure["clients"] == other["clients"]
    report = cli("report", "secure", "--out", "told")
    assert report.returncode == 0, report.stderr
    page = re.sub("<[^>]*>", " ", (tmp_path / "told/report.html").read_text())
    for kind in kinds:
        assert f"up, {kind}" in page
        assert f"down, {kind}" in page
    without = cli("report", "plain", "--out", "told2")
    assert without.returncode == 0, without.stderr
    assert "up, keys" not in (tmp_path / "told2/report.html").read_text()


def test_few_neighbours(cli: Cli, tmp_path: Path) -> None:
    """The same model, whether clients share with all or with few."""
    many = ("data.clients=6", "train.clients_per_round=6")
    for folder, more in (("few", ("train.neighbours=few",)), ("all", ())):
        done = cli("run", "digits", "--method", "fedmrn-s", "--out", folder, *changes(*SECURE, *many, *more))
        assert done.returncode == 0, done.stderr
    few, everyone = (
        [{k: r[k] for k in ("accuracy", "loss", "density")} for r in records(tmp_path / folder)]
        for folder in ("few", "all")
    )
    assert few == everyone
    shares = [records(tmp_path / f)[0]["up"]["shares"] for f in ("few", "all")]  # type: ignore[index]
    assert shares == [6 * (32 + 4 * 50), 6 * (32 + 5 * 50)]
    assert (tmp_path / "few/checkpoint.bin").read_bytes() == (tmp_path / "all/checkpoint.bin").read_bytes()


@pytest.mark.parametrize(
    ("method", "without", "words"),
    [
        ("fedmrn-s", "method.noise_key", ['noise_key = "round"']),
        ("fedmrn-s", "train.weight_by", ["count all clients alike"]),
        ("fedmrn", "", ["signed masks"]),
        ("fedavg", "", ["signed masks"]),
    ],
)
def test_what_cannot_be_summed_is_refused_before_the_first_round(
    cli: Cli, tmp_path: Path, method: str, without: str, words: list[str]
) -> None:
    known = [one for one in SECURE if method != "fedavg" or not one.startswith(("method.noise_key", "method.scale"))]
    settings = [one for one in known if not without or not one.startswith(without)]
    done = cli("run", "digits", "--method", method, *changes(*settings))
    refused_in_one_line(done, words)


@pytest.mark.parametrize(
    "setting", ["train.protect=secret", "train.threshold=0.5", "train.threshold=1.5", "train.neighbours=some"]
)
def test_settings_that_cannot_be(cli: Cli, setting: str) -> None:
    refused_in_one_line(cli("run", "digits", *changes(setting)), [setting.partition("=")[0].split(".")[1]])
