"""Which parameters a step draws anew, and by the dice of which step each was drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from fedmrn.torch.model_layout import ModelLayout
from fedmrn.torch.rules.holders import Holding
from fedmrn.torch.rules.optimizers import Together, drawn_with
from fedmrn.torch.rules.twins import Twin


class Diced(Holding):
    """An optimiser, or several, whose parameters are drawn anew in each step.

    A step of one of several optimisers draws what it holds. What the others hold may be in a graph that is yet to go
    backward, and stays as it is, as in plain training.

    Args:
        inners: the optimisers.
        view: the model's tensors and their places.

    Attributes:
        taken: local steps so far.
        twins: the parameters of which the optimiser sees another tensor than the model.
    """

    def __init__(self, inners: Sequence[torch.optim.Optimizer], view: ModelLayout) -> None:
        super().__init__(inners[0] if len(inners) == 1 else Together(inners), view)
        self._inners, self.taken = tuple(inners), 0
        self.twins: tuple[Twin, ...] = ()
        self._own: tuple[Twin, ...] | None = None

    @property
    def own(self) -> tuple[Twin, ...]:
        """The parameters that are drawn anew: all, or in a step of one of several optimisers those that it holds."""
        return self.twins if self._own is None else self._own

    @contextmanager
    def drawing_for(self, inner: Any) -> Iterator[None]:
        """Let only what an optimiser holds be drawn anew, where there are several."""
        if len(self._inners) > 1 and isinstance(inner, torch.optim.Optimizer):
            self._own = drawn_with(inner, self._inners, self.twins)
        try:
            yield
        finally:
            self._own = None

    def give_way(self) -> None:
        """Train this model no more: another rule was attached to it."""
        super().give_way()
        self.twins = ()

    def retreat(self) -> None:
        """Take back that a step was counted."""
        self._count(-1)

    def advance(self) -> None:
        """Count a step: what `step` does before `device_step`, and a captured step before it is replayed.

        Raises:
            ConfigError: after `finish`.
        """
        self._check_open()
        self._count(1)

    def _count(self, steps: int) -> None:
        """Count steps. Parameters that are not drawn anew stay with the dice that they have."""
        self.taken += steps
        if self._own is not None:
            own = {id(twin) for twin in self._own}
            for twin in self.twins:
                twin.behind += steps * (id(twin) not in own)
