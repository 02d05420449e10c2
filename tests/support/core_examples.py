"""A small federation for the tests of the core: a layout with all three groups, and one round of it."""

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import Bernoulli
from fedmrn.methods import method
from fedmrn.numerics.rng import Stream
from fedmrn.server import Round, Server
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Limits
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

LAYOUT = Layout.of(
    [
        TensorSpec("a.weight", (3, 4), Group.CODED),
        TensorSpec("norm.weight", (5,), Group.DENSE),
        TensorSpec("a.bias", (9,), Group.CODED),
        TensorSpec("norm.mean", (3,), Group.STATS),
    ]
)
SECRET = b"sixteen bytes or"
CLIENTS = ("ann", "bob", "cyd")
PUBLISHED = {"fedmrn": {"scale": 0.01}, "fedmrn-s": {"scale": 0.005}}
"""Options of methods whose frames have the one published scale, and no table of scales."""


def noisy(size: int, key: int, spread: float = 0.01) -> NDArray[np.float32]:
    """A float32 vector, uniform in [-spread, spread), a pure function of its arguments."""
    return ((Stream(key, 1 << 63).uniform(0, size) - np.float32(0.5)) * np.float32(2 * spread)).astype(np.float32)


def begin(
    name: str = "fedmrn",
    layout: Layout = LAYOUT,
    *,
    number: int = 1,
    clients: tuple[str, ...] = CLIENTS,
    limits: Limits = DEFAULT_LIMITS,
    threads: int = 1,
) -> Round:
    """A fresh server's round, of noise in the published scale."""
    state, scheme = noisy(layout.size, 1, 1.0), method(name).scheme(PUBLISHED.get(name))
    return Server(layout, scheme, state, SECRET, limits=limits, threads=threads, run=bytes(16)).begin(number, clients)


def start(name: str, layout: Layout = LAYOUT, **options: object) -> Server:
    """A server at the start of a run, from a model with a zero or two."""
    scheme, model = method(name).scheme(options), noisy(layout.size, 1, 1.0)
    model[[1, layout.size - 1]] = 0
    return Server(layout, scheme, Server.initial(layout, scheme, model), SECRET, run=bytes(16))


def fitting(server: Server, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vector as an update that the server's method can send: masks in [0, 1], zero where weights are pruned."""
    vector, coded = vector.copy(), server.layout.span(Group.CODED)
    codec = server.scheme.codecs[Group.CODED]
    if isinstance(codec, Bernoulli):
        vector[coded] = Stream(int(abs(vector[0]) * 2**30), 1 << 63).uniform(0, coded.stop)
    if codec.needs_state:
        vector[coded] *= server.state[coded] != 0
    return vector


def play(server: Server, number: int, vectors: dict[str, NDArray[np.float32]], weights: dict[str, int]) -> Round:
    """A round in which these clients answer with these vectors, in this order; not yet finished."""
    round_ = server.begin(number, sorted(vectors))
    for client, vector in vectors.items():
        broadcast = Frame.from_bytes(round_.broadcast(client))
        frame = encode_update(
            broadcast, server.layout, vector, weight=weights[client], sampling_key=ord(client[0]) + number
        )
        round_.add(client, frame.to_bytes())
    return round_


def update(round_: Round, client: str, layout: Layout = LAYOUT, *, weight: int = 10, seed: int = 5) -> bytes:
    """A valid update of a client."""
    broadcast = Frame.from_bytes(round_.broadcast(client))
    vector = noisy(layout.size, seed)
    return encode_update(broadcast, layout, vector, weight=weight, sampling_key=seed).to_bytes()
