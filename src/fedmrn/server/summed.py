"""A round's updates as one sum of masks, where single updates were never seen (`fedmrn.secure`).

Under one noise key a signed mask's bits stand for the same number of every client, so that the sum of n updates is
noise * (2 * ones - n). It is made of the noise as the fold has it, in whole units: equal to the bit to the sum of the
single updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, Opened
from fedmrn.codecs.mask.told_scale import ToldScale
from fedmrn.codecs.observation import DENSITY, Observed
from fedmrn.codecs.scales import TensorScales
from fedmrn.errors import WrongParametersError
from fedmrn.server.fold import ExactSum
from fedmrn.server.plan import RoundPlan
from fedmrn.server.sum import Contribution
from fedmrn.wire.layout import Group, Layout

_CLIP_EXPONENT = 6
"""Side data is at most 2^6 (`fedmrn.secure.session.CLIP`)."""
FARTHEST = 8
"""Powers of two that a client's wish is from the scale that was told, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSum:
    """The sum of some clients' signed masks and side data.

    Attributes:
        clients: whose.
        ones: how many of them set each bit, uint8 or uint16, shape (coded elements,).
        side: the sum of each other element, in units of 2^-fraction, int64, shape (other elements,).
        fraction: f.
        wishes: for each coded tensor that is not empty, the sum of how many powers of two the scale that fits a client
            is above the one that was told, int64; None where none was told.
    """

    clients: tuple[int | str, ...]
    ones: NDArray[np.uint8] | NDArray[np.uint16]
    side: NDArray[np.int64]
    fraction: int
    wishes: NDArray[np.int64] | None

    def check(self, layout: Layout) -> None:
        """Refuse a sum that is not of the layout's shape, or beyond what so many clients can have.

        Raises:
            WrongParametersError: says which.
        """
        coded = layout.span(Group.CODED).stop
        if self.ones.shape != (coded,) or self.side.shape != (layout.size - coded,) or not self.clients:
            raise WrongParametersError("a sum of masks is of another model")
        if coded and int(self.ones.max()) > len(self.clients):
            raise WrongParametersError(f"more bits are set than {len(self.clients)} clients have: one sent no mask")
        n = len(self.clients)
        for values, most in ((self.side, n << (_CLIP_EXPONENT + self.fraction)), (self.wishes, n * FARTHEST)):
            if values is not None and values.size and not -most <= int(values.min()) <= int(values.max()) <= most:
                raise WrongParametersError(f"a sum of side data is beyond what {n} clients can send: one sent another")

    def wanted_scales(self, told: tuple[int, ...]) -> NDArray[np.int16] | None:
        """Return the exponents of the scales that fit the clients on average, int16, one a tensor."""
        if self.wishes is None:
            return None
        n = len(self.clients)
        return np.asarray(np.array(told, np.int64) + (2 * self.wishes + n) // (2 * n), np.int16)


def full_mask(plan: RoundPlan, codec: Codec, noise_key: int) -> Opened:
    """Return a mask of ones over a round's noise: its values are the noise."""
    count = plan.layout.span(Group.CODED).stop
    body = np.packbits(np.ones(count, np.uint8), bitorder="little").tobytes()
    if ToldScale.of(codec) is not None and plan.caps is not None:
        exponents = np.array(plan.caps.told_scales, np.int32)
        ends = np.cumsum(plan.layout.sizes(Group.CODED), dtype=np.int64)
        scales = TensorScales(ends, np.ldexp(np.float32(1), exponents))
        body = scales.to_bytes() + exponents.astype(np.int8).tobytes() + body
    return codec.open(body, count, noise_key, plan.limits.max_value)


def fold_sum(sums: ExactSum, codecs: Mapping[Group, Codec], total: MaskSum, noise_key: int) -> None:
    """Make an empty sum that of the clients' updates, in the same units as theirs would be. Not inside `with sums:`."""
    layout, n = sums.plan.layout, len(total.clients)
    coded = layout.span(Group.CODED)
    if Group.CODED in sums.sums:
        with sums:
            sums.add(Group.CODED, Contribution(full_mask(sums.plan, codecs[Group.CODED], noise_key), 1))
        sums.settle()
    with sums:
        if Group.CODED in sums.sums:
            whole, times = sums.sums[Group.CODED], 2 * total.ones.astype(np.int64) - n
            whole.integers *= times
            if whole.rest is not None:
                whole.rest *= times
        for group, part in sums.sums.items():
            if group is not Group.CODED:
                span = layout.span(group)
                part.set_units([part.integers.size], [2.0**_CLIP_EXPONENT])
                values = total.side[span.start - coded.stop : span.stop - coded.stop]
                part.integers[:] = values << (part.units[0].exponent - total.fraction)


def observed_of(total: MaskSum, opened: Opened, tensors: list[slice]) -> Observed:
    """Return what single updates would have shown of each tensor, summed over clients."""
    n, found = len(total.clients), dict(opened.observed(tensors))
    found = {what: [n * number for number in numbers] for what, numbers in found.items()}
    found[DENSITY] = [int(total.ones[where].sum(dtype=np.int64)) for where in tensors]
    return found
