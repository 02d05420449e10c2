"""Which rule trains a tensor now, and which tensors were loaded as a whole meanwhile.

What is loaded must be known: a mask may have drawn the very value that is loaded, and an element that is written to
would look like one that is not.
"""

from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from fedmrn.errors import ConfigError
from fedmrn.torch.internals import before_loading, parameters
from fedmrn.torch.model_layout import ModelLayout
from fedmrn.torch.modules import modules_of
from fedmrn.torch.rules.facade import Facade


class Holding(Facade):
    """An optimiser that has a model to itself: until it has finished, or another one was attached to the model.

    Args:
        inner: the optimiser behind it.
        view: the model's tensors and their places.

    Attributes:
        finished: whether the update was made: the model is an ordinary one again.
    """

    def __init__(self, inner: torch.optim.Optimizer, view: ModelLayout) -> None:
        super().__init__(inner)
        self.view = view
        self.finished = self._superseded = False
        self._loaded: set[int] = set()
        self._watches: list[Any] = []

    def take_hold(self) -> None:
        """Make this the rule that trains the model; an earlier one trains it no more."""
        for each in self.view.places:
            earlier = _HOLDERS.get(id(each.tensor))
            if earlier is not None and earlier is not self:
                earlier.give_way()
            _HOLDERS[id(each.tensor)] = self
        hooks = (before_loading(module, _tell) for _, module in modules_of(self.view.model))
        self._watches = [handle for handle in hooks if handle is not None]

    def give_way(self) -> None:
        """Train this model no more: another rule was attached to it."""
        self._superseded = True
        self._watch_no_more()

    def let_go(self) -> None:
        """Leave the model to whoever comes next."""
        self.finished = True
        for each in self.view.places:
            _HOLDERS.pop(id(each.tensor), None)
        self._watch_no_more()

    def loaded(self, tensor: Tensor) -> None:
        """Note that a state is being loaded into a tensor."""
        self._loaded.add(id(tensor))

    def _watch_no_more(self) -> None:
        for handle in self._watches:
            handle.remove()

    def _check_open(self) -> None:
        if self.finished:
            raise ConfigError("this client has finished; attach again for the next round")
        if self._superseded:
            raise ConfigError(
                "another attach took this model over, and this one trains it no more; where a model has several "
                "optimisers give them to one attach: attach(model, [first, second], ...), and step opt.optimizers"
            )


_HOLDERS: "WeakValueDictionary[int, Holding]" = WeakValueDictionary()
"""For the id of each tensor the rule that was attached to it last, which keeps the tensor. Tensors have no weak
references themselves: torch would not swap them then."""


def _tell(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Tell a module's rule of what is loaded. A function of no object: copies of the module have it, and no rule."""
    for name, tensor in parameters(module).items():
        holder = _HOLDERS.get(id(tensor))
        if tensor is not None and holder is not None and prefix + name in state:
            holder.loaded(tensor)
