"""Write a model's state and a client's update into frames, and read a state back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Codec, EncodeKeys, Raw, codec_from
from fedmrn.codecs.base import check_finite
from fedmrn.errors import (
    BoundError,
    EncodeError,
    MalformedFrameError,
    NonFiniteError,
    WrongKindError,
    WrongLayoutError,
)
from fedmrn.whole import whole
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits, Role, Section
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.public import groups_of, is_public, read_public, state_section
from fedmrn.wire.terms import read_terms
from fedmrn.wire.told import scales_to_keep, told_caps, told_scales
from fedmrn.wire.variance import fault_of

Start = Callable[[], NDArray[np.float32]]
"""Returns the weights that a client's model started with, float32, shape (layout.size,)."""
_RAW = Raw()
_NO_KEYS = EncodeKeys(0, 0)


def _parts(layout: Layout) -> list[tuple[Group, slice]]:
    return [(group, layout.span(group)) for group in groups_of(layout)]


def templates(layout: Layout, codecs: Mapping[Group, Codec]) -> tuple[Section, ...]:
    """Return what a broadcast asks of an update: a template section for each group that has elements."""
    return tuple(
        Section(codecs[g].id, Role.TEMPLATE, g, s.stop - s.start, codecs[g].params()) for g, s in _parts(layout)
    )


def state_sections(
    layout: Layout,
    state: NDArray[np.float32],
    codecs: Mapping[Group, Codec] | None = None,
    keys: EncodeKeys = _NO_KEYS,
) -> tuple[Section, ...]:
    """Return the model's state as sections of a broadcast, in exact float32 unless codecs are given.

    Variances, and a group that has a value beyond what its codec can write, are exact float32 whatever is given. The
    bodies of exact sections are views of the state, not copies.

    Raises:
        EncodeError: if the state is not finite.
    """
    sections = []
    for group, span in _parts(layout):
        codec, part = (codecs or {}).get(group, _RAW), state[span]
        if group is Group.VARIANCE or not codec.holds(part):
            codec = _RAW
        body: bytes | memoryview
        if codec == _RAW:
            check_finite(part)
            body = np.ascontiguousarray(part, "<f4").data.cast("B")
        else:
            body = codec.encode(part, replace(keys, sizes=layout.sizes(group)))
        sections.append(Section(codec.id, Role.STATE, group, span.stop - span.start, codec.params(), body))
    return tuple(sections)


def model_frame(
    layout: Layout,
    model: NDArray[np.float32],
    *,
    method: int,
    round: int,
    codecs: Mapping[Group, Codec],
    keys: EncodeKeys,
) -> Frame:
    """Return the frame that carries a model to evaluate, coded as a broadcast's state would be.

    Args:
        layout: of the model.
        model: its values, float32, shape (layout.size,).
        method: id of the method that made it.
        round: that it is the model after.
        codecs: for each group; exact where nothing is said.
        keys: of codecs that draw; the frame carries `keys.noise`.

    Raises:
        EncodeError: as `state_sections`.
    """
    sections = state_sections(layout, model, codecs, keys)
    return Frame(Kind.MODEL, method, round, keys.noise, layout.digest, 0, sections)


def read_model(
    frame: Frame, layout: Layout, held: Held | None = None, start: Start | None = None
) -> NDArray[np.float32]:
    """Return the model to evaluate that a frame carries, float32, shape (layout.size,).

    Args:
        frame: of kind model.
        layout: of the model.
        held, start: as for `read_state`; nothing is kept of it.

    Raises:
        WrongKindError: the frame is another than of a model.
        WrongLayoutError, FrameError: as `read_state`.
    """
    _check_kind(frame, layout, Kind.MODEL)
    return _read_values(frame, layout, held, start)[0]


def _check_kind(frame: Frame, layout: Layout, kind: Kind) -> None:
    if frame.kind is not kind:
        raise WrongKindError(f"a frame of kind {kind.name.lower()} was expected, got {frame.kind.name.lower()}")
    if frame.layout_digest != layout.digest:
        own = f", which has {len(layout.tensors)} from {layout.tensors[0].name} on" if layout.tensors else ""
        raise WrongLayoutError(
            f"the {kind.name.lower()} is for a model with other tensors than this one{own}: names, shapes and "
            "choose=... must be the same as the server's"
        )


def _check_broadcast(frame: Frame, layout: Layout) -> None:
    _check_kind(frame, layout, Kind.BROADCAST)
    read_terms(frame)
    told_caps(frame, layout)
    told_scales(frame, layout)


def check_templates(broadcast: Frame, layout: Layout) -> None:
    """Refuse a broadcast that does not ask for exactly the groups of the layout, each in full.

    Raises:
        MalformedFrameError: says which group.
    """
    asked = {s.group: s.count for s in broadcast.sections if s.role is Role.TEMPLATE}
    sizes = {group: span.stop - span.start for group, span in _parts(layout)}
    for group in sorted({*asked, *sizes}):
        if asked.get(group) != sizes.get(group):
            raise MalformedFrameError(
                f"the broadcast asks for {asked.get(group, 0)} elements of group {group.name.lower()}, of which the "
                f"model has {sizes.get(group, 0)}"
            )


