"""What all codecs of masked noise share: the mask in plain, and where the scale of its noise comes from."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from fedmrn.codecs.base import Codec
from fedmrn.codecs.mask.scale import Fixed, NoiseScale
from fedmrn.codecs.observation import DENSITY, Observable
from fedmrn.errors import ConfigError
from fedmrn.whole import shown

if TYPE_CHECKING:
    from fedmrn.codecs.mask.budget import Dial
    from fedmrn.codecs.mask.masked_noise import MaskedNoise


class MaskCodec(Codec):
    """A codec whose values are a mask times seeded noise, in whatever form the mask is sent."""

    observables: ClassVar[tuple[Observable, ...]] = (DENSITY,)

    @property
    @abstractmethod
    def masked(self) -> "MaskedNoise":
        """The codec that sends the same mask as plain bits."""

    @abstractmethod
    def over(self, masked: "MaskedNoise") -> "MaskCodec":
        """Return `masked`. Codecs that wrap a mask return a copy of themselves around it."""

    def spending(self, budget: float) -> "MaskCodec":
        """Return this codec for clients that may spend a budget, in bits a parameter; itself for 0.

        Raises:
            ConfigError: the budget is out of its range, or scales of this codec do not follow it.
        """
        if budget:
            raise ConfigError(
                f'budget = {shown(budget)}: clients meet it by the scales of their noise; set scale = "auto" '
                f"of a random code (codec {self.name} leaves them no choice)"
            )
        return self

    def dial(self, sizes: Sequence[int], key: int, caps: Sequence[int] = ()) -> "Dial | None":
        """Return what finds the scales of a client in a round such that it spends its budget; None where none is told.

        Args:
            sizes: of the tensors that are not empty.
            key: the client's sampling key.
            caps: exponents of the largest scales that are allowed, one a tensor; none where none is told.

        Raises:
            EncodeError: there are caps for another number of tensors.
        """
        return None

    @property
    def noise_scale(self) -> NoiseScale:
        """Where the scale of the noise comes from."""
        return Fixed(self.masked.noise.scale)

    @property
    def own_scales(self) -> bool:
        """Whether each client chooses the scale of its noise."""
        return self.noise_scale.follows_update

    @property
    def known_magnitude(self) -> bool:
        """Whether the scale is a parameter: unless clients choose it."""
        return not self.own_scales
