"""A federation of three clients, of whom one is recorded: what it is sent, what it answers, what each frame says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Bernoulli, OwnScale, ToldScale, codec_from
from fedmrn.methods import METHODS
from fedmrn.numerics.private import Dice, private_codewords
from fedmrn.numerics.rng import Stream, derive_key
from fedmrn.server import Server
from fedmrn.server.grid import PublicGrid
from fedmrn.wire.frame import Frame
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import encode_update, read_model, read_state
from fedmrn.wire.statistics import of_statistics, statistics_frame
from fedmrn.wire.variance import log_change

F32 = NDArray[np.float32]
SECRET, CLIENTS, RECORDED = bytes(range(16)), ("ann", "bob", "cyd"), "ann"
WEIGHTS = dict(zip(CLIENTS, (120, 37, 64), strict=True))
SCALED = (OwnScale.id, ToldScale.id)
"""Codecs around another, whose number is their first parameter."""
_VALUES = 1 << 63  # the domain of drawn values; none of the library's streams has it


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a case is about.

    Attributes:
        name, about: of the case.
        method, options, side, down: as for `fedmrn.methods.Method.scheme`.
        layout: a key of `LAYOUTS`.
        rounds: how many; the number of the first one is `first`.
        spread: updates lie within it.
        moved: the share of elements that an update moves.
        steady: the share of starting weights that are 0.
        calibrated: whether the server asks for statistics in the end.
        largest: a weight of this size is among the starting ones.
        lost: whether the recorded client's second update gets lost, and its second public model comes whole.
    """

    name: str
    about: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    side: str = "float32"
    down: str | PublicGrid = "float16"
    layout: str = "plain"
    rounds: int = 1
    first: int = 1
    spread: float = 0.02
    moved: float = 0.9
    steady: float = 0.0
    calibrated: bool = False
    largest: float = 0.0
    lost: bool = False


def drawn(count: int, *labels: str | int) -> F32:
    """Return numbers uniform in [-1, 1), multiples of 2^-23, a pure function of the labels."""
    uniform = Stream(derive_key(b"vectors", *labels), _VALUES).uniform(0, count)
    return np.asarray(uniform * np.float32(2) - np.float32(1))


def starting_weights(layout: Layout, setting: Setting) -> F32:
    """Return the weights that a run starts with: with both zeros, the smallest subnormal, and a variance of 0."""
    found = drawn(layout.size, "start", setting.layout) * np.float32(0.25)
    if setting.steady:
        found[np.abs(drawn(layout.size, "steady", setting.layout)) < setting.steady] = 0
    found[:3] = -0.0, 0.0, 2.0**-149
    if setting.largest:
        found[3] = setting.largest
    where = layout.span(Group.VARIANCE)
    found[where] = np.abs(found[where]) * np.float32(8)
    found[where][:1] = 0
    return found


def drawn_update(layout: Layout, setting: Setting, state: F32, client: str, number: int) -> F32:
    """Return what a client learnt, by the meaning of each group (docs/wire-format.md, section 6.1)."""
    labels = (setting.layout, client, number)
    found = drawn(layout.size, "update", *labels) * np.float32(setting.spread)
    found[np.abs(drawn(layout.size, "moved", *labels)) >= setting.moved] = 0
    where = layout.span(Group.VARIANCE)
    factor = np.exp(drawn(layout.size, "factor", *labels)[where], dtype=np.float32)
    found[where] = log_change(state[where], state[where] * factor)
    return found


class Play:
    """A run of a setting.

    Attributes:
        layout: of the model.
        server: of the run.
        start: the weights that it started with.
    """

    def __init__(self, layout: Layout, setting: Setting) -> None:
        self.layout, self.setting = layout, setting
        method = METHODS[setting.method]
        scheme = method.scheme(setting.options, setting.side, setting.down, equal="theta" in setting.options)
        self.start = starting_weights(layout, setting)
        state = Server.initial(layout, scheme, self.start)
        run = derive_key(b"vectors", "run", setting.name).to_bytes(8, "little") * 2
        self.server = Server(layout, scheme, state, SECRET, run=run, round=setting.first - 1, threads=1)
        self.held = {client: Held(layout, self.start) for client in CLIENTS}

    def fitting(self, state: F32, vector: F32) -> F32:
        """Return the vector as one that the method can send: a probability, or zero where weights are pruned."""
        coded, codec = self.layout.span(Group.CODED), self.server.scheme.codecs[Group.CODED]
        if isinstance(codec, Bernoulli):
            vector[coded] = (vector[coded] / np.float32(self.setting.spread) + 1) / 2
        elif codec.needs_state:
            vector[coded] *= state[coded] != 0
        elif self.setting.method == "fedsparsify-local":
            vector[coded] += state[coded]
        return vector

    def answer(self, client: str, number: int, data: bytes) -> tuple[Frame, F32, int]:
        """Return a client's update, what was written, and its own key."""
        broadcast = Frame.from_bytes(data)
        state = read_state(broadcast, self.layout, self.held[client], lambda: self.start)
        vector = self.fitting(state, drawn_update(self.layout, self.setting, state, client, number))
        key = derive_key(b"vectors", "sampling", self.setting.name, client, number)
        budget = self.setting.options.get("budget")
        codecs = {}
        if budget:
            codecs = {Group.CODED: codec_from(*_coded_template(broadcast)).spending(budget)}  # type: ignore[attr-defined]
        weight, written, theta = WEIGHTS[client], vector, self.server.scheme.theta
        if theta:
            weight, noise = 1, codec_from(*_coded_template(broadcast)).masked.noise  # type: ignore[attr-defined]
            written = private_codewords(vector, noise, broadcast.noise_key, theta, Dice(key))
        frame = encode_update(
            broadcast, self.layout, written, weight=weight, sampling_key=key, codecs=codecs, state=state
        )
        return frame, vector, key

    def statistics(self, client: str, frame: Frame) -> Frame:
        """Return a client's answer to a model: its statistics, as it found them on its samples."""
        own = of_statistics(self.layout)
        model = read_model(frame, self.layout, self.held[client], lambda: self.start)[self.layout.trainable :]
        factor = np.float32(1) + drawn(own.size, "statistics", client) * np.float32(0.25)
        return statistics_frame(frame, self.layout, model * factor, weight=WEIGHTS[client])


def _coded_template(broadcast: Frame) -> tuple[int, bytes]:
    """Return codec and parameters that a broadcast asks for."""
    own = next(s for s in broadcast.sections if s.group is Group.CODED)
    return own.codec, own.params


def update_values(update: Frame, layout: Layout, state: F32) -> F32:
    """Return what the server adds up of an update, float32, shape (layout.size,)."""
    found = np.empty(layout.size, np.float32)
    for section in update.sections:
        where = layout.span(section.group)
        codec = codec_from(section.codec, section.params).bind(state[where])
        found[where] = codec.decode(section.body, section.count, update.noise_key)
    return found


def codecs_of(frame: Frame) -> set[int]:
    """Return the codecs that it takes to read a frame: the outer and the inner ones."""
    return {s.codec for s in frame.sections} | {s.params[0] for s in frame.sections if s.codec in SCALED}
