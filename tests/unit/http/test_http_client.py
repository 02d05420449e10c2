"""A client's own loop over HTTP: three lines around a training, over TLS, with evaluation and what it keeps."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import small_federation
import torch
from http_federation import Trainer, of_many, plan_of, server_of, serving, take_part
from httpcore._backends.sync import SyncStream
from torch import nn

from fedmrn.errors import ConfigError, LimitError, MethodNotAcceptedError, RunError, ServerRefusedError
from fedmrn.http import HttpServer, Tokens, new_tokens
from fedmrn.http.client import HttpClient
from fedmrn.http.connection import Connection
from fedmrn.methods import method
from fedmrn.wire.frame import Limits

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "deployment"))
from certificates import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls") / "certificates", ["127.0.0.1"])


def train(model: nn.Module, client: HttpClient, seen: list[str]) -> None:
    """A user's loop."""
    x, y = small_federation.blobs(8, 3)
    for task in client.tasks():
        seen.append(f"{task.round}-{task.kind}")
        if task.kind == "evaluate":
            task.load(model)
            task.report({"accuracy": 0.5, "loss": 1.0}, weight=8)
            continue
        optimizer = task.attach(
            model, torch.optim.SGD(model.parameters(), lr=task.config["lr"]), steps=2, sampling_key=task.round
        )
        for _ in range(2):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        task.reply(optimizer, weight=8, metrics={"train_loss": loss.detach()})


def test_a_loop_of_ones_own_over_tls(tmp_path: Path, certificates: Certificates) -> None:
    setting = of_many(1, "fedmrn-s", rounds=3)
    plan = plan_of(setting, config={"lr": 0.1}, evaluate_every=2)
    run = {"certificate": certificates.server, "key": certificates.key}
    seen = list[str]()
    with serving(setting, tmp_path / "server", plan=plan, run=run) as running:
        url, token = running.url, running.tokens[0]
        with HttpClient(url, token, authority=certificates.authority, patience=10.0) as client:
            train(small_federation.small_model(), client, seen)
            connection = client.connection
        stranger = Connection(url, token, patience=0.0)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"), stranger:
            stranger.about()
    assert seen == ["1-train", "2-train", "2-evaluate", "3-train", "3-evaluate"]
    assert [outcome.evaluation for outcome in running.outcomes] == [{}, *2 * [{"accuracy": 0.5, "loss": 1.0}]]
    assert all(outcome.metrics["train_loss"] > 0 for outcome in running.outcomes)
    assert (connection.up, connection.down) == (running.server.traffic.up, running.server.traffic.down)


def test_every_byte_is_counted_by_part(tmp_path: Path) -> None:
    setting = of_many(2, "fedmrn", rounds=1)
    with serving(setting, tmp_path, plan=plan_of(setting, evaluate_every=1, config={"lr": 0.1})) as running:
        connections = [running.connect(client) for client in range(2)]
        with ThreadPoolExecutor() as pool:  # a round waits for both
            tasks = list(pool.map(Connection.task, connections))
        down = up = 0
        trainer = Trainer(setting)
        for client, (connection, task) in enumerate(zip(connections, tasks, strict=True)):
            assert task is not None
            data, _ = trainer(client, task.data)
            connection.answer(task, data, {"train_loss": 1.0})
            down += len(task.data) + len('{"lr":0.1}') + len('{"answer":"taken"}')
            up += len(data) + len('{"train_loss":1}')
        models = [connection.task(5) for connection in connections]
        for connection, model in zip(connections, models, strict=True):
            assert model is not None
            connection.answer(model, b"", {"num-examples": 4})
            down += len(model.data) + len('{"lr":0.1}') + len('{"answer":"taken"}')
            up += len('{"num-examples":4}')
        assert all(connection.task(5) is None for connection in connections)
        for connection in connections:
            connection.close()
    (outcome,) = running.outcomes
    assert (outcome.report.total_up, outcome.report.total_down) == (up, down)


def alone(tmp_path: Path, name: str, **changes: Any) -> Any:
    setting = of_many(1, name, rounds=3)
    scheme = method(name).scheme({}, **changes)
    return serving(replace(setting, scheme=scheme), tmp_path / "server", plan=plan_of(setting, config={"lr": 0.1}))


