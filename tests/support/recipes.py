"""The blocks of docs/recipes.md, run as they stand, by two clients over some rounds of a real server."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, attach
from fedmrn.wire.frame import Frame

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
CLIENTS = ("ann", "bob")

Client = Callable[[nn.Module, bytes, int], bytes]
"""(a model of any values, broadcast, which client) -> the frame's bytes."""


def headings() -> list[str]:
    """The recipes of the page that have a block."""
    return [part.partition("\n")[0] for part in PAGE.read_text("utf-8").split("\n## ")[1:] if "```python" in part]


def block(heading: str) -> str:
    """The blocks of a recipe, joined, and as far down as on the page: an error shows the page's line."""
    text = PAGE.read_text("utf-8")
    start = text.index(f"\n## {heading}\n") + 1
    end = text.find("\n## ", start)
    found = re.findall(r"```python\n(.*?)```", text[start : None if end < 0 else end], re.DOTALL)
    assert len(found) == 1, heading
    return "\n" * text[: text.index(found[0])].count("\n") + found[0]


def run_block(heading: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """Run a recipe with these names set, and return all names after it; with the same dice every time."""
    space: dict[str, Any] = {"torch": torch, "F": F, "attach": _attach, **names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        exec(compile(block(heading), str(PAGE), "exec"), space)  # noqa: S102 - of our own page
    return space


def _attach(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: bytes, **options: Any) -> Any:
    """`attach` with a client's own randomness that follows from its broadcast."""
    return attach(model, optimizer, broadcast, **{"sampling_key": crc32(broadcast), **options})


def images(n: int, seed: int) -> TensorDataset:
    """n points of three classes, a little apart: `Net` finds them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    centres = 1.2 * torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    return TensorDataset(centres[y] + torch.randn(n, 16, generator=generator), y)


def loader_of(data: TensorDataset, seed: int = 1, size: int = 16) -> DataLoader[Any]:
    return DataLoader(data, size, shuffle=True, generator=torch.Generator().manual_seed(seed))


def small_net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 3))


def wrong(model: nn.Module, data: TensorDataset) -> float:
    """The mean loss of a classifier of points."""
    model.eval()
    with torch.no_grad():
        return F.cross_entropy(model(data.tensors[0]), data.tensors[1]).item()


def federate(
    make: Callable[[], nn.Module], client: Client, score: Callable[[nn.Module], float], *, rounds: int = 2
) -> tuple[list[float], int]:
    """Run rounds of two clients; return the score before and after each, and the bytes of one update."""
    start = make()
    view, scheme = ModelLayout.of(start), method("fedmrn").scheme({"scale": "auto"})
    state = Server.initial(view.layout, scheme, view.read())
    server = Server(view.layout, scheme, state, b"a secret of tests", run=bytes(16))
    scores, size = [score(start)], 0
    for number in range(1, rounds + 1):
        round_ = server.begin(number, CLIENTS)
        for k, name in enumerate(CLIENTS):
            model = make()
            data = client(model, round_.broadcast(name), k)
            size = len(data)
            assert Frame.from_bytes(data).weight > 1
            round_.add(name, data)
        state = round_.finish()
        final = make()
        (values,) = server.models(1)
        ModelLayout.of(final).write(values)
        assert np.array_equal(values, state)
        scores.append(score(final))
    return scores, size
