"""The protocol as docs/http.md has it: status codes and headers, from a browser too, and a server without torch."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import small_federation
from http_federation import Running, Trainer, of_many, plan_of, serving

from fedmrn.errors import ConfigError, NoUpdatesError
from fedmrn.http import HttpServer, Plan, Tokens, new_tokens, open_server, read_tokens, write_tokens
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame, Kind

SETTING = of_many(2, "fedmrn-s", rounds=1)
PAGE = "https://page.example"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    plan = plan_of(SETTING, config={"lr": 0.1, "name": "é"})
    with serving(SETTING, tmp_path, plan=plan, origins=[PAGE], linger=5.0) as found:
        yield found


def ask(running: Running, client: int, path: str, verb: str = "GET", **options: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {running.tokens[client]}", "Origin": PAGE}
    return httpx.request(verb, running.url + path, headers=headers, timeout=10, **options)  # type: ignore[arg-type]


def test_what_a_run_is(running: Running) -> None:
    found = ask(running, 1, "/v1/run").json()
    layout = found.pop("layout")
    tag = found.pop("run")
    assert found == {
        "protocol": 1,
        "client": 1,
        "method": "fedmrn-s",
        "round": 0,
        "rounds": 1,
        "max_bytes": 8 * running.server.federation.state.size + 65536,
        "max_wait": 5,
    }
    assert layout[0] == {"name": "0.weight", "shape": [4, 2, 3, 3], "group": "coded"}
    assert len(bytes.fromhex(tag)) == 8


def test_a_round_request_by_request(running: Running) -> None:
    nothing = ask(running, 0, "/v1/task")
    assert (nothing.status_code, nothing.content, nothing.headers["retry-after"]) == (204, b"", "2")
    ask(running, 1, "/v1/task")
    task = ask(running, 0, "/v1/task?wait=5")
    tag = ask(running, 0, "/v1/run").json()["run"]
    told = {name: task.headers[f"fedmrn-{name}"] for name in ("task", "kind", "round", "run", "config")}
    assert told.pop("config") == '{"lr":0.1,"name":"\\u00e9"}'
    assert told == {"task": "1-train", "kind": "train", "round": "1", "run": tag}
    assert 50 < int(task.headers["fedmrn-deadline"]) <= 60
    assert int(task.headers["content-length"]) == len(task.content)
    assert task.headers["content-type"] == "application/octet-stream"
    assert Frame.from_bytes(task.content, kind=Kind.BROADCAST).round == 1
    assert ask(running, 0, "/v1/task").content == task.content  # again, until it is answered
    data, _ = Trainer(SETTING)(0, task.content)
    taken = ask(running, 0, "/v1/answer/1-train", "PUT", content=data)
    assert (taken.status_code, taken.json()) == (200, {"answer": "taken"})
    assert ask(running, 0, "/v1/task").status_code == 204
    noted = ask(running, 1, "/v1/failure/1-train", "PUT", content=b"OSError: no data")
    assert (noted.status_code, noted.json()) == (200, {"answer": "noted"})
    over = ask(running, 0, "/v1/task?wait=5")
    assert (over.status_code, over.json()["error"]) == (410, "RunOver")
    (outcome,) = running.outcomes
    assert (outcome.report.folded, outcome.report.failed) == ([0], ["client 1: OSError: no data"])
    assert json.loads(outcome.line())["total_up"] == outcome.report.total_up


def test_a_page_of_a_told_origin_may_take_part(running: Running) -> None:
    asks = {"Origin": PAGE, "Access-Control-Request-Method": "PUT"}
    headers = "authorization,content-type,fedmrn-metrics"
    found = httpx.options(
        f"{running.url}/v1/answer/1-train", headers={**asks, "Access-Control-Request-Headers": headers}
    )
    assert found.status_code == 200
    assert found.headers["access-control-allow-origin"] == PAGE
    other = httpx.options(f"{running.url}/v1/run", headers={**asks, "Origin": "https://other.example"})
    assert other.status_code == 400
    told = ask(running, 0, "/v1/task")
    assert told.headers["access-control-allow-origin"] == PAGE
    exposed = told.headers["access-control-expose-headers"].lower()
    assert all(f"fedmrn-{name}" in exposed for name in ("task", "kind", "round", "run", "deadline", "config"))
    assert httpx.get(f"{running.url}/v1/run", headers={"Origin": PAGE}).headers["access-control-allow-origin"] == PAGE


def test_wait_is_a_whole_number(running: Running) -> None:
    assert [ask(running, 0, f"/v1/task?wait={wait}").status_code for wait in ("x", "-1", "1e9", "9" * 50)] == [400] * 4


def test_a_server_needs_no_training_framework() -> None:
    code = "import sys\nimport fedmrn.http\nprint({'torch', 'flwr', 'sklearn', 'scipy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "set()\n"


def test_a_server_for_others_wants_tls(tmp_path: Path) -> None:
    with serving(SETTING, tmp_path, run={"host": "0.0.0.0"}) as running:  # noqa: S104
        pass
    assert isinstance(running.raised, ConfigError)
    assert "insecure=True" in str(running.raised)


def test_a_run_without_updates_is_an_error(tmp_path: Path) -> None:
    plan = plan_of(SETTING, deadline=0.1, give_up_after=1)
    with serving(SETTING, tmp_path, plan=plan, linger=0.1) as running:
        for client in range(2):
            ask(running, client, "/v1/task")
        while running.raised is None:
            time.sleep(0.01)
    assert isinstance(running.raised, NoUpdatesError)
    assert running.server.error is running.raised


def test_an_error_of_ones_own_ends_the_run(tmp_path: Path) -> None:
    def broken(_: object) -> None:
        raise OSError("no space")

    setting = of_many(1, rounds=2)
    with serving(setting, tmp_path, on_round=broken, linger=0.1) as running, running.connect(0) as connection:
        task = connection.task()
        assert task is not None
        connection.answer(task, Trainer(setting)(0, task.data)[0], {})
        assert connection.task() is None
    assert str(running.raised) == "no space"


def test_a_new_server_needs_a_model(tmp_path: Path) -> None:
    layout, scheme = ModelLayout.of(small_federation.small_model()).layout, SETTING.scheme
    with pytest.raises(ConfigError, match="needs a model to start with"):
        open_server(tmp_path, layout, scheme)


def test_without_a_long_poll_clients_are_told_to_wait(tmp_path: Path) -> None:
    with serving(SETTING, tmp_path, max_wait=0) as running:
        assert ask(running, 0, "/v1/task?wait=20").headers["retry-after"] == "2"


def test_a_round_has_no_more_clients_than_tokens(tmp_path: Path) -> None:
    with serving(SETTING, tmp_path) as running:
        server = running.server
    with pytest.raises(ConfigError, match="waits for 9 clients"):
        HttpServer(server.federation, Plan(rounds=1, clients_per_round=9), Tokens(new_tokens(2)), tmp_path)


def test_tokens_are_read_back(tmp_path: Path) -> None:
    tokens = new_tokens(3)
    write_tokens(tmp_path / "tokens.txt", tokens)
    assert (tmp_path / "tokens.txt").stat().st_mode & 0o077 == 0
    found = read_tokens(tmp_path / "tokens.txt")
    assert [found.client_of(f"bearer {token}") for token in tokens.values()] == [0, 1, 2]
    assert found.clients == (0, 1, 2)


@pytest.mark.parametrize("text", ["", "0\n", "x " + "a" * 20, "0 short", "0 " + "a" * 20 + "\n0 " + "b" * 20])
def test_a_file_that_is_no_tokens_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text(text)
    with pytest.raises(ConfigError):
        read_tokens(tmp_path / "tokens.txt")
    with pytest.raises(ConfigError, match="is not there"):
        read_tokens(tmp_path / "other.txt")


@pytest.mark.parametrize("tokens", [{}, {0: "a" * 20, 1: "a" * 20}, {-1: "a" * 20}, {0: "a b" * 10}, {0: "é" * 20}])
def test_tokens_that_cannot_be_are_refused(tokens: dict[int, str]) -> None:
    with pytest.raises(ConfigError):
        Tokens(tokens)


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 0},
        {"clients_per_round": 0},
        {"least": 3},
        {"deadline": 0.0},
        {"deadline": float("inf")},
        {"give_up_after": 0},
        {"evaluators": 0},
        {"config": {"lr": float("nan")}},
        {"config": {"lr": [1]}},
        {"config": {"a": "x" * 5000}},
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Plan(**{"rounds": 1, "clients_per_round": 2, **changes})  # type: ignore[arg-type]
