"""A server put away: one file with all that it keeps, readable by its owner only, since the secret is in it.

The file `checkpoint.bin` is a frame of kind SAVED: checksum, layout digest, method and round come with it. It holds the
state as exact sections, the moments of the server's optimizer, what there is of public models
(`fedmrn.server.saved_public`), and one section of role SERVER, whose body is read here.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Raw
from fedmrn.errors import (
    ConfigError,
    FrameError,
    MalformedFrameError,
    RunError,
    UnsupportedVersionError,
    WrongKindError,
    WrongMethodError,
)
from fedmrn.files import clear_scraps, read_file, write_atomic
from fedmrn.server.caps import Caps, Exponents
from fedmrn.server.carried import Carried
from fedmrn.server.saved_public import client_name, public_state, read_client, read_public_state
from fedmrn.server.scheme import Scheme
from fedmrn.server.statistics import check_moments
from fedmrn.wire.frame import OWN_LIMITS, Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import read_exact_state, state_sections
from fedmrn.wire.terms import LARGEST_CAP, LEAST_CAP

FILE = "checkpoint.bin"
RUN_SIZE = 16
"""Bytes of a run's id."""
_VERSION = 1
_HEAD = struct.Struct("<16sBQIII")  # run, bytes of the secret, cap of weights (0: none), scales, values, clients
_LENGTH = struct.Struct("<I")
_NONE = np.iinfo(np.int16).min


@dataclass(frozen=True, kw_only=True)
class Saved:
    """All that a server keeps: see `fedmrn.server.Server`."""

    layout: Layout
    method: int
    round: int
    run: bytes
    secret: bytes
    state: NDArray[np.float32]
    carried: Carried
    asked: tuple[int | str, ...]


def write_saved(folder: Path, saved: Saved) -> None:
    """Write `checkpoint.bin` as a whole, or not at all.

    Raises:
        OSError: it cannot be written; it is then as it was.
    """
    sections = [*state_sections(saved.layout, saved.state)]
    moments = saved.carried.moments
    if moments.size:
        body = np.ascontiguousarray(moments, "<f4").data.cast("B")
        sections.append(Section(Raw.id, Role.MOMENTS, Group.CODED, moments.size, b"", body))
    if saved.carried.public is not None:
        sections += public_state(saved.layout, saved.carried.public)
    sections.append(Section(0, Role.SERVER, Group.CODED, 1, bytes([_VERSION]), _body(saved)))
    frame = Frame(Kind.SAVED, saved.method, saved.round, 0, saved.layout.digest, 0, tuple(sections))
    clear_scraps(folder)  # of saves that were killed: the secret is in them
    write_atomic(folder / FILE, frame.to_bytes(), private=True)


