"""Local rules that train the weights themselves and differ in what they keep, or in what they hand over."""

from typing import ClassVar

import torch

from fedmrn.torch.rules.base import F32, LocalRule
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group


class ErrorFeedback(LocalRule):
    """Train freely, add what earlier rounds left unsent, keep what this frame leaves unsent (Seide et al. 2014;
    Stich et al. 2018, Algorithm 1).

    `memory` after `finish` belongs to the client: it is passed in again the next time this client takes part. With
    partial participation it is as old as that.
    """

    remembers: ClassVar[bool] = True

    def update(self) -> F32:
        """Return the difference, and in its coded part what earlier rounds left unsent."""
        vector = super().update()
        if self.memory is not None:
            vector[: self.size] += self.memory
        self._wanted = vector[: self.size].copy()
        return vector

    def release(self, frame: Frame) -> None:
        """Keep what this frame leaves unsent."""
        self.memory = self._wanted - self.decoded(frame)


class KeepSupport(LocalRule):
    """Train the weights that are not zero in the broadcast; the others stay zero (FedSparsify-Global; Stripelis et al.
    2022; the published code trains with the global mask too)."""

    def begin(self) -> None:
        """Note which weights may move."""
        specs = zip(self.view.tensors, self.view.layout.tensors, strict=True)
        self._kept = [(t, t.detach() != 0) for t, spec in specs if spec.group is Group.CODED]

    @torch.no_grad()
    def settle(self) -> None:
        """Put the pruned weights back to zero."""
        moved = {id(twin.tensor): twin.moved for twin in self.twins}
        for tensor, kept in self._kept:
            tensor.mul_(kept)
            if id(tensor) in moved:
                moved[id(tensor)].mul_(kept)


class HandOverWeights(KeepSupport):
    """Train the weights that are not zero, and hand over the weights for the codec to prune (FedSparsify-Local)."""

    def update(self) -> F32:
        """Return the weights in the coded part, and the difference elsewhere."""
        weights = self.view.read()
        vector = weights - self.received
        vector[: self.size] = weights[: self.size]
        return vector
