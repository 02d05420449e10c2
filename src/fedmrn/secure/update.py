"""An update's frame as numbers that are summed, and their sum as what the server folds.

Of each client travel: a bit for each coded element; in fixed point each value of side data; and, where the server tells
the scales of noise, how many powers of two each tensor's wish is from what was told, a whole number from -8 to 8. So
wishes are summed like the rest, and the next round's scale follows their mean.
"""

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, Raw, codec_from
from fedmrn.codecs.mask.masked_noise import MaskedNoise
from fedmrn.codecs.mask.told_scale import ToldScale
from fedmrn.errors import ConfigError, WrongRoundError, WrongTemplateError
from fedmrn.numerics.masking import MaskType
from fedmrn.secure.collector import Total
from fedmrn.secure.lanes import Lanes, fixed, lane_type, signed
from fedmrn.secure.session import Session
from fedmrn.server.caps import STILL
from fedmrn.server.rules import ServerRule
from fedmrn.server.scheme import Scheme
from fedmrn.server.summed import FARTHEST, MaskSum
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group, Layout

SIDE = (Group.DENSE, Group.STATS, Group.VARIANCE)
"""Groups that travel as reals, in their order in the flat vector."""


def check_scheme(scheme: Scheme, layout: Layout) -> None:
    """Refuse a scheme whose updates cannot be summed as bits.

    Raises:
        ConfigError: says what to set.
    """
    if not _is_signed(scheme.codecs[Group.CODED]):
        raise ConfigError('secure sums are of signed masks that travel as they are: method "fedmrn-s", coding "raw"')
    if not scheme.shared_key:
        raise ConfigError('secure sums need one noise for all clients of a round: set noise_key = "round"')
    if scheme.weighted:
        raise ConfigError("secure sums count all clients alike: set equal = true (FedMRN(..., equal=True))")
    if type(scheme.rule) is not ServerRule:
        raise ConfigError("secure sums give the mean of the updates alone, and this server rule needs more")
    if any(scheme.codecs[group] != Raw() for group in SIDE if layout.sizes(group)):
        raise ConfigError('secure sums send side data in fixed point: leave side = "float32"')


def _is_signed(coded: Codec) -> bool:
    """Whether a code is a signed mask, a bit an element as it is, of one scale or of told ones."""
    told = ToldScale.of(coded)
    masked = MaskedNoise.of(coded if told is None else told.inner)
    return masked is not None and masked.mask is MaskType.SIGNED


def shape_of(scheme: Scheme, layout: Layout) -> tuple[int, int]:
    """Return how many bits and how many reals an update is."""
    coded = layout.span(Group.CODED).stop
    wishes = len(layout.sizes(Group.CODED)) if ToldScale.of(scheme.codecs[Group.CODED]) else 0
    return coded, wishes + layout.size - coded


def numbers_of(update: Frame, session: Session) -> Lanes:
    """Return the numbers of an update that a client made.

    Raises:
        WrongRoundError: it is of another round than the session.
        WrongTemplateError: its code is none that can be summed.
        FrameError: its mask does not decode.
        EncodeError: a value is not finite.
    """
    if update.round != session.round:
        raise WrongRoundError(f"the update is of round {update.round}, the secure sum of round {session.round}")
    wishes = np.zeros(0, np.int64)
    bits = np.zeros(0, np.uint8)
    reals: list[NDArray[np.uint32]] = []
    coded = update.select(Role.UPDATE, Group.CODED)
    if coded is not None:
        written = codec_from(coded.codec, coded.params)
        if not _is_signed(written):
            raise WrongTemplateError(
                f"secure sums are of signed masks that travel as they are, and the server asks for {written.name}: "
                "nothing was sent; tell whoever runs the server"
            )
        codec, mask = ToldScale.of(written), coded.body
        if codec is not None:
            told, wanted, mask = codec.split(coded.body, coded.count, float("inf"))
            apart = np.clip(wanted.astype(np.int64) - told.exponents, -FARTHEST, FARTHEST)
            wishes = np.where(wanted > STILL, apart, 0)
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=coded.count)
    reals.append(wishes.astype(np.uint32))
    for group in SIDE:
        section = update.select(Role.UPDATE, group)
        if section is not None:
            values = codec_from(section.codec, section.params).decode(section.body, section.count, update.noise_key)
            reals.append(fixed(values, session))
    return Lanes(bits.astype(lane_type(session), copy=False), np.concatenate(reals))


def mask_sum(total: Total, clients: tuple[int | str, ...], session: Session, layout: Layout) -> MaskSum:
    """Return the sum of the clients that answered as the server folds it."""
    reals = signed(total.numbers.reals)
    side = layout.size - layout.span(Group.CODED).stop
    wishes = reals[: reals.size - side]
    return MaskSum(
        clients=tuple(clients[i] for i in total.members),
        ones=total.numbers.bits,
        side=reals[reals.size - side :],
        fraction=session.fraction,
        wishes=wishes if wishes.size else None,
    )