def saved_round(folder: Path) -> int:
    """Return the round of a folder's checkpoint, 0 if there is none.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / FILE
    return _frame(path).round if path.exists() else 0


def read_saved(folder: Path, layout: Layout, scheme: Scheme) -> Saved:
    """Return what was saved of a server of this scheme.

    Raises:
        RunError: the file is missing, damaged, or of another model, method or optimizer.
    """
    path = folder / FILE
    frame = _frame(path)
    try:
        if frame.method != scheme.method:
            raise WrongMethodError(f"it is of method {frame.method}, the scheme's is {scheme.method}")
        state = read_exact_state(frame, layout)
        run, secret, caps, asked = _read_body(frame, layout)
        moments = _moments(frame, (scheme.optimizer.slots, layout.trainable))
        public = None if scheme.grid is None else read_public_state(frame, layout)
        scheme.rule.check(state[layout.span(Group.CODED)])
        check_moments(moments)
    except (FrameError, ConfigError) as error:
        raise RunError(f"{path} does not fit: {error}{_CURE}") from error
    return Saved(
        layout=layout,
        method=frame.method,
        round=frame.round,
        run=run,
        secret=secret,
        state=state,
        carried=Carried(moments, caps, public),
        asked=asked,
    )


_CURE = "; delete it to start anew, or put back the file that belongs there"


def _frame(path: Path) -> Frame:
    data = read_file(path, OWN_LIMITS.max_bytes, _CURE)
    if data is None:
        raise RunError(f"{path} is not there: no server was saved in this folder")
    try:
        return Frame.from_bytes(data, kind=Kind.SAVED, limits=OWN_LIMITS)
    except WrongKindError as error:
        raise RunError(f"{path} is not a server's checkpoint, or of an older version of fedmrn{_CURE}") from error
    except FrameError as error:
        raise RunError(f"{path} is damaged ({error}){_CURE}") from error


def _body(saved: Saved) -> bytes:
    caps, clients = saved.carried.known(saved.layout), b""
    for client in saved.asked:
        text = client_name(client)
        clients += _LENGTH.pack(len(text)) + text
    sizes = (len(saved.secret), caps.weight or 0, len(caps.scales), len(caps.values), len(saved.asked))
    return _HEAD.pack(saved.run, *sizes) + saved.secret + _packed(caps.scales) + _packed(caps.values) + clients


def _packed(exponents: Exponents) -> bytes:
    return np.array([_NONE if e is None else e for e in exponents], "<i2").tobytes()


def _unpacked(data: memoryview) -> Exponents:
    found = tuple(None if e == _NONE else e for e in np.frombuffer(data, "<i2").tolist())
    if not all(e is None or LEAST_CAP <= e <= LARGEST_CAP for e in found):
        raise MalformedFrameError(f"a cap is not from 2^{LEAST_CAP} to 2^{LARGEST_CAP}")
    return found


def _read_body(frame: Frame, layout: Layout) -> tuple[bytes, bytes, Caps, tuple[int | str, ...]]:
    section = frame.select(Role.SERVER, Group.CODED)
    if section is None or len(section.params) != 1:
        raise MalformedFrameError("it lacks what a server keeps beside its state")
    if section.params[0] != _VERSION:
        raise UnsupportedVersionError(f"it is of version {section.params[0]}; this library reads version {_VERSION}")
    view = memoryview(section.body)
    if len(view) < _HEAD.size:
        raise MalformedFrameError("what a server keeps ends too early")
    run, secret, weight, scales, values, clients = _HEAD.unpack_from(view)
    expected = Caps.at_start(layout)
    if (scales, values) != (len(expected.scales), len(expected.values)):
        raise MalformedFrameError("its caps are not for the tensors of this model")
    ends = np.cumsum([_HEAD.size, secret, 2 * scales, 2 * values]).tolist()
    if len(view) < ends[-1] or not 16 <= secret <= 64:
        raise MalformedFrameError("what a server keeps ends too early, or its secret has a length that cannot be")
    parts = [view[a:b] for a, b in pairwise(ends)]
    asked = tuple(_clients(view[ends[-1] :], clients))
    return run, bytes(parts[0]), Caps(weight or None, _unpacked(parts[1]), _unpacked(parts[2])), asked


def _clients(view: memoryview, count: int) -> Iterator[int | str]:
    at = 0
    for _ in range(count):
        if len(view) - at < _LENGTH.size:
            raise MalformedFrameError("the list of clients ends too early")
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        data = bytes(view[at : at + length])
        at += length
        if len(data) != length:
            raise MalformedFrameError(f"a client is named {data[:40]!r}")
        yield read_client(data)
    if at != len(view):
        raise MalformedFrameError(f"{len(view) - at} bytes follow the list of clients")


def _moments(frame: Frame, shape: Sequence[int]) -> NDArray[np.float32]:
    section, size = frame.select(Role.MOMENTS, Group.CODED), prod(shape)
    if section is None and not size:
        return np.zeros(tuple(shape), np.float32)
    if section is None or section.count != size:
        found = 0 if section is None else section.count
        raise MalformedFrameError(f"it has {found} moments; the optimizer of this setting has {size}")
    return Raw().decode(section.body, section.count, 0).reshape(tuple(shape))
