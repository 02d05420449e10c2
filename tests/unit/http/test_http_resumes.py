"""A server that is killed with no warning goes on to the identical model, and clients wait for it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import small_federation
from http_federation import Running, Trainer, in_threads, join, of_many, plan_of, server_of, serving

from fedmrn.http import new_tokens, write_tokens

SUPPORT = Path(__file__).parents[2] / "support"
CLIENTS = 6


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def process(folder: Path, port: int, name: str) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SUPPORT / "http_process.py"), str(folder), str(port), name, "3"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as found:
        try:
            yield found
        finally:
            found.kill()


class Waits(Trainer):
    """Half of the clients take their time in round 2: until they are told to go on."""

    def __init__(self, name: str) -> None:
        super().__init__(of_many(CLIENTS, name, rounds=3, local_epochs=1))
        self.go_on, self.calls = Event(), 0

    def __call__(self, client: int, data: bytes) -> tuple[bytes, dict[str, float]]:
        self.calls += 1
        if self.calls > CLIENTS and client >= CLIENTS // 2:
            assert self.go_on.wait(60)
        return super().__call__(client, data)


def answers(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "answers").glob("2-train-*.bin"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedmrn-s", "topk-ef"])
def test_a_server_that_is_killed_in_mid_round_comes_to_the_same_model(name: str, tmp_path: Path) -> None:
    setting, train, port = of_many(CLIENTS, name, rounds=3, local_epochs=1), Waits(name), free_port()
    tokens = new_tokens(CLIENTS)
    write_tokens(tmp_path / "tokens.txt", tokens)
    running = Running(None, tokens, port, patience=60.0)
    with process(tmp_path, port, name) as first:
        threads = in_threads(running, list(range(CLIENTS)), train)
        until = time.monotonic() + 60
        while len(answers(tmp_path)) < CLIENTS // 2 and time.monotonic() < until:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert answers(tmp_path) == [f"2-train-{client}.bin" for client in range(CLIENTS // 2)]
    train.go_on.set()
    with process(tmp_path, port, name) as second:
        join(threads)
        assert second.wait(30) == 0
    assert train.calls == 3 * CLIENTS  # nobody trained twice
    assert server_of(setting, tmp_path).state.tobytes() == small_federation.run(setting)[-1].state.tobytes()
    assert len((tmp_path / "rounds.jsonl").read_text().splitlines()) == 3
    assert not answers(tmp_path)


def test_a_server_that_is_stopped_between_rounds_goes_on(tmp_path: Path) -> None:
    setting = of_many(3, rounds=2, local_epochs=1)
    tokens, train = new_tokens(3), Trainer(setting)
    with serving(setting, tmp_path, tokens=tokens, plan=plan_of(setting, rounds=1)) as running:
        join(in_threads(running, [0, 1, 2], train))
    with serving(setting, tmp_path, tokens=tokens) as running:
        join(in_threads(running, [0, 1, 2], train))
    assert running.server.federation.state.tobytes() == small_federation.run(setting)[-1].state.tobytes()
    assert [outcome.report.round for outcome in running.outcomes] == [2]


def test_a_run_that_is_over_is_over(tmp_path: Path) -> None:
    setting = of_many(2, rounds=1, local_epochs=1)
    tokens = new_tokens(2)
    with serving(setting, tmp_path, tokens=tokens) as running:
        join(in_threads(running, [0, 1], Trainer(setting)))
    with serving(setting, tmp_path, tokens=tokens, linger=5.0) as running, running.connect(0) as connection:
        assert connection.about()["round"] == 1
        assert connection.task() is None
