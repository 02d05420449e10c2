"""What a hostile client sends is refused, each cause by its own status, and the round comes to the others' model."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from http_federation import Running, Trainer, answer, folded_without, in_threads, join, of_many, plan_of, serving

from fedmrn.errors import ServerRefusedError
from fedmrn.http.connection import Connection, Given

SETTING = of_many(3, rounds=2, local_epochs=1)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with serving(SETTING, tmp_path, body_seconds=0.5) as found:
        for client in range(3):
            httpx.get(f"{found.url}/v1/task", headers=bearer(found, client)).raise_for_status()
        yield found


def bearer(running: Running, client: int) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.tokens[client]}"}


def put(running: Running, client: int, data: Any, task: str = "1-train", **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.put(f"{running.url}/v1/answer/{task}", content=data, headers={**bearer(running, client), **headers})


def task(running: Running, client: int) -> bytes:
    found = httpx.get(f"{running.url}/v1/task?wait=5", headers=bearer(running, client))
    assert found.status_code == 200
    return found.content


def causes(response: httpx.Response) -> tuple[int, str, bool]:
    told = response.json()
    return response.status_code, told["error"], told["again"]


def test_a_wrong_token_is_refused_before_anything_is_read(running: Running) -> None:
    tokens = [
        "",
        "Bearer",
        "Bearer x",
        "Bearer " + "a" * 43,
        "Basic YTpi",
        "Bearer é" + "a" * 40,
        "Bearer " + "a" * 999,
    ]
    for token in tokens:
        for verb, path in [("GET", "/v1/run"), ("GET", "/v1/task"), ("PUT", "/v1/answer/1-train")]:
            headers = {"Authorization": token.encode()} if token else {}
            content = b"x" * 10_000_000 if verb == "PUT" else b""
            found = httpx.request(verb, running.url + path, headers=headers, content=content)
            assert causes(found) == (401, "NoToken", False)
            assert found.headers["www-authenticate"] == "Bearer"
    assert running.server.traffic.up == 0


def test_a_body_that_is_too_long_is_not_read(running: Running) -> None:
    most = httpx.get(f"{running.url}/v1/run", headers=bearer(running, 0)).json()["max_bytes"]
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2]))) as raw:
        raw.sendall(
            f"PUT /v1/answer/1-train HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {running.tokens[0]}\r\n"
            f"Content-Length: {most + 1}\r\n\r\n".encode()
        )
        raw.settimeout(5)
        found = b""
        while piece := raw.recv(65536):  # until the server closes, though no body came
            found += piece
    assert found.startswith(b"HTTP/1.1 413")
    assert b"LimitError" in found


def test_a_body_without_a_length_is_read_up_to_the_limit(running: Running) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 65536

    assert causes(put(running, 0, endless())) == (413, "LimitError", False)
    assert running.server.traffic.up < 2_000_000


def test_a_slow_body_is_given_up(running: Running) -> None:
    def slow() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x"
            time.sleep(0.1)

    started = time.monotonic()
    assert causes(put(running, 0, slow())) == (408, "Slow", False)
    assert time.monotonic() - started < 5


def test_a_second_upload_at_the_same_time_waits(running: Running) -> None:
    def slow() -> Iterator[bytes]:
        yield b"x"
        time.sleep(0.4)

    first = Thread(target=put, args=(running, 0, slow()))
    first.start()
    time.sleep(0.2)
    assert causes(put(running, 0, b"y")) == (429, "Busy", True)
    first.join()


def test_garbage_is_refused_three_times(running: Running) -> None:
    task(running, 0)
    assert causes(put(running, 0, b"garbage")) == (422, "BadMagicError", True)
    assert causes(put(running, 0, b"x" * 1000)) == (422, "BadMagicError", True)
    assert causes(put(running, 0, b"")) == (422, "TruncatedFrameError", False)
    assert causes(put(running, 0, b"x")) == (409, "DuplicateFrameError", False)
    assert httpx.get(f"{running.url}/v1/task", headers=bearer(running, 0)).status_code == 204


def test_another_clients_frame_is_refused(running: Running) -> None:
    data, _ = Trainer(SETTING)(1, task(running, 1))
    task(running, 0)
    assert causes(put(running, 0, data)) == (422, "WrongKeyError", True)
    assert put(running, 1, data).json() == {"answer": "taken"}


def test_a_damaged_frame_may_be_sent_again(running: Running) -> None:
    data, _ = Trainer(SETTING)(0, task(running, 0))
    assert causes(put(running, 0, data[:-1] + bytes([data[-1] ^ 1]))) == (422, "ChecksumError", True)
    assert put(running, 0, data).json() == {"answer": "taken"}
    assert put(running, 0, data).json() == {"answer": "known"}
    assert causes(put(running, 0, data + b"x")) == (409, "DuplicateFrameError", False)


def test_an_old_frame_is_refused(running: Running) -> None:
    train = Trainer(SETTING)
    first = {client: train(client, task(running, client))[0] for client in range(3)}
    assert all(put(running, client, data).json() == {"answer": "taken"} for client, data in first.items())
    task(running, 0)
    assert put(running, 0, first[0]).json() == {"answer": "known"}  # its own, sent again
    assert causes(put(running, 0, first[1])) == (409, "WrongRoundError", False)
    assert causes(put(running, 0, first[0], "2-train")) == (422, "WrongRoundError", True)


def test_metrics_that_cannot_be_are_refused(running: Running) -> None:
    data, _ = Trainer(SETTING)(0, task(running, 0))
    assert causes(put(running, 0, data, Fedmrn_Metrics='{"loss":NaN}')) == (400, "BadMetrics", True)
    assert causes(put(running, 0, data, Fedmrn_Metrics='{"num-examples":0}')) == (422, "WrongMessageError", True)
    assert put(running, 0, data, Fedmrn_Metrics='{"loss":1}').json() == {"answer": "taken"}


def test_a_task_that_is_not_open_is_told(running: Running) -> None:
    for name in ("2-train", "1-evaluate", "..%2f..%2fetc", "x" * 1000):
        assert put(running, 0, b"x", name).status_code in {404, 409}


def test_headers_that_are_too_long_are_refused(running: Running) -> None:
    assert put(running, 0, b"", Fedmrn_Metrics="x" * 100_000).status_code in {400, 431}


def test_a_task_is_not_downloaded_for_ever(running: Running) -> None:
    codes = [httpx.get(f"{running.url}/v1/task", headers=bearer(running, 2)).status_code for _ in range(20)]
    assert codes[-1] == 204
    assert codes.count(200) == 16


def hostile(running: Running, client: int) -> None:
    """Send garbage until the server takes no more, round after round."""
    with running.connect(client) as connection:
        while (found := connection.task(5)) is not None:
            put(running, client, b"", found.name, Authorization="Bearer wrong")
            for data in (b"", b"garbage", b"x" * 5000, b"y"):
                put(running, client, data, found.name)


def mortal(running: Running, client: int, train: Trainer) -> None:
    """Take a task and die; come back as a new process, and go on."""
    with running.connect(client) as first:
        assert first.task(20) is not None
    with running.connect(client) as second:
        while (found := second.task(5)) is not None:
            answer(second, client, found, train)


def test_fifty_clients_one_dies_one_is_hostile(tmp_path: Path) -> None:
    setting = of_many(50, "fedmrn-s", rounds=2, local_epochs=1)
    train = Trainer(setting)
    with serving(setting, tmp_path, plan=plan_of(setting)) as running:
        others = [
            Thread(target=mortal, args=(running, 48, train), daemon=True),
            Thread(target=hostile, args=(running, 49), daemon=True),
        ]
        for thread in others:
            thread.start()
        join(in_threads(running, list(range(48)), train) + others)
    assert running.raised is None
    assert running.server.federation.state.tobytes() == folded_without(setting, {49}).tobytes()
    for outcome in running.outcomes:
        assert sorted(outcome.report.folded) == list(range(49))
        assert len(outcome.report.refused) == 3
    assert running.outcomes[0].report.stages["train"].asked[48] == 2


def test_a_wrong_token_ends_a_client(running: Running) -> None:
    refusal = pytest.raises(ServerRefusedError, match=r"401.*no client has this token")
    with Connection(running.url, "x" * 43, patience=5.0) as connection, refusal:
        connection.about()


def test_a_late_answer_is_told_and_no_error(running: Running) -> None:
    late = Given(name="7-train", kind="train", round=7, run="", config={}, data=b"")
    with running.connect(0) as connection:
        assert connection.answer(late, b"x", {}) is False
        assert connection.fail(late, "x") is False
