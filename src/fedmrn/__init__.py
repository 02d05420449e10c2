"""Federated learning at one bit per parameter: real frames, every byte counted.

What most users need is here; `import fedmrn` itself imports no library, and each name only what it needs:

    attach, ModelLayout, Selection     a client's side, in PyTorch
    Server, method, METHODS            the server's side: rounds and methods, without a training framework
    PublicGrid, Held                   public models: their law on the server, and what a client keeps of them
    Layout, TensorSpec, Group          a model's layout, for a server without torch
    Frame, Limits                      the bytes between them
    FedmrnError and what it is root of   UsageError, FrameError, EncodeError, ...; all in `fedmrn.errors`

In a Flower app, `fedmrn.flower.FedMRN` is the strategy and `fedmrn.flower.client` the client's side. Data sets, models
and experiments are `fedmrn.data`, `fedmrn.models` and `fedmrn.experiments`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fedmrn.errors import EmptyRoundError, EncodeError, FedmrnError, FrameError, UnusableModelError, UsageError
from fedmrn.extras import explained

if TYPE_CHECKING:
    from fedmrn.methods import METHODS, method
    from fedmrn.server import PublicGrid, Server
    from fedmrn.torch import ModelLayout, Selection, attach
    from fedmrn.wire.frame import Frame, Limits
    from fedmrn.wire.held import Held
    from fedmrn.wire.layout import Group, Layout, TensorSpec
else:
    _HOMES = {
        "METHODS": "methods",
        "Frame": "wire.frame",
        "Group": "wire.layout",
        "Held": "wire.held",
        "Layout": "wire.layout",
        "Limits": "wire.frame",
        "ModelLayout": "torch",
        "PublicGrid": "server",
        "Selection": "torch",
        "Server": "server",
        "TensorSpec": "wire.layout",
        "attach": "torch",
        "method": "methods",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(
                f"module 'fedmrn' has no attribute {name!r}: it has {', '.join(__all__)}; "
                f"the rest is imported from its packages, such as fedmrn.codecs"
            )
        try:
            home = import_module(f"fedmrn.{_HOMES[name]}")
        except ModuleNotFoundError as error:
            raise explained(error, f"fedmrn.{name}") from error
        globals()[name] = found = getattr(home, name)
        return found


def __dir__() -> list[str]:
    return [*__all__]


__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "EmptyRoundError",
    "EncodeError",
    "FedmrnError",
    "Frame",
    "FrameError",
    "Group",
    "Held",
    "Layout",
    "Limits",
    "ModelLayout",
    "PublicGrid",
    "Selection",
    "Server",
    "TensorSpec",
    "UnusableModelError",
    "UsageError",
    "__version__",
    "attach",
    "method",
]
