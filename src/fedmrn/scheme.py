"""Schemes: which codec each tensor group uses and how the server moves; and the table of methods.

A method is a scheme and the name of a local rule (`fedmrn.torch.RULES`): what local training optimises.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, Levels, MaskedNoise, Raw, Rotated, Scale, Sign, SignRule, Sparse, Ternary
from fedmrn.errors import ConfigError
from fedmrn.layout import Group
from fedmrn.masking import MaskType
from fedmrn.noise import Law, NoiseSpec
from fedmrn.text import nearest


class ServerRule(Protocol):
    """How the server's state moves."""

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the next state from this one and the mean update; float32, one shape (d,)."""


@dataclass(frozen=True, slots=True)
class AddMean:
    """state + mean of the updates (FedAvg; McMahan et al. 2017, Algorithm 1)."""

    def step(self, state: NDArray[np.float32], mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return state + mean."""
        return state + mean


@dataclass(frozen=True)
class Scheme:
    """What server and clients agree on.

    Attributes:
        method: id of the method, repeated in every frame.
        codecs: for each group.
        rule: how the server's state moves.
        weighted: whether clients count by their weight, or alike.
    """

    method: int
    codecs: Mapping[Group, Codec]
    rule: ServerRule = field(default_factory=AddMean)
    weighted: bool = True


@dataclass(frozen=True, slots=True)
class NoiseOptions:
    """What a masked-noise method can be told; the other methods ignore it."""

    law: str = "uniform"
    scale: float = 0.01

    def spec(self) -> NoiseSpec:
        """Return the noise.

        Raises:
            ConfigError: for an unknown law or an unusable scale.
        """
        names = [law.name.lower() for law in Law]
        if self.law not in names:
            raise ConfigError(f"noise law {self.law!r} does not exist{nearest(self.law, names)}")
        return NoiseSpec(Law[self.law.upper()], self.scale)


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the comparison.

    Attributes:
        id: its code on the wire, 0..65535.
        name: what a person types.
        summary: one line.
        local: the name of its local rule.
        codec: makes the codec of the CODED group.
        scale: the published noise scale, None where there is no noise.
    """

    id: int
    name: str
    summary: str
    local: str
    codec: Callable[[NoiseOptions], Codec]
    scale: float | None = None

    def scheme(self, noise: NoiseOptions | None = None) -> Scheme:
        """Return the scheme.

        Raises:
            ConfigError: if the noise options are unusable.
        """
        if noise is None:
            noise = NoiseOptions() if self.scale is None else NoiseOptions(scale=self.scale)
        return Scheme(self.id, {Group.CODED: self.codec(noise), Group.DENSE: Raw(), Group.STATS: Raw()})


_ROWS = (
    Method(1, "fedavg", "float32 updates, the reference", "plain", lambda _: Raw()),
    Method(
        2,
        "fedmrn",
        "masked random noise, binary mask {0, n}: one bit a parameter",
        "masked-noise",
        lambda noise: MaskedNoise(noise.spec(), MaskType.BINARY),
        0.01,
    ),
    Method(
        3,
        "fedmrn-s",
        "masked random noise, signed mask {-n, n}: one bit a parameter",
        "masked-noise",
        lambda noise: MaskedNoise(noise.spec(), MaskType.SIGNED),
        0.005,
    ),
    Method(4, "signsgd", "signs, and the mean magnitude a tensor: one bit", "plain", lambda _: Sign()),
    Method(
        5,
        "signsgd-stochastic",
        "random signs of +-max|x| a tensor, unbiased: one bit",
        "plain",
        lambda _: Sign(SignRule.STOCHASTIC),
    ),
    Method(6, "topk", "the 3 % of largest magnitude, no error feedback", "plain", lambda _: Sparse(0.03)),
    Method(7, "terngrad", "random {-s, 0, s}, s a tensor, clipped at 2.5 sigma", "plain", lambda _: Ternary()),
    Method(8, "qsgd", "random rounding to 7 levels a sign, norms of 128: 4 bits", "plain", lambda _: Levels(7, 128)),
    Method(9, "drive", "rotation and signs, unbiased (EDEN at 1 bit): one bit", "plain", lambda _: Rotated(1)),
    Method(10, "drive-mse", "rotation and signs, least error: one bit", "plain", lambda _: Rotated(1, Scale.MSE)),
    Method(11, "eden2", "rotation and 2-bit centroids, unbiased", "plain", lambda _: Rotated(2)),
    Method(12, "eden4", "rotation and 4-bit centroids, unbiased", "plain", lambda _: Rotated(4)),
    Method(
        13,
        "eden-half",
        "EDEN below one bit: a random half of the elements, unbiased",
        "plain",
        lambda _: Rotated(1, keep=0.5),
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({m.name: m for m in _ROWS})


def method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ConfigError: if there is none; the message suggests the nearest.
    """
    if name not in METHODS:
        raise ConfigError(f"method {name!r} does not exist{nearest(name, METHODS)}")
    return METHODS[name]
