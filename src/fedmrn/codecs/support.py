"""Support: the values where the broadcast's state is not zero, and nothing else (FedSparsify, global pruning).

Both sides know which elements those are, so no mask travels: four bytes for each of them.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs.base import Codec, EncodeKeys, check_finite
from fedmrn.codecs.raw import Raw
from fedmrn.codecs.sparse import OpenedPlaces
from fedmrn.errors import ConfigError, EncodeError, MalformedFrameError


@dataclass(frozen=True)
class Support(Codec):
    """Float32 for each element that is not zero in the state; needs `bind` before it reads or writes."""

    id: ClassVar[int] = 8
    name: ClassVar[str] = "support"
    needs_state: ClassVar[bool] = True
    places: NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    size: int = field(default=0, compare=False, repr=False)

    def bind(self, state: NDArray[np.float32]) -> "Support":
        """Return the codec for this state."""
        return replace(self, places=np.flatnonzero(state), size=state.size)

    def _places(self, count: int) -> NDArray[np.int64]:
        if self.places is None or self.size != count:
            raise ConfigError(f"codec support is bound to a state of {self.size} elements, asked for {count}")
        return self.places

    @property
    def unbiased(self) -> bool:
        """Yes, it is exact."""
        return True

    @property
    def any_vector(self) -> bool:
        """False: it is made for updates that are zero where the state is."""
        return False

    def params(self) -> bytes:
        """Return no bytes: the state is known from the broadcast."""
        return b""

    @classmethod
    def from_params(cls, params: bytes) -> Self:
        """Return the codec, not yet bound; its parameters are empty."""
        if params:
            raise MalformedFrameError(f"codec support has no parameters, got {len(params)} bytes")
        return cls()

    def bound(self, max_value: float) -> float:
        """Return the receiver's limit: `open` checks every value against it."""
        return max_value

    def encode(self, vector: NDArray[np.float32], keys: EncodeKeys) -> bytes:
        """Return the values where the state is not zero.

        Raises:
            EncodeError: a value outside the support is not zero.
            ConfigError: the codec is not bound to a state of this size.
        """
        check_finite(vector)
        places = self._places(vector.size)
        if np.count_nonzero(vector) != np.count_nonzero(vector[places]):
            raise EncodeError("an update is not zero where the broadcast's state is: pruned weights must stay zero")
        return vector[places].astype("<f4", copy=False).tobytes()

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedPlaces:
        """Check the length and every value.

        Raises:
            MalformedFrameError: the body is not 4 bytes for each element of the support.
            NonFiniteError: a value is NaN or infinite.
            BoundError: a magnitude is above max_value.
            ConfigError: the codec is not bound to a state of this size.
        """
        places = self._places(count)
        Raw().open(body, places.size, noise_key, max_value)
        return OpenedPlaces(places, np.frombuffer(body, "<f4"))
