"""What a broadcast tells of the scales of coded tensors, checked against the model: caps, or the scales themselves."""

from dataclasses import replace
from math import frexp

from fedmrn.codecs import Codec, EncodeKeys, codec_from
from fedmrn.errors import MalformedFrameError
from fedmrn.wire.frame import Frame, Limits, Role
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.terms import LARGEST_CAP, LEAST_CAP, read_caps, read_scales


def told_caps(broadcast: Frame, layout: Layout) -> tuple[int, ...]:
    """Return the exponents of the largest scale of each coded tensor that is not empty; none where none is told.

    Raises:
        MalformedFrameError: they are not as many as the model has tensors.
        FrameError: as `fedmrn.wire.terms.read_caps`.
    """
    caps, tensors = read_caps(broadcast), len(layout.sizes(Group.CODED))
    if caps and len(caps) != tensors:
        raise MalformedFrameError(f"the broadcast tells {len(caps)} caps, and the model has {tensors} coded tensors")
    return caps


def told_scales(broadcast: Frame, layout: Layout) -> tuple[int, ...]:
    """Return the exponents of the scales that a broadcast tells, one for each coded tensor that is not empty; or none.

    Raises:
        MalformedFrameError: they are not as many as the model has tensors, none is told to a codec that takes them,
            or some are to one that does not.
        FrameError: as `fedmrn.wire.terms.read_scales`; or the template is of no codec.
    """
    scales, tensors = read_scales(broadcast), len(layout.sizes(Group.CODED))
    asked = broadcast.select(Role.TEMPLATE, Group.CODED)
    codec = None if asked is None else codec_from(asked.codec, asked.params)
    takes = codec is not None and codec.told_multiple is not None and tensors
    if len(scales) != (tensors if takes else 0):
        name = "no codec" if codec is None else f"codec {codec.name}"
        raise MalformedFrameError(
            f"the broadcast tells {len(scales)} scales to {name}, and the model has {tensors} coded tensors"
        )
    return scales


def largest_scale(codec: Codec, limits: Limits) -> int:
    """Return the exponent of the largest scale of a codec whose values are all within the limits."""
    most = frexp(limits.largest / codec.bound_of_scale(1.0))[1] - 1
    return min(max(most, LEAST_CAP), LARGEST_CAP)


def scales_to_keep(broadcast: Frame, layout: Layout, codec: Codec, keys: EncodeKeys, limits: Limits) -> EncodeKeys:
    """Return the keys with the caps and scales that a broadcast tells: no cap's values are beyond the limits.

    Raises:
        FrameError: as `told_caps` and `told_scales`.
    """
    most = largest_scale(codec, limits)
    caps = tuple(min(cap, most) for cap in told_caps(broadcast, layout) or (most,) * len(keys.sizes))
    return replace(keys, caps=caps, scales=told_scales(broadcast, layout))
