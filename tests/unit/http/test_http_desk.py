"""The desk and the rounds without sockets: deadlines, clients that fail, files that are damaged."""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from http_federation import Trainer, folded_without, of_many, plan_of, server_of

from fedmrn.errors import NoUpdatesError, UnusableModelError
from fedmrn.federation.conduct import Conduct
from fedmrn.http.desk import ClosedError, Desk
from fedmrn.http.rounds import ROUNDS, Outcome, Rounds, end_lines
from fedmrn.http.spool import Spool
from fedmrn.http.verdict import Verdict

SETTING = of_many(3, "fedmrn-s", rounds=1, local_epochs=1)


class Loop:
    """Rounds in a thread, clients by hand."""

    def __init__(self, folder: Path, **plan: object) -> None:
        self.server = server_of(SETTING, folder)
        self.spool = Spool(folder, 1 << 20)
        self.desk, self.train = Desk(self.spool.keep), Trainer(SETTING)
        self.rounds = Rounds(self.server, plan_of(SETTING, **plan), self.desk, self.spool, folder)
        self.outcomes: list[Outcome] = []
        self.error: BaseException | None = None
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()
        for client in range(3):
            self.desk.offer(client)

    def _run(self) -> None:
        try:
            self.outcomes.extend(self.rounds.run())
        except BaseException as error:
            self.error = error

    def work(self, client: int, seconds: float = 10.0) -> bytes:
        until = time.monotonic() + seconds
        while (offer := self.desk.offer(client)) is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        return b"".join(offer.content.parts())  # type: ignore[union-attr]

    def answer(self, client: int, data: bytes | None = None) -> Verdict:
        data = self.train(client, self.work(client))[0] if data is None else data
        return self.desk.answer(client, "1-train", data, "")

    def join(self) -> None:
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def loop(folder: Path, **plan: object) -> Iterator[Loop]:
    found = Loop(folder, **plan)
    yield found
    found.desk.close()
    found.join()


def test_a_client_that_never_answers_is_left_behind(tmp_path: Path) -> None:
    with loop(tmp_path, deadline=2.0, least=2) as found:
        found.work(2)
        assert [found.answer(client).status for client in (0, 1)] == [200, 200]
        found.join()
    assert found.error is None
    assert found.server.state.tobytes() == folded_without(SETTING, {2}).tobytes()
    assert found.outcomes[0].report.silent == 1
    assert found.desk.answer(2, "1-train", b"x", "").status == 409


