"""The server's memory, as the operating system counts it."""

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping

import memory_of_a_round
import pytest
from flwr.app import Message

from fedmrn.wire.layout import Layout

PARAMETERS = 10_000_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("options", "models"), [({"scale": 0.01}, 3), ({}, 5)], ids=["one scale", "own scales"])
def test_200_clients_of_10_million_parameters_take_little_more_than_the_sum(options: object, models: int) -> None:
    """The state, the sum (two), 8 frames that wait (a quarter); how much the allocator keeps for later is not ours.

    In the first round nobody knows how large masks with scales of their own are: their sum has a second integer (two).
    """
    script = [sys.executable, str(memory_of_a_round.__file__), str(PARAMETERS), json.dumps(options)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it takes memory too
    own["MALLOC_MMAP_THRESHOLD_"] = "131072"  # whatever is large and freed goes back to the system
    env = {**own, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(script, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    dense = float(done.stdout)
    assert models < dense < models + 1  # below, the peak would not have been seen


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_reply_is_freed_once_it_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which comes by after hundreds of objects, however large these are."""
    replies: list[weakref.ref[object]] = []
    alive: list[int] = []
    synthetic = memory_of_a_round.synthetic

    def watched(layout: Layout, message: Message, options: Mapping[str, object]) -> Message:
        alive.append(sum(reply() is not None for reply in replies))
        reply = synthetic(layout, message, options)
        replies.append(weakref.ref(reply.content["arrays"]))
        return reply

    monkeypatch.setattr(memory_of_a_round, "synthetic", watched)
    memory_of_a_round.one_round(1000, 20)
    assert max(alive) == 1  # the one before, which the loop over replies still holds
    assert [reply() for reply in replies] == [None] * 20
