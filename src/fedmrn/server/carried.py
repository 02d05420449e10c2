"""What a server keeps from round to round beside its state."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.server.caps import Caps
from fedmrn.server.publisher import Published
from fedmrn.server.scheme import Scheme
from fedmrn.wire.layout import Layout


@dataclass(frozen=True)
class Carried:
    """What a server keeps from round to round beside its state.

    Attributes:
        moments: of the scheme's optimizer, float32, shape (slots, trained parameters).
        caps: how much one client may move, as the rounds before showed; None where nothing is known.
        public: the public models, and who holds which; None where there are none, or before round 1.
    """

    moments: NDArray[np.float32]
    caps: Caps | None = None
    public: Published | None = None

    def known(self, layout: Layout) -> Caps:
        """Return the caps; those before round 1 where nothing is known."""
        return self.caps or Caps.at_start(layout)

    @classmethod
    def at_start(cls, layout: Layout, scheme: Scheme) -> "Carried":
        """Return what a server has before round 1."""
        return cls(scheme.optimizer.start(layout.trainable), Caps.at_start(layout))