@pytest.mark.parametrize("lose", [False, True])
def test_a_client_with_a_folder_is_sent_what_changed(tmp_path: Path, lose: bool) -> None:
    """One that was started again, and one that lost its folder, which asks for the whole model by itself."""
    with alone(tmp_path, "fedmrn-s", down="grid") as running:
        folder = tmp_path / "client"
        for attempt in range(2):
            with HttpClient(running.url, running.tokens[0], folder, patience=10.0) as client:
                model, tasks = small_federation.small_model(), client.tasks()
                for task in tasks:
                    optimizer = task.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)
                    optimizer.zero_grad()
                    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
                    optimizer.step()
                    task.reply(optimizer, weight=1)
                    if attempt == 0:
                        break
            if lose:
                for path in folder.iterdir():
                    path.unlink()
    sent = [[str(word) for word in outcome.report.public.values()] for outcome in running.outcomes]
    assert sent == [["new"], ["lost" if lose else "difference"], ["difference"]]
    assert all(outcome.report.folded and not outcome.report.failed for outcome in running.outcomes)


def test_a_client_that_is_started_again_has_its_memory(tmp_path: Path) -> None:
    with alone(tmp_path, "topk-ef") as running:
        memories = list[Any]()
        for _ in range(3):
            with HttpClient(running.url, running.tokens[0], tmp_path / "client", patience=10.0) as client:
                task, model = next(client.tasks()), small_federation.small_model()
                sgd = torch.optim.SGD(model.parameters(), lr=0.1)
                optimizer = task.attach(model, sgd, steps=1, accept="topk-ef")
                memories.append(None if optimizer.memory is None else optimizer.memory.copy())
                optimizer.zero_grad()
                sum(p.square().sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
                optimizer.step()
                assert task.reply(optimizer, weight=1)
                memories.append(optimizer.memory)
    assert memories[0] is None
    assert memories[1].any()
    assert (memories[1] == memories[2]).all()
    assert (memories[3] == memories[4]).all()


def test_a_method_that_is_not_accepted_is_told_to_both(tmp_path: Path) -> None:
    with alone(tmp_path, "fedavg") as running, HttpClient(running.url, running.tokens[0], patience=10.0) as client:
        task, model = next(client.tasks()), small_federation.small_model()
        with pytest.raises(MethodNotAcceptedError):
            task.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)
        assert task.fail("again") is True  # noted, and the task is over for this client


