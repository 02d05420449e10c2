"""FedMRN-S, and its masks made private: the local rule of signed masks."""

from collections.abc import Hashable
from typing import Any, ClassVar

from fedmrn.codecs import Codec, MaskCodec
from fedmrn.errors import MalformedFrameError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law
from fedmrn.numerics.private import Dice, check_theta, private_codewords
from fedmrn.torch.rules.base import F32
from fedmrn.torch.rules.masked_noise import MaskedTraining
from fedmrn.wire.frame import Frame
from fedmrn.wire.private import check_sums_alone


class SignedTraining(MaskedTraining):
    """Train through signed masks; with `theta`, train without dice and send a private mask.

    Training through noise that hides a client among many gains nothing, and can cost accuracy (docs/privacy.md), so a
    private client trains as FedAvg's does. Its update is clipped to +-2 theta scale when the mask is drawn, with dice
    of the operating system (of the sampling key where one is given: a simulation's, which are not private). Its frame
    says weight 1.

    Args:
        theta: how far from 1/2 the probability of a sent bit may be, at most 1/4; 0: masks are not private.
        **options: as for `MaskedTraining`.
    """

    options: ClassVar[tuple[str, ...]] = (*MaskedTraining.options, "theta")

    def __init__(self, *args: Any, theta: float = 0.0, **options: Any) -> None:
        self.theta = theta
        super().__init__(*args, **options)

    def read_codec(self, codec: Codec | None) -> None:
        """Note the noise, and refuse what would not be private."""
        if self.theta:
            check_theta(self.theta)
            check_sums_alone(self.view.layout, self.theta)
            asked = MaskCodec.of(codec)
            plain = None if asked is None or asked is not asked.masked else asked.masked
            if plain is None or (plain.mask, plain.noise.law) != (MaskType.SIGNED, Law.BERNOULLI):
                raise MalformedFrameError(
                    "the broadcast tells theta, which plain signed masks over Bernoulli noise have"
                )
        super().read_codec(codec)

    def _q(self, step: int) -> float:
        return 0.0 if self.theta else super()._q(step)

    def handed_over(self) -> F32:
        """Return the coded part of the update; where it is private, the codewords that are sent."""
        u = super().handed_over()
        if not self.theta:
            return u
        return private_codewords(u, self._codec.noise, self.broadcast.noise_key, self.theta, Dice(self.given_key))

    def captured(self) -> Hashable | None:
        """Return what a captured step depends on: none is captured where clients train without dice."""
        return None if self.theta else super().captured()

    def finish(self, *, weight: int) -> Frame:
        """Return the update frame and give the model back; see `LocalRule.finish`."""
        return super().finish(weight=1 if self.theta else weight)