def test_an_answer_that_is_not_on_disk_is_not_said_to_be_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full for two attempts; the answer is folded once all the same."""
    with loop(tmp_path) as found:
        keep, full = found.desk._keep, [1, 2]

        def failing(*answer: Any) -> None:
            if full:
                full.pop()
                raise OSError(errno.ENOSPC, "No space left on device")
            keep(*answer)

        found.desk._keep = failing
        data = found.train(0, found.work(0))[0]
        for _ in range(2):
            verdict = found.answer(0, data)
            assert (verdict.status, verdict.content["error"], verdict.content["again"]) == (503, "NotKept", True)
            assert not [*found.spool.kept("1-train")]
        for _ in range(2):
            assert found.answer(0, data).content == {"answer": "known"}
        assert [kept.client for kept in found.spool.kept("1-train")] == [0]
        for client in (1, 2):
            assert found.answer(client).status == 200
        found.join()
    assert found.outcomes[0].report.folded == [0, 1, 2]
    assert found.server.state.tobytes() == folded_without(SETTING, set()).tobytes()
    assert "1-train: the answer of client 0 cannot be put on disk: [Errno 28] No space left" in caplog.text


@pytest.mark.parametrize(
    ("found", "mended"),
    [
        (b"", b""),
        (b'{"round": 1', b""),
        (b'{"round": 1}', b'{"round": 1}\n'),
        (b'{"round": 1}\n', b'{"round": 1}\n'),
        (b'{"round": 1}\n{"rou', b'{"round": 1}\n'),
        (b'{"round": 1}\n{"round": 2, "loss": NaN}', b'{"round": 1}\n{"round": 2, "loss": NaN}\n'),
    ],
)
def test_half_a_line_does_not_spoil_the_next(tmp_path: Path, found: bytes, mended: bytes) -> None:
    path = tmp_path / ROUNDS
    end_lines(path)
    assert not path.exists()
    path.write_bytes(found)
    end_lines(path)
    assert path.read_bytes() == mended


def test_a_server_that_starts_again_ends_the_last_line(tmp_path: Path) -> None:
    (tmp_path / ROUNDS).write_bytes(b'{"round": 1, "cl')
    desk = Desk()
    desk.close()
    rounds = Rounds(server_of(SETTING, tmp_path), plan_of(SETTING), desk, Spool(tmp_path, 1 << 20), tmp_path)
    with pytest.raises(ClosedError):
        next(rounds.run())
    assert (tmp_path / ROUNDS).read_bytes() == b""


def test_a_round_without_enough_updates_is_prolonged(tmp_path: Path) -> None:
    with loop(tmp_path, deadline=0.5, least=3, give_up_after=100) as found:
        for client in (0, 1, 2):
            assert found.answer(client).status == 200
            time.sleep(0.6)
        found.join()
    assert found.outcomes[0].report.folded == [0, 1, 2]


def test_a_run_without_updates_ends(tmp_path: Path) -> None:
    with loop(tmp_path, deadline=0.1, give_up_after=2) as found:
        found.join()
    assert isinstance(found.error, NoUpdatesError)
    assert "round 1: 0 updates" in str(found.error)


def test_clients_that_fail_are_asked_again_and_then_no_more(tmp_path: Path) -> None:
    with loop(tmp_path, deadline=10.0, give_up_after=2) as found:
        for _ in range(2):
            for client in range(3):
                found.work(client)
                found.desk.fail(client, "1-train", b"OSError: \x00\xff no data")
        found.join()
    assert isinstance(found.error, NoUpdatesError)
    assert "client 2: OSError: ?\ufffd no data" in str(found.error)


def test_a_round_that_leads_to_no_model_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, calls = Conduct.finish, list[int]()

    def fails_once(conduct: Conduct) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise UnusableModelError("not finite")
        return finish(conduct)

    monkeypatch.setattr(Conduct, "finish", fails_once)
    with loop(tmp_path, deadline=10.0) as found:
        for _ in range(2):
            for client in range(3):
                assert found.answer(client).status == 200
        found.join()
    assert found.error is None
    assert found.server.state.tobytes() == folded_without(SETTING, set()).tobytes()


def test_a_round_that_leads_to_no_model_time_and_again_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Conduct) -> object:
        raise UnusableModelError("not finite")

    monkeypatch.setattr(Conduct, "finish", fails)
    with loop(tmp_path, deadline=10.0, give_up_after=1) as found:
        for client in range(3):
            assert found.answer(client).status == 200
        found.join()
    assert isinstance(found.error, UnusableModelError)


def test_what_was_kept_is_folded_after_a_restart_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    with loop(tmp_path, deadline=60.0) as found:
        frames = {client: found.train(client, found.work(client))[0] for client in range(3)}
        assert found.answer(0, frames[0]).status == 200
    assert isinstance(found.error, ClosedError)
    (tmp_path / "answers" / "1-train-1.bin").write_bytes(b"\xff\xff\xff\xff")
    (tmp_path / "answers" / "1-train-2.bin").write_bytes(b"\0\0\0\0garbage")
    (tmp_path / "answers" / "1-train-7.bin").write_bytes(b"\0\0\0\0" + frames[1])
    (tmp_path / "answers" / "other").write_bytes(b"")
    with loop(tmp_path, deadline=60.0) as found:
        assert all(found.work(client) for client in (1, 2))
        assert found.desk.offer(0) is None
        assert [found.answer(client, frames[client]).content for client in (1, 2)] == 2 * [{"answer": "taken"}]
        found.join()
    assert found.server.state.tobytes() == folded_without(SETTING, set()).tobytes()


def test_a_client_that_brings_something_is_present() -> None:
    desk = Desk()
    desk.answer(3, "1-train", b"x", "")
    desk.fail(4, "1-train", b"x")
    desk.offer(5)
    assert desk.present(time.monotonic() - 60) == [3, 4, 5]
    assert desk.present(time.monotonic() + 60) == []


def test_uploads_wait_for_a_server_that_starts() -> None:
    desk = Desk()
    assert desk.answer(0, "1-train", b"x", "").status == 503
    desk.start()
    assert desk.answer(0, "1-train", b"x", "").status == 409
