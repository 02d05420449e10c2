"""What a million parameters cost on the wire, envelope, polling and TLS included: fedmrn against stock FedAvg."""

import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from counting import counting
from deployed import APP, deployed, result_of

pytestmark = pytest.mark.long

# Besides the payload a node sends 6 kB when it joins, 20 kB for each message and its reply, and 0.9 kB every 3 seconds
# that it waits. Four rounds leave room for a slow machine, on which nodes wait longer.
NODES, ROUNDS = 2, 4
SETTINGS = ('model="mlp"', "hidden=13334", "batch-size=1000", "fraction-evaluate=0.0")


class Traffic(NamedTuple):
    """Bytes of all nodes in all rounds: of the uplink's arrays or frames, and of everything on the socket each way."""

    payload: int
    socket: int
    down: int


def measured(folder: Path, *changes: str, rounds: int = ROUNDS) -> Traffic:
    """Run, and count from the first byte that a node sends to the last."""
    out = folder / "out"
    with counting() as proxy, deployed(NODES, folder / "state", proxy.to) as deployment:
        run = deployment.submit(APP, (*SETTINGS, f"num-server-rounds={rounds}", *changes, f'result-dir="{out}"'))
        result = result_of(deployment, run, out)
    lines = result["rounds"][1:]
    assert len(lines) == rounds
    dense = NODES * result["model-bytes"]
    if "updates-folded" in lines[0]:
        assert [line["updates-folded"] for line in lines] == [NODES] * rounds
        payload = sum(line["uplink-frame-bytes"] for line in lines)
    else:
        payload = rounds * dense
    assert proxy.up > payload
    sent = sum(line["downlink-total-bytes"] for line in lines) if "updates-folded" in lines[0] else payload
    assert proxy.down > sent
    return Traffic(payload, proxy.up, proxy.down)


def test_bytes_on_the_socket_fall_25_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stock = measured(tmp_path / "stock", "stock=true")
    fedmrn = measured(tmp_path / "fedmrn")
    with capsys.disabled():
        sys.stdout.write(f"\nUplink of {NODES} nodes in {ROUNDS} rounds, bytes: payload, on the socket, besides\n")
        for name, found in (("stock FedAvg", stock), ("fedmrn", fedmrn)):
            sys.stdout.write(f"  {name:12} {found.payload:12,} {found.socket:12,} {found.socket - found.payload:9,}\n")
        fewer = stock.payload / fedmrn.payload, stock.socket / fedmrn.socket
        sys.stdout.write(f"  {'fewer':12} {fewer[0]:11.2f}x {fewer[1]:11.2f}x\n")
    assert fewer[0] > 31
    assert fewer[1] >= 25


def test_bytes_both_ways_fall_15_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With evaluation on all nodes, as Flower has it by default: three dense models a node and round."""
    changes = ("fraction-evaluate=1.0", "learning-rate=0.1")
    stock = measured(tmp_path / "stock", *changes, "stock=true", rounds=10)
    fedmrn = measured(tmp_path / "fedmrn", *changes, 'down="grid"', rounds=10)
    with capsys.disabled():
        sys.stdout.write(f"\n{NODES} nodes in 10 rounds, bytes on the socket: up, down, together\n")
        for name, found in (("stock FedAvg", stock), ("fedmrn", fedmrn)):
            sys.stdout.write(f"  {name:12} {found.socket:12,} {found.down:12,} {found.socket + found.down:12,}\n")
        fewer = (stock.socket + stock.down) / (fedmrn.socket + fedmrn.down)
        sys.stdout.write(f"  {'fewer':12} {fewer:38.2f}x\n")
    assert fewer >= 15
