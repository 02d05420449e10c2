"""What the measurement of `scale.py` folds: frames of synthetic clients, each with its own id, key and weight.

A plain mask is a valid body under any key, so that a few are encoded and the rest is copied. A coded mask belongs to
its noise: each is encoded under its client's key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

import numpy as np
from numpy.typing import NDArray

from fedmrn import Layout, Server, TensorSpec, method
from fedmrn.server import EdgeRound
from fedmrn.server.scheme import Scheme
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update

BODIES = 3
"""Distinct plain updates; the clients take them in turn. Coded masks differ by their noise anyway."""
FIRST = 3
"""Clients of the round before, which teaches the server its caps."""
PERIOD = 50
"""Clients after which weights repeat; they are 1 to this."""
MOST = 32
"""What a client counts at most: four times the lower median of the weights of the round before."""
ROUND = 2
"""The round that is measured."""
_TINY = 1 << 16
_BLOCK = (32 << 20) - (1 << 16)
"""Bytes to free once: glibc then keeps blocks of this size, as in a process that has worked for a while."""
SECRET = b"a secret of this study"
RAW = "raw"


@dataclass(frozen=True)
class Case:
    """A round that is measured.

    Attributes:
        method, coding: of the masks.
        parameters: all of them coded, a multiple of `tensors`.
        clients: of the whole tree.
        tensors: of the model, all of one size.
    """

    method: str
    coding: str
    parameters: int
    clients: int
    tensors: int = 16

    @property
    def name(self) -> str:
        """What the case is called in the data, and its folder."""
        return f"{self.kind}-{self.parameters}-{self.tensors}-{self.clients}"

    @property
    def kind(self) -> str:
        """What has constants of its own."""
        return f"{self.method}-{self.coding}"

    @property
    def layout(self) -> Layout:
        """Of the model."""
        size = self.parameters // self.tensors
        return Layout.of(TensorSpec(f"w{i}", (size,), Group.CODED) for i in range(self.tensors))

    @property
    def bodies(self) -> int:
        """How many distinct updates there are."""
        return BODIES if self.coding == RAW else 1

    def scheme(self, down: str) -> Scheme:
        """Return what server and clients agree on."""
        return method(self.method).scheme({"coding": self.coding}, down=down)

    def update(self, number: int) -> NDArray[np.float32]:
        """Return one of the distinct updates, normal, float32, shape (parameters,)."""
        generator = np.random.Generator(np.random.Philox([number, self.parameters]))
        vector: NDArray[np.float32] = generator.standard_normal(self.parameters, np.float32)
        vector *= np.float32(0.01)
        return vector

    def server(self) -> Server:
        """Return a server after one round of a few clients."""
        server = self.start("float32")
        whole_round(self, server, 1, range(FIRST))
        return server

    def start(self, down: str) -> Server:
        """Return a server at the start of a run."""
        model = np.zeros(self.parameters, np.float32)
        scheme = self.scheme(down)
        state = Server.initial(self.layout, scheme, model)
        return Server(self.layout, scheme, state, SECRET, run=bytes(16), threads=1)


def weight_of(client: int) -> int:
    """Return the weight that a client claims: about what a client has of samples, and of a few bits."""
    return 1 + 7 * client % PERIOD


def whole_round(case: Case, server: Server, number: int, clients: range) -> None:
    """Let a server have a round in which each client answers."""
    round_ = server.begin(number, clients)
    for client in clients:
        asked = round_.broadcast_frame(client)
        vector = case.update(client % case.bodies)
        round_.add(client, encoded(case, asked, vector, client).to_bytes())
    round_.finish()


def encoded(case: Case, asked: Frame, vector: NDArray[np.float32], client: int) -> Frame:
    """Return a client's answer to a broadcast, by the library's own encoder."""
    weight = weight_of(client)
    return encode_update(asked, case.layout, vector, weight=weight, sampling_key=client)


class Maker:
    """Makes the frames of a round's clients.

    Args:
        case: which round.
        broadcast: of any of its clients.
    """

    def __init__(self, case: Case, broadcast: Frame) -> None:
        told = tuple(s for s in broadcast.sections if s.role is not Role.STATE)  # the state is large, and not needed
        broadcast = replace(broadcast, sections=told)
        self.case, self._broadcast = case, broadcast
        alike = replace(broadcast, noise_key=0)  # the same bodies wherever they are made
        self._vectors, self._frames = list[NDArray[np.float32]](), list[Frame]()
        for i in range(case.bodies):
            vector = case.update(i)
            if case.coding == RAW:
                self._frames.append(encoded(case, alike, vector, i))
            else:
                self._vectors.append(vector)

    def frame(self, client: int, key: int) -> bytes:
        """Return a client's frame, under its noise key."""
        if self._frames:
            made = self._frames[client % self.case.bodies]
            return replace(made, noise_key=key, weight=weight_of(client)).to_bytes()
        asked = replace(self._broadcast, noise_key=key)
        return encoded(self.case, asked, self._vectors[client % self.case.bodies], client).to_bytes()


def warm_up(case: Case) -> None:
    """Have a tiny round of the same kind, so that what is measured compiles and loads nothing."""
    tiny = replace(case, parameters=_TINY, clients=2, tensors=16)
    server = tiny.server()
    for number in (ROUND, ROUND + 1):
        round_ = server.begin(number, range(tiny.clients))
        assigned = round_.assign({"edge": range(tiny.clients)})["edge"]
        edge = EdgeRound.from_bytes(assigned, tiny.layout, threads=1)
        maker = Maker(tiny, round_.broadcast_frame(0))
        for client in range(tiny.clients):
            edge.add(client, maker.frame(client, round_.broadcast_frame(client).noise_key))
        round_.merge("edge", edge.partial())
        round_.finish()
    np.empty(_BLOCK, np.uint8)


class Clock:
    """CPU seconds of this process, user and system, by what they were spent on."""

    def __init__(self, spent: dict[str, float] | None = None) -> None:
        self.spent = dict(spent or {})

    def add(self, what: str, seconds: float) -> None:
        """Note seconds."""
        self.spent[what] = self.spent.get(what, 0.0) + seconds

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Note what is spent inside."""
        start = process_time()
        yield
        self.add(what, process_time() - start)


def peak() -> int:
    """Return the most memory that this process had since `forget_peak`, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def forget_peak() -> None:
    """Count the most memory anew from here, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # another system, or not allowed: the figure is then too large
        return
