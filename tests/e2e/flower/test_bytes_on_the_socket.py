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
SETTINGS = ('model="mlp"', "hidden=13334", "batch-size=1000", f"num-server-rounds={ROUNDS}", "fraction-evaluate=0.0")


class Uplink(NamedTuple):
    """Bytes from all nodes in all rounds: of the arrays or frames alone, and of everything on the socket."""

    payload: int
    socket: int


def measured(folder: Path, *changes: str) -> Uplink:
    """Run, and count from the first byte that a node sends to the last."""
    out = folder / "out"
    with counting() as proxy, deployed(NODES, folder / "state", proxy.to) as deployment:
        run = deployment.submit(APP, (*SETTINGS, *changes, f'result-dir="{out}"'))
        result = result_of(deployment, run, out)
    lines = result["rounds"][1:]
    assert len(lines) == ROUNDS
    dense = NODES * result["model-bytes"]
    if "updates-folded" in lines[0]:
        assert [line["updates-folded"] for line in lines] == [NODES] * ROUNDS
        payload = sum(line["uplink-frame-bytes"] for line in lines)
    else:
        payload = ROUNDS * dense
    assert proxy.up > payload
    assert proxy.down > ROUNDS * dense
    return Uplink(payload, proxy.up)


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
