"""A round of a server that has nothing but the wheel and what it brings; run by the Python of an empty environment.

Prints one JSON object: what was measured, and which of the libraries that a server must not need are loaded.
"""

import json
import sys
import time

BEGAN = time.perf_counter()
import fedmrn  # noqa: E402

FEDMRN = time.perf_counter() - BEGAN

import numpy as np  # noqa: E402

import fedmrn.server  # noqa: E402
from fedmrn import Group, Layout, Server, TensorSpec, method  # noqa: E402
from fedmrn.wire.messages import encode_update  # noqa: E402

SERVER = time.perf_counter() - BEGAN
CLIENTS = ["ann", "bob", "cyd"]
WEIGHTS = [1, 2, 3]


def main() -> None:
    """Fold three updates of fedmrn-s and of fedavg; the mean of the latter is known to the last bits."""
    layout = Layout.of([TensorSpec("w", (64, 32), Group.CODED), TensorSpec("norm", (5,), Group.DENSE)])
    rng = np.random.default_rng(1)
    start = rng.standard_normal(layout.size).astype(np.float32)
    updates = (rng.standard_normal((3, layout.size)) / 8).astype(np.float32)
    mean = np.average(updates.astype(np.float64), axis=0, weights=WEIGHTS)
    moved, sizes = {}, {}
    for name in ("fedavg", "fedmrn-s"):
        scheme = method(name).scheme()
        server = Server(layout, scheme, Server.initial(layout, scheme, start), bytes(range(32)), run=bytes(16))
        round_ = server.begin(1, CLIENTS)
        for key, (client, weight, update) in enumerate(zip(CLIENTS, WEIGHTS, updates, strict=True)):
            broadcast = fedmrn.Frame.from_bytes(round_.broadcast(client))
            frame = encode_update(broadcast, layout, update, weight=weight, sampling_key=key).to_bytes()
            sizes[name] = len(frame)
            round_.add(client, frame)
        moved[name] = round_.finish().astype(np.float64) - start
    coded = layout.span(Group.CODED)
    likeness = float(np.corrcoef(moved["fedmrn-s"][coded], mean[coded])[0, 1])
    unwanted = {"torch", "typer", "rich", "pydantic", "matplotlib", "scipy", "sklearn", "flwr"}
    found = {
        "version": fedmrn.__version__,
        "import fedmrn": FEDMRN,
        "import fedmrn.server": SERVER,
        "first rounds": time.perf_counter() - BEGAN,
        "off": float(np.abs(moved["fedavg"] - mean).max()),
        "likeness": likeness,
        "bytes": sizes,
        "unwanted": sorted(unwanted & {name.partition(".")[0] for name in sys.modules}),
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