def read_state(
    frame: Frame, layout: Layout, held: Held | None = None, start: Start | None = None
) -> NDArray[np.float32]:
    """Return the state that a broadcast carries, float32, shape (layout.size,).

    Args:
        frame: the broadcast.
        layout: of the model.
        held: what this client keeps of public models (`down = "grid"`); this one is put to it. Without it only a whole
            model can be read.
        start: where the server counts from the run's starting weights, and `held` does not have those.

    Raises:
        LostModelError: it is a difference to a public model that is not held.
        WrongStartError: the server counts from other starting weights, or from some where `start` is not given.
        WrongKindError: the frame is no broadcast.
        WrongLayoutError: it is for a model with other tensors.
        NonFiniteError, BoundError: a value is not finite, or a variance is negative.
        FrameError: a section is missing, of another length, or does not decode; or terms that cannot be.
    """
    _check_broadcast(frame, layout)
    state, keep = _read_values(frame, layout, held, start)
    keep()
    return state


def read_exact_state(saved: Frame, layout: Layout) -> NDArray[np.float32]:
    """Return the state in what a server saved, float32, shape (layout.size,).

    Raises:
        FrameError: it is of a model with other tensors, or a section is missing, of another codec, or does not decode.
    """
    if saved.layout_digest != layout.digest:
        raise WrongLayoutError("it is of a model with other tensors than this one")
    if any(s.role is Role.STATE and s.codec != Raw.id for s in saved.sections):
        raise MalformedFrameError("a saved state is not exact")
    return _read_values(saved, layout)[0]


def _read_values(
    frame: Frame, layout: Layout, held: Held | None = None, start: Start | None = None
) -> tuple[NDArray[np.float32], Callable[[], None]]:
    """Return the values, and what keeps them as the public model that they are."""
    if is_public(frame):
        return _read_public(frame, layout, held or Held(layout), start)
    state = np.empty(layout.size, np.float32)
    for group, span in _parts(layout):
        section = state_section(frame, layout, group)
        codec = codec_from(section.codec, section.params)
        if codec.needs_state:
            raise MalformedFrameError(f"codec {codec.name} is for updates of a state, not for a state")
        if group is Group.VARIANCE and codec != _RAW:
            raise MalformedFrameError(f"the state of group variance travels by codec raw, this is {codec.name}")
        state[span] = codec.decode(section.body, section.count, frame.noise_key)
    fault = fault_of(layout, state)
    if fault is not None:
        raise (BoundError if fault.finite else NonFiniteError)(f"the broadcast's model is not usable: {fault}")
    return state, lambda: None


def _read_public(
    frame: Frame, layout: Layout, held: Held, start: Start | None
) -> tuple[NDArray[np.float32], Callable[[], None]]:
    model, heading = read_public(frame, layout, held.find, lambda: held.starts(start))
    return model.values.copy(), lambda: held.keep(model, heading)


def encode_update(
    broadcast: Frame,
    layout: Layout,
    vector: NDArray[np.float32],
    *,
    weight: int,
    sampling_key: int,
    codecs: Mapping[Group, Codec] | None = None,
    state: NDArray[np.float32] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Frame:
    """Return the update frame that a broadcast asked for.

    Values of the groups beside the coded one are clipped to what their codecs can write and `limits.max_value` allows:
    a server would refuse larger ones in every round.

    Args:
        broadcast: what the server sent.
        layout: of the model.
        vector: the update relative to the broadcast state, float32, shape (layout.size,); of variances, the change of
            their logarithms (`fedmrn.wire.variance.log_change`).
        weight: of this client in the mean: samples or batches, 1 to 2^64 - 1, of any integer type.
        sampling_key: the client's own 64-bit key, fresh for each round.
        codecs: used in place of the templates' where given; must have the same parameters.
        state: what `read_state` returns, if it is at hand already; some codecs need it.
        limits: the server's.

    Raises:
        EncodeError: the vector is not finite or not of the layout's size, the weight is no whole number in its range,
            or a codec has other parameters than its template.
        WrongKindError: the frame is no broadcast.
        WrongLayoutError: it is for a model with other tensors.
        FrameError: a template cannot be met, or terms that cannot be.
    """
    _check_broadcast(broadcast, layout)
    if not isinstance(vector, np.ndarray) or vector.shape != (layout.size,):
        found = f"shape {vector.shape}" if isinstance(vector, np.ndarray) else f"type {type(vector).__name__}"
        raise EncodeError(f"the update is a float32 array of shape ({layout.size},), got {found}")
    weight = whole(weight, "a client's weight", error=EncodeError)
    asked: Sequence[Section] = [s for s in broadcast.sections if s.role is Role.TEMPLATE]
    sections = []
    for t in asked:
        span, group = layout.span(t.group), t.group.name.lower()
        if t.count != span.stop - span.start:
            raise MalformedFrameError(f"the broadcast asks for {t.count} elements of group {group}")
        codec = (codecs or {}).get(t.group) or codec_from(t.codec, t.params)
        if (codec.id, codec.params()) != (t.codec, t.params):
            raise EncodeError(f"the codec for group {group} is not the one that the broadcast asked for")
        if codec.needs_state:
            state = read_state(broadcast, layout) if state is None else state
            codec = codec.bind(state[span])
        keys = EncodeKeys(broadcast.noise_key, sampling_key, layout.sizes(t.group))
        part = vector[span]
        if t.group is not Group.CODED:
            check_finite(part)
            part = codec.fitted(part, limits.max_value)
        elif codec.sends_scales:
            keys = scales_to_keep(broadcast, layout, codec, keys, limits)
        body = codec.encode(part, keys)
        sections.append(Section(t.codec, Role.UPDATE, t.group, t.count, t.params, body))
    return Frame(
        Kind.UPDATE, broadcast.method, broadcast.round, broadcast.noise_key, layout.digest, weight, tuple(sections)
    )
