"""Server rules: how the coded part of the server's state moves by what came back.

The dense part and the statistics always move by the mean of the updates, variances by that of their logarithms. A rule
says which planes it wants summed, what state a run starts with, and which models its state stands for: for most
methods, the state itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from math import e, sqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, Plane, Sparse
from fedmrn.errors import ConfigError
from fedmrn.numerics.noise import gaussian_table
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.numerics.sparsity import kept, largest
from fedmrn.server.schedule import CubicSchedule
from fedmrn.whole import shown
from fedmrn.wire.layout import Group, Layout

F32 = NDArray[np.float32]


class Sees(Enum):
    """Which of the server's two states a rule's `step` starts from; they differ where clients are shown less."""

    EXACT = "exact"
    """The state itself: what clients did not see of it stays, and a later broadcast may show it."""
    SHOWN = "shown"
    """What clients were shown: the models that come back are meant in full, and what was not shown is gone."""


@dataclass(frozen=True)
class ServerRule:
    """state + mean of the updates (FedAvg; McMahan et al. 2017, Algorithm 1), and the base of the other rules."""

    planes: ClassVar[tuple[Plane, ...]] = (Plane.VALUE,)
    """What is summed; `step` gets the means in this order."""
    sees: ClassVar[Sees] = Sees.EXACT
    """What `step` is given as the state. An update is a difference to what clients were shown, and it is added to the
    exact state: were it added to what was shown, every round would lose again what its broadcast leaves out. The same
    holds for votes and for pruning; rules that make the state from the means alone do not look at it."""
    needs_zeros: ClassVar[bool] = False
    """Whether clients must see exactly which weights are zero."""
    shows_weights: ClassVar[bool] = True
    """Whether the coded state is weights, which may be rounded to a grid around what they started as."""

    def codec(self, round: int, codec: Codec) -> Codec:
        """Return the codec of the coded group in this round, given that of the scheme."""
        return codec

    def start(self, weights: F32) -> F32:
        """Return the coded state that a run starts with, from freshly initialised weights, float32, shape (d,)."""
        return weights

    def check(self, state: F32) -> None:
        """Refuse a coded state that this rule cannot have made.

        Raises:
            ConfigError: says what is wrong with it.
        """

    def step(self, round: int, state: F32, *means: F32) -> F32:
        """Return the coded state after this round, float32; all shapes (d,).

        Args:
            round: its number.
            state: the coded part of what the rule `sees`.
            means: of the planes.
        """
        return state + means[0]

    def settle(self, state: F32, asked: F32) -> F32:
        """Return a coded state that this rule could have made, near the one that a server optimizer moved to.

        Args:
            state: where the optimizer moved to.
            asked: what `step` returned.
        """
        return state

    def models(self, layout: Layout, state: F32, round: int) -> Iterator[F32]:
        """Yield the models that a whole state, float32, shape (layout.size,), stands for; results are averaged."""
        yield state


def check_binarisation(warmup: float, rho: float) -> None:
    """Refuse settings that FedBAT's local rule cannot train with.

    Raises:
        ConfigError: warmup is not a share of the steps, or rho is negative.
    """
    if not 0 <= warmup <= 1 or not rho >= 0:
        raise ConfigError(f"warmup is a share of the steps, 0 to 1, and rho at least 0; got {warmup}, {rho}")


@dataclass(frozen=True)
class MajorityVote(ServerRule):
    """state + the mean scale of each tensor times the sign that most clients sent; a draw moves nothing.

    SignSGD with majority vote (Bernstein et al., ICLR 2019), with a measured scale in place of a tuned step. Votes
    count by the clients' weights.
    """

    planes: ClassVar[tuple[Plane, ...]] = (Plane.SIGN, Plane.SCALE)

    def step(self, round: int, state: F32, *means: F32) -> F32:
        """Return the coded state after this round."""
        votes, scale = means
        return np.asarray(state + np.sign(votes) * scale, np.float32)


def _unpruned(weights: F32) -> F32:
    """Replace zeros by 2^-60: a zero stands for a pruned weight, and a fresh bias is not one."""
    return np.where(weights == 0, np.float32(2.0**-60), weights)


@dataclass(frozen=True)
class _Pruned(ServerRule):
    """Rules whose state has weights that are exactly zero, the pruned ones."""

    needs_zeros: ClassVar[bool] = True

    def start(self, weights: F32) -> F32:
        """Return the weights, none of them zero."""
        return _unpruned(weights)

    def settle(self, state: F32, asked: F32) -> F32:
        """Return the state with the zeros that `step` asked for."""
        return np.where(asked == 0, np.float32(0), _unpruned(state))


@dataclass(frozen=True)
class Prune(_Pruned):
    """Add the mean, then keep the largest weights of the whole vector (FedSparsify-Global; Stripelis et al. 2022)."""

    schedule: CubicSchedule

    def step(self, round: int, state: F32, *means: F32) -> F32:
        """Return the coded state after this round, with the schedule's share of zeros."""
        moved = state + means[0]
        if not moved.size:
            return moved
        keep = largest(moved, kept(self.schedule.density(round), moved.size))
        return np.where(keep, moved, np.float32(0))


