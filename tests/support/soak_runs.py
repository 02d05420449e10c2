"""The long runs of test_soak.py, each in a process of its own: `soak_runs.py rounds 2000 fedmrn-s grid`.

Says "flat" and from what to what each measure went, or fails with what grows and by how much in a round.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import small_federation
import torch
from soak import Soak
from soak_built import Built, setting_of

from fedmrn.errors import FrameError
from fedmrn.federation.setting import Federation
from fedmrn.federation.simulation import simulate
from fedmrn.federation.transport import Transport
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame
from fedmrn.wire.messages import encode_update

CLIENTS = 100


def over(soak: Soak, setting: Federation, transport: Transport | None = None) -> None:
    model = small_federation.small_model()
    view = ModelLayout.of(model)
    state = Server.initial(view.layout, setting.scheme, view.read())
    for result in simulate(setting, model, state, transport=transport):
        number = result.round
        del result  # a run folder holds results, not this process
        soak.after(number)


def rounds(count: str, name: str, down: str) -> Soak:
    """A federation in this process."""
    with Soak(int(count)) as soak:
        over(soak, setting_of(int(count), name, down))
    return soak


def frames(count: str) -> Soak:
    """One server with public models and learnt scales; every seventh frame is of the round before, every fifth lost."""
    number, layout = int(count) // CLIENTS, ModelLayout.of(small_federation.small_model()).layout
    rng = np.random.default_rng(1)
    scheme = method("fedmrn-s").scheme(down="grid")
    state = Server.initial(layout, scheme, rng.uniform(0.01, 0.1, layout.size).astype(np.float32))
    server, sent, late = Server(layout, scheme, state, bytes(32), threads=1), 0, b""
    with Soak(number) as soak:
        for n in range(1, number + 1):
            round_ = server.begin(n, range(CLIENTS))
            for client in range(CLIENTS):
                broadcast = Frame.from_bytes(round_.broadcast(client))
                update = rng.normal(0, 0.01, layout.size).astype(np.float32)
                data = encode_update(broadcast, layout, update, weight=1 + client % 3, sampling_key=sent).to_bytes()
                sent += 1
                if sent % 5 == 0:
                    continue
                with suppress(FrameError):
                    round_.add(client, late if sent % 7 == 0 else data)
                late = data
            round_.finish()
            soak.after(n)
    return soak


def http(count: str) -> Soak:
    """A server and eight clients over sockets, in this process; a third of them in each round."""
    from http_federation import Trainer, in_threads, join, of_many, plan_of, serving  # noqa: PLC0415

    number = int(count)
    setting = replace(of_many(8, "fedmrn-s", rounds=number, local_epochs=1), clients_per_round=3)
    setting = replace(setting, scheme=method("fedmrn-s").scheme(down="grid"))
    with tempfile.TemporaryDirectory() as folder, Soak(number, Path(folder)) as soak:
        plan = plan_of(setting, evaluate_every=1)
        with serving(setting, Path(folder), plan=plan, on_round=lambda o: soak.after(o.report.round)) as running:
            join(in_threads(running, list(range(8)), Trainer(setting)), 3000.0)
    if running.raised is not None:
        raise running.raised
    return soak


def strategy(count: str) -> Soak:
    """The strategy and three nodes in this process, whose memories are files; training and evaluation."""
    import flower_clients  # noqa: PLC0415
    from flwr.app import ConfigRecord  # noqa: PLC0415
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    from fedmrn.flower import reports  # noqa: PLC0415

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    reports.MOST = 30  # of ten rounds; as it is, memory would grow for days before it is flat

    logging.getLogger("flwr").setLevel(logging.ERROR)
    number, nodes = int(count), flower_clients.grid()
    plan = flower_clients.strategy("fedmrn-s", down="grid")
    arrays = flower_clients.initial()
    with tempfile.TemporaryDirectory() as folder, Soak(number, Path(folder)) as soak:
        os.environ["FEDMRN_CACHE"] = folder
        plan.begin(arrays)
        for n in range(1, number + 1):
            asked = plan.configure_train(n, arrays, ConfigRecord(), nodes)
            found, _ = plan.aggregate_train(n, nodes.send_and_receive(asked))
            arrays = found or arrays
            asked = plan.configure_evaluate(n, arrays, ConfigRecord(), nodes)
            plan.aggregate_evaluate(n, nodes.send_and_receive(asked))
            del asked, found
            soak.after(n)
    return soak


def engine(count: str) -> Soak:
    """Eight nodes on Flower's simulation engine, in one process of Ray's; what is watched is this one, Flower's."""
    from fedmrn.flower.simulation import on_flower  # noqa: PLC0415

    make = partial(Built, int(count))
    with Soak(int(count)) as soak, on_flower(make, 8) as transport:
        over(soak, make().federation, transport)
    return soak


RUNS: dict[str, Callable[..., Soak]] = {f.__name__: f for f in (rounds, frames, http, strategy, engine)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    soak = RUNS[sys.argv[1]](*sys.argv[2:])
    grows = ", ".join(f"{name} by {more:.3g} a round" for name, more in soak.grows().items())
    sys.stdout.write(f"{' '.join(sys.argv[1:])}: {f'{grows}: ' if grows else 'flat: '}{soak}\n")
    sys.exit(bool(grows))
