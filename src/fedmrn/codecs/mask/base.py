"""What all codecs of masked noise share: the mask in plain, and where the scale of its noise comes from."""

from abc import abstractmethod
from typing import TYPE_CHECKING

from fedmrn.codecs.base import Codec
from fedmrn.codecs.mask.scale import Fixed, NoiseScale

if TYPE_CHECKING:
    from fedmrn.codecs.mask.masked_noise import MaskedNoise


class MaskCodec(Codec):
    """A codec whose values are a mask times seeded noise, in whatever form the mask is sent."""

    @property
    @abstractmethod
    def masked(self) -> "MaskedNoise":
        """The codec that sends the same mask as plain bits."""

    @abstractmethod
    def over(self, masked: "MaskedNoise") -> "MaskCodec":
        """Return `masked`. Codecs that wrap a mask return a copy of themselves around it."""

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