def test_an_update_that_is_refused_is_an_error(tmp_path: Path) -> None:
    with alone(tmp_path, "fedmrn") as running, HttpClient(running.url, running.tokens[0], patience=10.0) as client:
        given = client.connection.task(5)
        assert given is not None
        with pytest.raises(ServerRefusedError, match=r"422.*TruncatedFrameError"):
            client.connection.answer(given, b"", {})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("host:8000", "https://host:8000"),
        ("ftp://host", "https://host:8000"),
        ("http://example.org", "in plain to example.org"),
        ("http://10.0.0.1:8000", "in plain to 10.0.0.1"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Connection(url, "x" * 20)


def test_a_server_that_is_away_is_waited_for_as_long_as_asked() -> None:
    with Connection("http://127.0.0.1:9", "x" * 20, patience=0.0) as connection, pytest.raises(httpx.ConnectError):
        connection.about()


def test_a_large_answer_is_handed_over_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx copies what is left of a buffer each time that the socket takes a part: 16 times as long for 4 times as
    many bytes, hours for a dense update of a thousand million parameters."""
    sizes, write = list[int](), SyncStream.write

    def watched(self: Any, buffer: bytes, timeout: float | None = None) -> None:
        sizes.append(len(buffer))
        write(self, buffer, timeout)

    monkeypatch.setattr(SyncStream, "write", watched)
    with serving(of_many(1, rounds=1), tmp_path, max_bytes=1 << 21) as running, running.connect(0) as connection:
        task = connection.task()
        assert task is not None
        with pytest.raises(ServerRefusedError, match="BadMagicError"):
            connection.answer(task, bytes(1 << 20), {})
        assert connection.up == 1 << 20
    assert sum(sizes) > 1 << 20
    assert max(sizes) <= 1 << 18


def test_a_model_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with serving(of_many(1, rounds=1), tmp_path) as running:
        with running.connect(0) as connection:
            task = connection.task()
            assert task is not None
            size = len(task.data)
        with running.connect(0, limits=Limits(max_bytes=size - 1)) as connection:
            with pytest.raises(LimitError, match=f"more than {size - 1} bytes.*limits=Limits"):
                connection.task()
            assert connection.down == len('{"answer":"noted"}')  # nothing of the task
        with running.connect(0, limits=Limits(max_bytes=size)) as connection:
            assert connection.task() == task


def declined(running: Any, client: int) -> int:
    """How many tasks a client with a low limit is told of until the run is over; it comes again each time."""
    count = 0
    with HttpClient(running.url, running.tokens[client], patience=10.0, limits=Limits(99)) as limited:
        while True:
            try:
                assert next(limited.tasks(), None) is None
            except LimitError:
                count += 1
            else:
                return count


def test_a_client_that_meets_its_limit_tells_the_server_which_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setting = of_many(3, rounds=2)
    plan = plan_of(setting, evaluate_every=1, deadline=600.0)
    with serving(setting, tmp_path, plan=plan) as running, ThreadPoolExecutor() as pool:
        limited = [pool.submit(declined, running, client) for client in (1, 2)]
        take_part(running, 0, Trainer(setting))
        assert [found.result() for found in limited] == [4, 4]
    said = "LimitError: the server sends more than 99 bytes, the most that this client takes: a larger model needs "
    for outcome in running.outcomes:
        assert outcome.report.folded == [0]
        assert sorted(line.split(said)[0] for line in outcome.report.failed) == ["client 1: ", "client 2: "]
        assert len(outcome.report.failed_otherwise) == 2
        assert outcome.seconds < 60
    assert f"1-train: client 1 gives no answer: {said}" in caplog.text


def test_a_server_that_does_not_hear_of_a_limit_does_not_hide_it(tmp_path: Path) -> None:
    with serving(of_many(1, rounds=1), tmp_path) as running, running.connect(0, limits=Limits(99)) as connection:
        connection._fail = lambda *_: (_ for _ in ()).throw(httpx.ConnectError("away"))  # type: ignore[method-assign]
        with pytest.raises(LimitError, match="more than 99 bytes"):
            connection.task()


def test_a_client_whose_task_closes_while_it_asks_for_all_takes_the_next(tmp_path: Path) -> None:
    """It lost its public model; the round ends in that moment, and an evaluation stands open."""
    setting = of_many(2, "fedmrn-s", rounds=3)
    scheme = method("fedmrn-s").scheme({}, down="grid")
    plan = plan_of(setting, config={"lr": 0.1}, evaluate_every=1)
    trainer, model = Trainer(setting), small_federation.small_model()
    with serving(replace(setting, scheme=scheme), tmp_path, plan=plan) as running:
        other = running.connect(1)
        client = HttpClient(running.url, running.tokens[0], patience=10.0)

        def of_the_other(kind: str) -> None:
            given = other.task(5)
            assert given is not None
            assert given.kind == kind
            data, metrics = (b"", {"num-examples": 4}) if kind == "evaluate" else trainer(1, given.data)
            assert other.answer(given, data, metrics)

        def of_the_client(task: Any) -> None:
            optimizer = task.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)
            optimizer.zero_grad()
            sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
            optimizer.step()
            assert task.reply(optimizer, weight=1)

        with ThreadPoolExecutor() as pool, client, other:
            tasks = client.tasks()
            begun = pool.submit(of_the_other, "train")
            of_the_client(next(tasks))
            begun.result()
            begun = pool.submit(of_the_other, "evaluate")
            next(tasks).report({}, weight=4)
            begun.result()
            begun = pool.submit(of_the_other, "train")
            task = next(tasks)
            begun.result()
            assert (task.kind, task.round) == ("train", 2)
            client.store._held = None  # lost
            task.fail("closed for this client, as if its time were over")
            begun = pool.submit(of_the_other, "evaluate")
            later = pool.submit(of_the_client, task)  # is refused the second round, declines the evaluation
            begun.result()
            begun = pool.submit(of_the_other, "train")
            later.result()
            begun.result()
            assert task.round == 3
    said = running.outcomes[1].report
    assert [line for line in said.failed_otherwise if "waits for a model to train" in line] != []


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    setting = of_many(1, rounds=1)
    with serving(setting, tmp_path) as running, running.connect(0) as connection:
        connection.about()
        second = HttpServer(server_of(setting, tmp_path), plan_of(setting), Tokens(running.tokens), tmp_path)
        with pytest.raises(RunError, match="in use by another process"):
            second.run(port=0)


@pytest.mark.parametrize("port", [99_999, -1])
def test_a_port_that_cannot_be_is_refused(tmp_path: Path, port: int) -> None:
    setting = of_many(1, rounds=1)
    server = HttpServer(server_of(setting, tmp_path), plan_of(setting), Tokens(new_tokens(1)), tmp_path)
    with pytest.raises(ConfigError, match="port"):
        server.run(port=port)


def test_a_port_that_somebody_has_is_told(tmp_path: Path) -> None:
    setting = of_many(1, rounds=1)
    server = HttpServer(server_of(setting, tmp_path), plan_of(setting), Tokens(new_tokens(1)), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1, port {port}"):
            server.run(port=port)


def test_an_outcome_is_a_line_for_people(tmp_path: Path) -> None:
    setting = of_many(1, rounds=1)
    with serving(setting, tmp_path) as running:
        take_part(running, 0, Trainer(setting))
    (outcome,) = running.outcomes
    line = str(outcome)
    assert line.startswith("round 1: 1 of 1 updates, ")
    assert f"{outcome.report.total_up:,} bytes up, {outcome.report.total_down:,} down" in line
    assert "\n" not in line
