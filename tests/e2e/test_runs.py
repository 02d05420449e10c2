"""Runs from the command line: what they write, that they repeat themselves, that they go on where they stopped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from command import Cli, changes

from fedmrn.methods import METHODS
from fedmrn.wire.frame import Frame

EXACT = ("method.side=float32", "method.down=float32")
"""Nothing compressed but masks."""
PNG = b"\x89PNG\r\n\x1a\n"


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, object]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records(folder)]


def test_compare_ends_in_a_table_and_plots(cli: Cli, tmp_path: Path) -> None:
    done = cli("compare", "digits", "--seeds", "1-2", "--methods", "fedavg,fedmrn,fedmrn-s", *changes(*EXACT))
    assert done.returncode == 0, done.stderr
    assert "round 2/2" in done.stdout
    table, _, below = done.stdout.rpartition("client, headers included.")
    assert all(len(line) <= 80 for line in table.splitlines() if " fedmrn" in line and "[" not in line)
    assert re.search(
        r"\nthe downlink is 9\d % of the traffic of fedmrn and fedmrn-s: --set method.down=\w+ makes it smaller\n"
        r"runs/digits/: report.html, .*plots \(accuracy-traffic.png, ",
        below,
    )
    folder = tmp_path / "runs" / "digits"
    curves = ("accuracy-traffic", "accuracy-rounds", "accuracy-bytes")
    plots = (*curves, "codec-error", "masks", "scale", "holdings", "times")
    for name in (*plots, "fedmrn-seed1/partition"):
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)
    rows = {row["method"]: row for row in json.loads((folder / "summary.json").read_text())}
    for name, row in rows.items():
        assert name in done.stdout
        runs = [records(folder / f"{name}-seed{seed}") for seed in (1, 2)]
        sent = {way: sum(r[way]["total"] for run in runs for r in run) / 2 for way in ("up", "down")}
        assert (row["up_bytes"], row["down_bytes"]) == (sent["up"], sent["down"])
        assert row["total_bytes"] == sent["up"] + sent["down"]
        average = rows["fedavg"]["up_bytes"], rows["fedavg"]["total_bytes"]
        assert row["saved"] == {"up": average[0] / sent["up"], "total": average[1] / sum(sent.values())}
        assert row["final"] == pytest.approx(sum(run[-1]["accuracy"] for run in runs) / 2)
    held = json.loads((folder / "fedmrn-seed1/partition.json").read_text())
    assert (len(held), sum(map(sum, held))) == (4, 1255)
    # A mask is a thirty-second of the floats it replaces, beside the scales of 4 tensors.
    up = {name: records(folder / f"{name}-seed1")[0]["up"] for name in rows}
    assert (up["fedmrn"]["coded"] - 2 * (4 + 4 * 12)) * 32 == up["fedavg"]["coded"]
    assert "| fedmrn |" in (folder / "summary.md").read_text()
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(plots)
    without_pictures = re.sub(r"base64,[^\"]*", "", page)  # where four given letters come up by chance
    assert not re.search("https?:|//", without_pictures)  # nothing is fetched: the page stands alone

    again = cli("report", "runs/digits", "--out", "again", "--formats", "pdf")
    assert again.returncode == 0, again.stderr
    assert again.stdout.endswith(done.stdout[done.stdout.index("digits, iid, ") :].replace("runs/digits/:", "again/:"))
    assert (tmp_path / "again/report.html").read_text() == page  # from the run folders alone
    assert (tmp_path / "again/accuracy-rounds.pdf").read_bytes().startswith(b"%PDF")
    assert not list((tmp_path / "again").glob("*.png"))


def test_every_method_runs(cli: Cli, tmp_path: Path) -> None:
    done = cli("compare", "digits", "--methods", "all", *changes())
    assert done.returncode == 0, done.stderr
    rows = {row["method"]: row for row in json.loads((tmp_path / "runs/digits/summary.json").read_text())}
    assert rows.keys() == METHODS.keys()
    for name, row in rows.items():
        frame = Frame.from_bytes((tmp_path / f"runs/digits/{name}-seed1/last-update.bin").read_bytes())
        assert frame.method == METHODS[name].id
        # FedSparsify has pruned next to all weights after its second and last round; the server's way starts dense.
        pruned = name.startswith("fedsparsify")
        assert (row["bits_per_parameter"] < 6) is (name not in ("fedavg", "fedsparsify-global"))
        # Two rounds of one epoch with half of the clients: twice what guessing gives; too few to learn a mask alone.
        assert row["final"] > 0.2 or pruned or name == "fedpm"


def test_bytes_are_those_of_a_real_frame(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", *changes()).returncode == 0
    folder = tmp_path / "runs" / "digits" / "fedmrn-seed1"
    data = (folder / "last-update.bin").read_bytes()
    frame = Frame.from_bytes(data)
    assert sum(frame.account().values()) == len(data)
    last = records(folder)[-1]
    assert last["up"]["total"] == 2 * len(data)  # two clients a round, frames of one length
    shown = cli("inspect", str(folder / "last-update.bin"))
    assert shown.returncode == 0
    assert f"{len(data):,} bytes" in shown.stdout
    assert re.search(r"own-scale .* binary, uniform", shown.stdout)

    assert cli("run", "digits", "--out", "one", *changes("method.scale=0.01")).returncode == 0
    assert "binary, uniform 0.01; " in cli("inspect", "one/last-update.bin").stdout


def test_the_same_seed_gives_the_same_rounds(cli: Cli, tmp_path: Path) -> None:
    for out, seed, fresh in (("a", "5", True), ("b", "5", False), ("c", "6", False)):  # of a and b, hashes differ too
        assert cli("run", "digits", "--seed", seed, "--out", out, *changes(), fresh=fresh).returncode == 0
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    assert timeless(tmp_path / "a") != timeless(tmp_path / "c")
    assert (tmp_path / "a" / "checkpoint.bin").read_bytes() == (tmp_path / "b" / "checkpoint.bin").read_bytes()


def test_workers_change_nothing(cli: Cli, tmp_path: Path) -> None:
    for workers in ("1", "2"):
        assert cli("run", "digits", "--out", workers, *changes(f"train.workers={workers}")).returncode == 0
    assert timeless(tmp_path / "1") == timeless(tmp_path / "2")
    assert (tmp_path / "1" / "checkpoint.bin").read_bytes() == (tmp_path / "2" / "checkpoint.bin").read_bytes()


def test_everything_that_is_ours_ignores_the_number_of_threads(cli: Cli, tmp_path: Path) -> None:
    for threads in ("1", "2"):
        assert cli("run", "digits", "--out", threads, *changes(f"train.threads={threads}")).returncode == 0
    one, two = records(tmp_path / "1"), records(tmp_path / "2")
    for a, b in zip(one, two, strict=True):
        assert (a["up"], a["down"], a["clients"]) == (b["up"], b["down"], b["clients"])
        # Accuracy may differ by the framework's own rounding, which a mask draw can amplify: a few test images.
        assert abs(float(str(a["accuracy"])) - float(str(b["accuracy"]))) < 0.05


@pytest.mark.parametrize(("name", "workers"), [("fedmrn", 1), ("topk-ef", 1), ("topk-ef", 2)])
def test_ctrl_c_keeps_whole_rounds_and_resume_gives_the_identical_result(
    cli: Cli, tmp_path: Path, name: str, workers: int
) -> None:
    many = ["--method", name, *changes("train.rounds=30", f"train.workers={workers}")]
    command = [sys.executable, "-m", "fedmrn", "run", "digits", "--out", "stopped", *many]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # Where the tests themselves run in the background, children would inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    log = tmp_path / "stopped" / "rounds.jsonl"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.02)
    assert log.exists(), "no round was finished in ten minutes"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in message
    assert b"Traceback" not in message
    assert 2 <= len(records(tmp_path / "stopped")) < 30

    assert cli("run", "digits", "--out", "stopped", "--resume", *many).returncode == 0
    assert cli("run", "digits", "--out", "whole", *many).returncode == 0
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")
    kept = [{path.name: path.read_bytes() for path in (tmp_path / run).rglob("*.bin")} for run in ("stopped", "whole")]
    assert kept[0] == kept[1]  # the checkpoint, and what clients keep: one file each
    assert len(kept[0]) == (2 if name == "fedmrn" else 2 + 4)


def test_a_finished_run_is_not_run_again(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "r", *changes()).returncode == 0
    before = (tmp_path / "r" / "rounds.jsonl").read_bytes()
    again = cli("run", "digits", "--out", "r", "--resume", *changes())
    assert again.returncode == 0
    assert "2 of 2 rounds were done before" in again.stdout
    assert (tmp_path / "r" / "rounds.jsonl").read_bytes() == before


def test_a_round_whose_checkpoint_was_not_written_is_run_again(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "r", *changes()).returncode == 0
    whole, last = timeless(tmp_path / "r"), (tmp_path / "r" / "checkpoint.bin").read_bytes()
    assert cli("run", "digits", "--out", "one", *changes("train.rounds=1")).returncode == 0
    (tmp_path / "r" / "checkpoint.bin").write_bytes((tmp_path / "one" / "checkpoint.bin").read_bytes())
    assert cli("run", "digits", "--out", "r", "--resume", *changes()).returncode == 0
    assert timeless(tmp_path / "r") == whole
    assert (tmp_path / "r" / "checkpoint.bin").read_bytes() == last


def test_a_torn_line_is_dropped_on_resume(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "r", *changes()).returncode == 0
    log = tmp_path / "r" / "rounds.jsonl"
    whole = timeless(tmp_path / "r")
    (tmp_path / "r" / "checkpoint.bin").unlink()
    log.write_bytes(log.read_bytes()[:-40] + b"\xff")
    assert cli("run", "digits", "--out", "r", "--resume", *changes()).returncode == 0
    assert timeless(tmp_path / "r") == whole


@pytest.mark.parametrize("law", ["gaussian", "bernoulli"])
def test_other_noise_laws(cli: Cli, tmp_path: Path, law: str) -> None:
    done = cli("run", "digits", "--method", "fedmrn-s", *changes(f"method.noise={law}", "method.scale=0.005"))
    assert done.returncode == 0, done.stderr
    shown = cli("inspect", str(tmp_path / "runs/digits/fedmrn-s-seed1/last-update.bin"))
    assert f"signed, {law} 0.005; " in shown.stdout


def test_tuning_takes_the_best_value_of_each_method(cli: Cli, tmp_path: Path) -> None:
    def tuned(*words: str) -> dict[str, object]:
        done = cli("compare", "digits", "--methods", "fedavg,topk", "--tune", "lr=0.01,0.3,1e30", *words, *changes())
        assert done.returncode == 0, done.stderr
        assert "lr=1e30" in done.stdout
        assert "chosen on the test samples" in done.stdout
        assert "diverged" in done.stdout
        return json.loads((tmp_path / "runs/digits/tuning.json").read_text())  # type: ignore[no-any-return]

    options = ("--tune-rounds", "1", "--tune-seed", "7", "--tune-set", "data.partition=labels", "--tune-dir", "t")
    found = tuned(*options)
    assert (found["option"], found["rounds"], found["seed"]) == ("lr", 1, 7)
    assert found["changes"] == ["data.partition=labels"]
    for name in ("fedavg", "topk"):
        mine = found["methods"][name]  # type: ignore[index]
        trials = {v: records(tmp_path / f"t/{name}-seed7-lr{v}") for v in ("0.01", "0.3")}
        assert mine["tried"] == {v: r[-1]["accuracy"] for v, r in trials.items()} | {"1e30": None}
        assert mine["chosen"] == max(trials, key=lambda v: mine["tried"][v])
        config = tomllib.loads((tmp_path / f"t/{name}-seed7-lr0.3/config.toml").read_text())
        assert (config["data"]["partition"], config["train"]["rounds"]) == ("labels", 1)
        config = tomllib.loads((tmp_path / f"runs/digits/{name}-seed1/config.toml").read_text())
        assert (config["data"]["partition"], config["train"]["rounds"]) == ("iid", 2)
        assert config["options"]["lr"] == float(mine["chosen"])
    for name in ("summary.md", "report.html"):
        assert "chosen on the test samples" in (tmp_path / "runs/digits" / name).read_text()
    before = timeless(tmp_path / "runs/digits/topk-seed1")
    assert tuned(*options, "--resume") == found
    assert timeless(tmp_path / "runs/digits/topk-seed1") == before


def test_any_option_can_be_tuned_and_a_method_that_always_diverges_is_left_out(cli: Cli, tmp_path: Path) -> None:
    grid = ["--tune", "levels=3,5", "--tune-rounds", "1"]  # not the default of 7
    done = cli("compare", "digits", "--methods", "qsgd,fedavg", *grid, *changes())
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "runs/digits/tuning.json").read_text())
    assert found["methods"].keys() == {"qsgd"}
    config = tomllib.loads((tmp_path / "runs/digits/qsgd-seed1/config.toml").read_text())
    assert str(config["options"]["specific"]["levels"]) == found["methods"]["qsgd"]["chosen"]
    again = cli("compare", "digits", "--methods", "qsgd,fedavg", *grid, *changes())
    assert again.returncode == 2
    assert "holds a run already" in again.stderr
    again = cli("run", "digits", "--method", "qsgd", *changes("train.rounds=3"))  # --resume would not help: not offered
    assert again.returncode == 2
    assert "holds another configuration" in again.stderr

    grid = ["--tune", "bits=16,32", "--tune-rounds", "1", "--out", "lost"]
    done = cli("compare", "digits", "--methods", "topk,fedmrn", *grid, *changes("method.topk.lr=1e30"))
    assert done.returncode == 1
    assert "topk: training diverged with every value of bits; left out" in done.stderr
    rows = json.loads((tmp_path / "lost/summary.json").read_text())
    assert [row["method"] for row in rows] == ["fedmrn"]


def test_what_clients_keep_is_missed_when_it_is_gone(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--method", "topk-ef", "--out", "r", *changes("train.rounds=1")).returncode == 0
    config = tmp_path / "r/config.toml"
    config.write_text(config.read_text().replace("rounds = 1", "rounds = 2"))
    for path in (tmp_path / "r/memory").iterdir():
        path.unlink()
    done = cli("run", "digits", "--method", "topk-ef", "--out", "r", "--resume", *changes())
    assert done.returncode == 2
    assert "lost what client" in done.stderr
    assert "delete checkpoint.bin" in done.stderr
    (tmp_path / "r/checkpoint.bin").unlink()
    assert cli("run", "digits", "--method", "topk-ef", "--out", "r", "--resume", *changes()).returncode == 0


def test_coding_changes_bytes_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    coded = "method.coding=entropy"
    settings = {"raw": EXACT, "coded": [coded, *EXACT], "less": [coded, "method.side=float16", "method.down=eden4"]}
    for name, extra in settings.items():
        done = cli("run", "digits", "--out", name, *changes("train.local_epochs=5", *extra))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "raw/checkpoint.bin").read_bytes() == (tmp_path / "coded/checkpoint.bin").read_bytes()
    raw, coded_, less = (records(tmp_path / name)[-1] for name in settings)
    assert coded_["accuracy"] == raw["accuracy"]
    assert coded_["up"]["coded"] < 0.98 * raw["up"]["coded"]  # type: ignore[index]
    assert less["up"]["dense"] == raw["up"]["dense"] // 2  # type: ignore[index]
    assert less["down"]["total"] < raw["down"]["total"] / 7  # type: ignore[index]
    shown = cli("inspect", str(tmp_path / "less/last-update.bin"))
    assert re.search(r"own-scale +93,728 +\S+ +0\.", shown.stdout)  # around a coded mask, in less than a bit
    assert "float16" in shown.stdout
    data = (tmp_path / "raw/last-update.bin").read_bytes()
    assert f"raw length  {len(data):,} bytes: mask " in shown.stdout


def test_a_run_with_public_models_goes_on(cli: Cli, tmp_path: Path) -> None:
    """Stopped after two of four rounds, it sends the same bytes and comes to the same end; inspect reads its frames."""
    one, few = changes("train.rounds=4"), changes("train.rounds=2")
    for out, extra in (("whole", one), ("parts", few), ("parts", [*one, "--resume"])):
        done = cli("run", "digits", "--out", out, *extra)
        assert done.returncode == 0, done.stderr
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "parts")
    assert (tmp_path / "whole/checkpoint.bin").read_bytes() == (tmp_path / "parts/checkpoint.bin").read_bytes()
    last = records(tmp_path / "whole")[-1]
    assert set(last["public"]) <= {"difference", "new"}  # type: ignore[call-overload]
    assert last["down"]["total"] < last["raw"]["down"]["total"] / 8  # type: ignore[index]
    shown = cli("inspect", str(tmp_path / "whole/checkpoint.bin"))
    assert "public models, and who holds which" in shown.stdout


def test_a_mask_named_by_a_random_code(cli: Cli, tmp_path: Path) -> None:
    """A run is repeated to the byte, is shorter than masks coded without loss, and inspect says how short."""
    few = "method.log2_states=4"
    settings = {
        "named": ("fedmrn-mrc", [few]),
        "again": ("fedmrn-mrc", [few]),
        "coded": ("fedmrn", ["method.coding=entropy"]),
    }
    for name, (method, extra) in settings.items():
        done = cli("run", "digits", "--method", method, "--out", name, *changes("train.local_epochs=5", *extra))
        assert done.returncode == 0, done.stderr
    named, again, coded = (timeless(tmp_path / name) for name in settings)
    assert named == again
    assert named[-1]["up"]["coded"] < 0.98 * coded[-1]["up"]["coded"]  # type: ignore[index]
    assert named[-1]["raw"]["up"]["coded"] == coded[-1]["raw"]["up"]["coded"]  # type: ignore[index]
    shown = cli("inspect", str(tmp_path / "named/last-update.bin"))
    assert re.search(r"own-scale +93,728 +\S+ +0\.", shown.stdout)  # around a random code, in less than a bit


def test_the_byte_account(cli: Cli, tmp_path: Path) -> None:
    """Everything in it follows from lengths of frames, of this run and of one that codes nothing."""
    less = ("method.fedmrn.coding=entropy", "method.fedmrn.side=float16", "method.fedmrn.down=eden4")
    done = cli("compare", "digits", "--methods", "fedavg,fedmrn", *changes("train.local_epochs=5", *less))
    assert done.returncode == 0, done.stderr
    alone = cli("run", "digits", "--out", "raw", *changes("train.local_epochs=5", *EXACT))
    assert alone.returncode == 0, alone.stderr
    folder = tmp_path / "runs/digits"
    coded, raw = records(folder / "fedmrn-seed1"), records(tmp_path / "raw")
    for mine, other in zip(coded, raw, strict=True):
        for way in ("up", "down"):
            assert mine["raw"][way] == other["raw"][way] == other[way]  # type: ignore[index]
            for record in (mine, other):
                each = record["by_client"][way]  # type: ignore[index]
                assert len(each["total"]) == len(each["coded"]) == len(record["clients"]) == 2  # type: ignore[arg-type]
                assert {part: sum(sizes) for part, sizes in each.items()} == {
                    part: record[way][part]  # type: ignore[index]
                    for part in ("coded", "total")
                }
    last = len((folder / "fedmrn-seed1/last-update.bin").read_bytes())
    assert coded[-1]["by_client"]["up"]["total"][-1] == last  # type: ignore[index]

    rows = {row["method"]: row for row in json.loads((folder / "summary.json").read_text())}
    lines = {(x["way"], x["section"]): x for x in rows["fedmrn"]["account"]}
    sent = {way: sum(r[way]["total"] for r in coded) for way in ("up", "down")}  # type: ignore[index]
    bare = {way: sum(r[way]["total"] for r in raw) for way in ("up", "down")}  # type: ignore[index]
    for way in ("up", "down"):
        assert (lines[way, "total"]["coded"]["total"], lines[way, "total"]["raw"]["total"]) == (sent[way], bare[way])
    both = lines["both", "total"]
    assert both["coded"]["total"] == rows["fedmrn"]["total_bytes"] == sum(sent.values())
    assert both["ratio"] == pytest.approx(sum(sent.values()) / sum(bare.values()))
    assert both["ratio"] < 0.2
    assert lines["up", "total"]["coded"]["last_bits"] == pytest.approx(coded[-1]["bits_per_parameter"])
    assert lines["up", "total"]["raw"]["last_bits"] == pytest.approx(raw[-1]["bits_per_parameter"])

    page, text = ((folder / name).read_text() for name in ("report.html", "summary.md"))
    for way in ("up", "down", "both"):
        for section in ("mask", "side data", "header", "checksum", "total"):
            assert page.count(f"<td>{way}, {section}</td>") == 2
            assert text.count(f"| {way}, {section} |") == 2
    shown = f"{sum(sent.values()):,} | {sum(bare.values()):,} | {both['ratio']:.4f}"
    assert shown in text
    assert shown.replace(" | ", "</td><td>") in page
    assert '<figure id="accuracy-traffic">' in page
    assert (
        "last round 1.317 bits a parameter up, 32.174 down\n" in alone.stdout
    )  # of one method the terminal says it too


def test_a_run_from_before_the_account_goes_on_and_is_reported(cli: Cli, tmp_path: Path) -> None:
    assert cli("run", "digits", "--out", "r", *changes()).returncode == 0
    whole = timeless(tmp_path / "r")
    log = tmp_path / "r/rounds.jsonl"
    old = [{k: v for k, v in r.items() if k not in ("raw", "by_client")} for r in records(tmp_path / "r")]
    log.write_text("".join(json.dumps(r) + "\n" for r in old))
    done = cli("run", "digits", "--out", "r", "--resume", *changes())
    assert done.returncode == 0, done.stderr
    assert "(raw not known)" in done.stdout
    lines = json.loads((tmp_path / "r/summary.json").read_text())[0]["account"]
    assert {(x["raw"], x["ratio"]) for x in lines} == {(None, None)}
    # Stopped after its first round by the version that did not count, and gone on with by this one.
    assert cli("run", "digits", "--out", "one", *changes("train.rounds=1")).returncode == 0
    log.write_text(json.dumps(old[0]) + "\n")
    (tmp_path / "r/checkpoint.bin").write_bytes((tmp_path / "one/checkpoint.bin").read_bytes())
    assert cli("run", "digits", "--out", "r", "--resume", *changes()).returncode == 0
    assert timeless(tmp_path / "r") == [{k: v for k, v in old[0].items() if k != "seconds"}, whole[1]]


def test_a_diverged_run_is_told_and_the_others_go_on(cli: Cli, tmp_path: Path) -> None:
    done = cli("compare", "digits", "--methods", "fedavg,fedmrn", *changes("method.fedavg.lr=1e30"))
    assert done.returncode == 1
    assert "fedavg-seed1: " in done.stderr
    assert "lower the learning rate" in done.stderr
    rows = json.loads((tmp_path / "runs/digits/summary.json").read_text())
    assert [row["method"] for row in rows] == ["fedmrn"]
    alone = cli("compare", "digits", "--methods", "fedavg", "--out", "alone", *changes("method.fedavg.lr=1e30"))
    assert alone.returncode == 2
    assert alone.stderr.strip().endswith("error: there is no finished run to report")


def test_a_round_that_leads_to_no_usable_model_is_told(cli: Cli) -> None:
    done = cli("run", "digits", "--method", "fedavg", *changes("method.server_lr=1e45"))
    assert done.returncode == 1
    assert "round 1: in the new model tensor" in done.stderr
    assert "not a finite number; the round is lost and the old model stays: lower the server's" in done.stderr


def test_a_run_that_does_not_test_every_round(cli: Cli, tmp_path: Path) -> None:
    """The last round is tested, and nothing else changes: not the bytes, not the model."""
    for name, extra in (("some", ["train.test_every=2"]), ("all", [])):
        done = cli("run", "digits", "--out", name, *changes("train.rounds=5", *extra))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("not tested") == (3 - 1 if extra else 0)
    some, every = (timeless(tmp_path / name) for name in ("some", "all"))
    assert [r["round"] for r in some if "accuracy" in r] == [2, 4, 5]
    for mine, other in zip(some, every, strict=True):
        assert mine.items() <= other.items()
        assert other.keys() - mine.keys() <= {"accuracy", "loss"}
    assert (tmp_path / "some/checkpoint.bin").read_bytes() == (tmp_path / "all/checkpoint.bin").read_bytes()
    rows = [json.loads((tmp_path / name / "summary.json").read_text())[0] for name in ("some", "all")]
    assert rows[0]["final"] == rows[1]["final"]


def test_names_are_not_markup(cli: Cli, tmp_path: Path) -> None:
    done = cli("run", "digits", "--out", "x[/y] [red]", *changes("train.rounds=1"))
    assert done.returncode == 0, done.stderr
    assert "x[/y] [red]/: report.html" in done.stdout


@pytest.mark.parametrize("kind", ["dirichlet", "labels"])
def test_uneven_partitions(cli: Cli, kind: str) -> None:
    assert cli("run", "digits", *changes(f"data.partition={kind}", "data.alpha=0.5")).returncode == 0


def test_lists(cli: Cli) -> None:
    assert "fedmrn-s" in cli("methods").stdout
    datasets = " ".join(cli("datasets").stdout.split())
    assert "fashion-mnist" in datasets
    assert "shakespeare" in datasets
    assert "your own" in datasets
    presets = cli("presets").stdout
    assert "fmnist-iid" in presets
    assert "cifar100-labels" in presets
    assert "ablation-noise" in cli("sweep").stdout
    assert "Run folders" in cli("report", "--help").stdout, "help of arguments, which some versions of click lose"
    help_ = cli("--help", fresh=True).stdout
    assert "compare" in help_
    assert "digits" in help_


def test_fashion_mnist_from_its_original_files(cli: Cli) -> None:
    data = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not (data / "fashion-mnist").is_dir():
        pytest.skip("the Fashion-MNIST files are not beside this checkout")
    short = ["--set", "train.rounds=1", "--set", "train.clients_per_round=1", "--set", "train.local_epochs=1"]
    done = cli("run", "fmnist-iid", "--data-dir", str(data), *short)
    assert done.returncode == 0, done.stderr
    assert "1.158" in done.stdout  # bits a parameter of CNN4: mask, batch norm, header
