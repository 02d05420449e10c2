"""Trees of servers: shapes as nested tuples, and rounds that go through them as bytes."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fedmrn.methods import method
from fedmrn.methods.method import Options
from fedmrn.server import Clipping, EdgeRound, Round, Server
from fedmrn.server.optimizer import ServerOptimizer
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

LAYOUT = Layout.of(
    [
        TensorSpec("w", (3, 50), Group.CODED),
        TensorSpec("nothing", (0,), Group.CODED),
        TensorSpec("b", (7,), Group.CODED),
        TensorSpec("n", (4,), Group.DENSE),
        TensorSpec("s", (2,), Group.STATS),
        TensorSpec("v", (3,), Group.VARIANCE),
    ]
)
LEAN = Layout.of([TensorSpec("w", (40,), Group.CODED)])
SECRET = b"a secret of tests"

Client = int | str
Shape = Sequence["Client | Shape"]
"""A node: clients that answer at it, and further nodes."""


def server_of(
    name: str,
    options: Options | None = None,
    *,
    layout: Layout = LAYOUT,
    clipping: Clipping | None = Clipping(),  # noqa: B008 - immutable
    threads: int = 1,
    down: str = "float32",
    optimizer: ServerOptimizer | None = None,
) -> Server:
    """A server at the start of a run, from a model with a few zeros."""
    scheme = method(name).scheme(options, down=down, optimizer=optimizer)
    model = np.linspace(-0.01, 0.01, layout.size).astype(np.float32)
    model[::5] = 0
    variances = layout.span(Group.VARIANCE)
    model[variances] = np.abs(model[variances])
    state = Server.initial(layout, scheme, model)
    return Server(layout, scheme, state, SECRET, run=bytes(16), clipping=clipping, threads=threads)


def updates(round_: Round, spread: float = 0.01) -> dict[Client, bytes]:
    """What each client answers: of other sizes and weights each, and a pure function of round and client."""
    found = {}
    for i, client in enumerate(round_.clients):
        draws = np.random.Generator(np.random.Philox([round_.number, i]))
        vector = (draws.standard_normal(round_.layout.size) * spread * 2.0 ** (i % 5 - 2)).astype(np.float32)
        vector[round_.shown == 0] = 0
        weight = int(draws.integers(1, 100))
        asked = Frame.from_bytes(round_.broadcast(client))
        frame = encode_update(asked, round_.layout, vector, weight=weight, sampling_key=int(draws.integers(1 << 60)))
        found[client] = frame.to_bytes()
    return found


def clients_of(shape: "Client | Shape") -> Iterator[Client]:
    """All clients of a node and of those below it."""
    if isinstance(shape, int | str):
        yield shape
    else:
        for part in shape:
            yield from clients_of(part)


def fill(node: Round | EdgeRound, shape: Shape, sent: Mapping[Client, bytes], layout: Layout, threads: int = 1) -> None:
    """Let a node take what its part of the tree sends, in the order of the shape; all that moves is bytes."""
    below = {f"edge {i}": part for i, part in enumerate(shape) if not isinstance(part, int | str)}
    assigned = node.assign({name: clients_of(part) for name, part in below.items()})
    for i, part in enumerate(shape):
        if isinstance(part, int | str):
            if part in sent:
                node.add(part, sent[part])
        else:
            edge = EdgeRound.from_bytes(assigned[f"edge {i}"], layout, threads=threads)
            fill(edge, part, sent, layout, threads)
            node.merge(f"edge {i}", edge.partial())
