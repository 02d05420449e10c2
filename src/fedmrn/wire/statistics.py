"""Statistics frames: what a client found of a model that it was sent to calibrate, on its own samples.

They hold running statistics and running variances as they are, in exact float32, and nothing of the trained parameters.
"""

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Raw
from fedmrn.errors import BoundError, EncodeError, MalformedFrameError, WrongKindError, WrongLayoutError
from fedmrn.whole import whole
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.variance import CEILING, fault_of

F32 = NDArray[np.float32]
_GROUPS = (Group.STATS, Group.VARIANCE)


def of_statistics(layout: Layout) -> Layout:
    """Return the layout of the statistics and variances alone; the flat vector has them at its end."""
    return Layout(tuple(tensor for tensor in layout.tensors if not tensor.group.trained))


def statistics_frame(model: Frame, layout: Layout, values: F32, *, weight: int) -> Frame:
    """Return the frame that answers a model.

    Args:
        model: what the server sent.
        layout: of the model.
        values: its statistics and variances, float32, shape (`of_statistics(layout).size`,).
        weight: of this client: samples, 1 to 2^64 - 1, of any integer type.

    Raises:
        EncodeError: a value is not finite, a variance negative, or the weight or the shape wrong.
        WrongKindError, WrongLayoutError: the frame is of no model, or of one with other tensors.
    """
    _check(model, layout, Kind.MODEL)
    own = of_statistics(layout)
    if values.shape != (own.size,):
        raise EncodeError(f"the statistics are of shape ({own.size},), got {values.shape}")
    fault = fault_of(own, values)
    if fault is not None:
        raise EncodeError(f"{fault}: the model cannot be calibrated with these samples")
    weight = whole(weight, "a client's weight", error=EncodeError)
    parts = [(group, values[own.span(group)]) for group in _GROUPS]
    sections = tuple(
        Section(Raw.id, Role.STATE, group, part.size, b"", np.ascontiguousarray(part, "<f4").tobytes())
        for group, part in parts
        if part.size
    )
    return Frame(Kind.STATISTICS, model.method, model.round, model.noise_key, layout.digest, weight, sections)


def read_statistics(frame: Frame, layout: Layout, limits: Limits = DEFAULT_LIMITS) -> F32:
    """Return the statistics and variances that a frame carries, float32, shape (`of_statistics(layout).size`,).

    Raises:
        WrongKindError, WrongLayoutError: it is no frame of statistics, or of a model with other tensors.
        MalformedFrameError: a section is missing, too many, of another codec or length.
        NonFiniteError, BoundError: a value is not finite or above the limit, or a variance negative or above 2^126.
    """
    _check(frame, layout, Kind.STATISTICS)
    own = of_statistics(layout)
    spans = [(group, own.span(group)) for group in _GROUPS]
    wanted = [(group, span) for group, span in spans if span.stop > span.start]
    found = [(s.group, s.codec, s.params, s.count) for s in frame.sections]
    if found != [(group, Raw.id, b"", span.stop - span.start) for group, span in wanted]:
        raise MalformedFrameError("the sections are not the statistics and variances of the model, as float32")
    values = np.empty(own.size, np.float32)
    for section, (group, span) in zip(frame.sections, wanted, strict=True):
        most = CEILING if group is Group.VARIANCE else limits.max_value
        Raw().open(section.body, section.count, 0, most).read(0, values[span])
    fault = fault_of(own, values)
    if fault is not None:
        raise BoundError(f"{fault}")
    return values


def _check(frame: Frame, layout: Layout, kind: Kind) -> None:
    if frame.kind is not kind:
        raise WrongKindError(f"a frame of kind {kind.name.lower()} was expected, got {frame.kind.name.lower()}")
    if frame.layout_digest != layout.digest:
        raise WrongLayoutError(f"the frame of kind {kind.name.lower()} is for a model with other tensors than this one")
