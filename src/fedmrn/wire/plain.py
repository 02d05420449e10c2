"""Frames as they would be without compression, for accounts of bytes."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Raw, codec_from
from fedmrn.errors import LimitError
from fedmrn.numerics.bits import packed_size
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Limits, Role, Section
from fedmrn.wire.layout import Group
from fedmrn.wire.public import GRID

_RAW = Raw()


def plain(
    frame: Frame, limits: Limits = DEFAULT_LIMITS, public: Callable[[Group], NDArray[np.float32]] | None = None
) -> Frame:
    """Return the frame without compression: masks of one bit an element, state and side data as float32.

    Byte accounts compare a frame with this. In an update's coded group only masks are written out: the bytes of any
    other codec are the method itself, and stay. A broadcast's templates become those of the plain update.

    Args:
        frame: any.
        limits: of the sections' bytes.
        public: group -> its values, float32, of the public model that the frame leads to; without it such sections
            stay as they are.

    Raises:
        LimitError: a section would have more bytes than the limits allow.
        FrameError: a section that is coded does not decode.
    """
    found = []
    for s in frame.sections:
        if s.role is Role.STATE and s.codec == GRID:
            body = s.body if public is None else public(s.group).astype("<f4", copy=False).tobytes()
            found.append(s if public is None else Section(_RAW.id, s.role, s.group, s.count, _RAW.params(), body))
        else:
            found.append(_plain(s, frame.noise_key, limits.max_bytes))
    return replace(frame, sections=tuple(found))


def _plain(section: Section, noise_key: int, most: int) -> Section:
    if section.role in {Role.TERMS, Role.MOMENTS, Role.SERVER, Role.START, Role.PUBLIC}:
        return section
    codec = codec_from(section.codec, section.params)
    body = section.body
    if section.group is Group.CODED and section.role is not Role.STATE:
        if section.role is Role.UPDATE:
            if codec.uncoded is not codec and packed_size(section.count) > most:
                raise LimitError(f"a mask of {section.count} elements is more than {most} bytes")
            body = codec.uncode(body, section.count, noise_key)
        codec = codec.uncoded
    elif codec != _RAW and not codec.needs_state:  # what is bound to a state cannot be read without it
        if section.role is not Role.TEMPLATE:
            if 4 * section.count > most:
                raise LimitError(f"{section.count} values are more than {most} bytes as float32")
            body = codec.decode(body, section.count, noise_key).astype("<f4", copy=False).tobytes()
        codec = _RAW
    return replace(section, codec=codec.id, params=codec.params(), body=body)
