"""What the tests of the PyTorch layer share: a server for a model, and frames read back."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.codecs import codec_from
from fedmrn.methods import method
from fedmrn.methods.method import Options
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, default_choice
from fedmrn.torch.model_layout import Choose
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group

SECRET = b"a secret of tests"
MASKED = ("fedmrn", "fedmrn-s")


def server_of(
    model: nn.Module,
    name: str = "fedmrn",
    *,
    law: str = "uniform",
    scale: float | str = 0.01,
    choose: Choose = default_choice,
    told: Mapping[str, float] | None = None,
) -> Server:
    """A server whose state is the model's; `told` are terms of its broadcast."""
    view = ModelLayout.of(model, choose)
    scheme = method(name).scheme({"noise": law, "scale": scale} if "noise" in method(name).options else {})
    return Server(view.layout, replace(scheme, terms=told or {}), view.read(), SECRET, run=bytes(16))


def starting_server(
    model: nn.Module, name: str, options: Options | None = None, told: Mapping[str, float] | None = None
) -> Server:
    """A server of any method, at the start of a run from this model; `told` are terms of its broadcasts."""
    view, scheme = ModelLayout.of(model), method(name).scheme(options)
    scheme = replace(scheme, terms={**scheme.terms, **(told or {})})
    return Server(view.layout, scheme, Server.initial(view.layout, scheme, view.read()), SECRET, run=bytes(16))


def server_at(server: Server, state: NDArray[np.float32]) -> Server:
    """The same server before its first round, with another state."""
    return Server(server.layout, server.scheme, state, SECRET, run=bytes(16))


def broadcast_of(model: nn.Module, name: str = "fedmrn", **options: object) -> bytes:
    """What a client gets in a round of one client whose global model is this one."""
    return server_of(model, name, **options).begin(1, ["a"]).broadcast("a")  # type: ignore[arg-type]


def decoded(frame: Frame, group: Group) -> NDArray[np.float32]:
    """The values that the server reads in a group of an update."""
    section = frame.select(Role.UPDATE, group)
    assert section is not None
    return codec_from(section.codec, section.params).decode(section.body, section.count, frame.noise_key)


def masks(frame: Frame, count: int) -> NDArray[np.bool_]:
    """The mask of an update's coded group, read from its bytes by numpy alone."""
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    bits = np.unpackbits(np.frombuffer(section.body, np.uint8), bitorder="little")
    return bits[:count].astype(np.bool_)


def noise_of(broadcast: bytes, count: int) -> NDArray[np.float32]:
    """The noise of a broadcast's coded group."""
    frame = Frame.from_bytes(broadcast)
    section = frame.select(Role.TEMPLATE, Group.CODED)
    assert section is not None
    return codec_from(section.codec, section.params).noise.chunk(frame.noise_key, 0, count)  # type: ignore[attr-defined]


def values(tensors: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.detach().clone().numpy() for name, tensor in tensors.items()}


def batch(n: int = 12, *shape: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """n normal inputs and labels."""
    return torch.randn(n, *(shape or (6,))), torch.randint(0, classes, (n,))


class Pushed(nn.Module):
    """A vector of weights; the gradient of `pushed` is the given vector, whatever the weights are."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, size))

    def pushed(self, gradient: Tensor) -> Tensor:
        return (self.w * gradient).sum()