class Merge(StrEnum):
    """How pruned models become one (FedSparsify-Local; Stripelis et al. 2022)."""

    MAJORITY = "majority"
    """The mean, where at least half of the clients kept the weight; else zero."""
    NONZERO = "nonzero"
    """The mean over the clients that kept it."""
    MEAN = "mean"
    """The mean over all clients."""


@dataclass(frozen=True)
class MergePruned(_Pruned):
    """The next state is merged from the weights that clients kept; how many those are follows the schedule."""

    planes: ClassVar[tuple[Plane, ...]] = (Plane.VALUE, Plane.KEPT)
    schedule: CubicSchedule
    merge: Merge = Merge.MAJORITY

    def codec(self, round: int, codec: Codec) -> Codec:
        """Return the sparse codec of this round's density."""
        return Sparse(self.schedule.density(round))

    def step(self, round: int, state: F32, *means: F32) -> F32:
        """Return the coded state after this round."""
        mean, share = means
        if self.merge is Merge.MAJORITY:
            return np.where(share >= 0.5, mean, np.float32(0))
        if self.merge is Merge.NONZERO:
            return np.divide(mean, share, out=np.zeros_like(mean), where=share > 0)
        return mean


def frozen_weights(layout: Layout, seed: int) -> F32:
    """Return the weights that FedPM never trains: +-e / sqrt(fan-in), signs at random; float32, shape (coded,).

    e is Euler's number, as in the published code. The fan-in of a tensor is its size over its first axis; of one with a
    single axis, its size.
    """
    span = layout.span(Group.CODED)
    signs = Stream(seed, domain(Purpose.FROZEN)).words(0, span.stop) >> np.uint32(31)
    values: F32 = signs.astype(np.float32) * np.float32(-2) + np.float32(1)
    for tensor, where in zip(layout.tensors, layout.slices.values(), strict=True):
        if tensor.group is Group.CODED and tensor.size:
            fan_in = tensor.size / tensor.shape[0] if len(tensor.shape) > 1 else tensor.size
            values[where] *= np.float32(e / sqrt(fan_in))
    return values


class Scores(StrEnum):
    """The scores that FedPM starts with: the logits of its probabilities."""

    HALF = "half"
    """All 0, so that every weight is there with probability 1/2."""
    NORMAL = "normal"
    """Drawn from N(0, 1), as in the published code; here from the seed of the frozen weights."""


def normal_scores(seed: int, count: int) -> F32:
    """Return scores by the law N(0, 1), float32, shape (count,): quantiles of a table, as gaussian noise has."""
    words = Stream(seed, domain(Purpose.SCORES)).words(0, count)
    sizes = gaussian_table()[words >> np.uint32(20)]
    return np.asarray(np.where(words >> np.uint32(19) & np.uint32(1), -sizes, sizes), np.float32)


@dataclass(frozen=True)
class MeanMask(ServerRule):
    """The coded state is the probability of each weight, the mean of the masks (FedPM; Isik et al., ICLR 2023).

    With the prior Beta(1, 1) of the paper, reset every round, the posterior's mode is the mean. Bits count as `low` and
    1 - low, as in the published code, so that scores stay finite. A model is w0 times a sampled mask.

    Raises:
        ConfigError: samples is below 1.
    """

    shows_weights: ClassVar[bool] = False
    seed: int
    low: float = 0.01
    samples: int = 3
    initial: Scores = Scores.HALF

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"at least 1 sampled model is evaluated, got {shown(self.samples)}")

    def check(self, state: F32) -> None:
        """Refuse a state that is not of probabilities, in [0, 1]: weights, most likely."""
        if ((state < 0) | (state > 1)).any():
            raise ConfigError("the state of FedPM is a probability a weight, not weights; see Server.initial")

    def start(self, weights: F32) -> F32:
        """Return probabilities of 1/2, or of drawn scores."""
        if self.initial is Scores.HALF:
            return np.full_like(weights, 0.5)
        scores = normal_scores(self.seed, weights.size).astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-scores)), np.float32)

    def step(self, round: int, state: F32, *means: F32) -> F32:
        """Return the mean mask."""
        return np.float32(self.low) + np.float32(1 - 2 * self.low) * means[0]

    def settle(self, state: F32, asked: F32) -> F32:
        """Return probabilities from `low` to 1 - low."""
        return state.clip(np.float32(self.low), np.float32(1 - self.low))

    def models(self, layout: Layout, state: F32, round: int) -> Iterator[F32]:
        """Yield `samples` models with masks drawn from the probabilities."""
        coded = layout.span(Group.CODED)
        frozen = frozen_weights(layout, self.seed)
        for sample in range(self.samples):
            stream = Stream(self.seed, domain(Purpose.EVALUATE, round * self.samples + sample))
            model = state.copy()
            model[coded] = frozen * (stream.uniform(0, coded.stop) < state[coded])
            yield model
