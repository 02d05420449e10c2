"""Accelerate, with gradient accumulation."""

import pytest
from torch import nn

from recipes import federate, images, loader_of, run_block, small_net, wrong

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'fedmrn[dev]'")


def test_it_runs_two_rounds_and_learns() -> None:
    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        data = images(96, 10 + k)
        names = {"model": model, "broadcast": broadcast, "data": data, "loader": loader_of(data), "epochs": 8}
        space = run_block("Accelerate", {**names, "accelerate": accelerate})
        assert space["fedmrn"].taken == 8 * 3
        frame: bytes = space["frame"].to_bytes()
        return frame

    scores, _ = federate(small_net, client, lambda model: wrong(model, images(300, 5)))
    assert scores[2] < scores[1] < scores[0]
    assert scores[2] < 0.5 * scores[0]
