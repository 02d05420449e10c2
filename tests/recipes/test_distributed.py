"""DistributedDataParallel over two gloo ranks, each a process: one key, one frame, identical models."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import distributed, nn

from recipes import federate, images, small_net, wrong

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this build of torch has no gloo"
)
SUPPORT = Path(__file__).parents[1] / "support"


def run_ranks(folder: Path, world: int) -> None:
    command = [sys.executable, "-W", "error", str(SUPPORT / "ddp_rank.py"), "Distributed data parallel"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        for rank in ranks:
            rank.wait(timeout=120)
    finally:
        for rank in ranks:
            rank.kill()
        said = [rank.communicate()[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(said)


@pytest.mark.slow
def test_two_ranks_give_one_frame_and_identical_models_and_learn(tmp_path: Path) -> None:
    called = iter(range(100))

    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        folder = tmp_path / str(next(called))
        folder.mkdir()
        (folder / "broadcast.bin").write_bytes(broadcast)
        run_ranks(folder, 2)
        frames = [(folder / f"frame-{rank}.bin").read_bytes() for rank in range(2)]
        values = [np.load(folder / f"values-{rank}.npy") for rank in range(2)]
        assert frames[0] == frames[1]
        assert np.array_equal(*values)
        return frames[0]

    scores, _ = federate(small_net, client, lambda model: wrong(model, images(300, 5)), rounds=1)
    assert scores[1] < 0.5 * scores[0]
