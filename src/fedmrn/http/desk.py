"""The desk: what each client is to do now, and the verdict on what it brings. Of HTTP it knows the statuses only.

One thread runs the rounds and puts tasks on the desk; others, one for each request, ask on behalf of clients. A lock
makes all of it one after the other, so that a round's report is never counted by two at the same time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import getLogger
from math import ceil
from threading import Condition

from fedmrn.errors import FrameError, LostModelError, WrongMessageError
from fedmrn.federation.transport import MessageKind
from fedmrn.http.metrics import read_metrics
from fedmrn.http.tasks import OpenTask, digest_of
from fedmrn.http.verdict import KNOWN, NOTED, TAKEN, Verdict, refused
from fedmrn.text import printable
from fedmrn.wire.frame import Frame

_log = getLogger(__name__)
_NOT_KEPT = refused(503, "NotKept", "the server cannot put this answer on disk now; send it again later", again=True)
MOST_TEXT = 4096
"""Bytes of a failure's text."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a client that asks for work is sent.

    Attributes:
        task: name of the task.
        kind, round: what is to be done, in which round.
        config: what clients are told, as it travels.
        seconds: until the task is closed.
        content: the body.
    """

    task: str
    kind: MessageKind
    round: int
    config: str
    seconds: int
    content: Frame | bytes = field(repr=False)


class ClosedError(Exception):
    """The desk was closed: the server ends."""


class Desk:
    """What each client is to do now.

    Args:
        keep: called with task, client, frame and metrics of each answer that was taken, before the client is told so.
        ring: called whenever there may be new work.

    Attributes:
        over: whether there will be no work any more.
    """

    def __init__(
        self,
        keep: Callable[[str, int, bytes, str], None] = lambda *_: None,
        ring: Callable[[], None] = lambda: None,
    ) -> None:
        self._keep, self.ring = keep, ring
        self._changed = Condition()
        self._task: OpenTask | None = None
        self._closes, self._closed, self._starting = 0.0, False, True
        self._seen: dict[int, float] = {}
        self._last: dict[int, tuple[str, bytes]] = {}
        self.over = False

    def offer(self, client: int) -> Offer | None:
        """Return what a client that asks for work is to do; None if there is nothing now."""
        with self._changed:
            self._seen[client] = time.monotonic()
            self._changed.notify_all()
            task = self._task
            if task is None or not task.offers(client):
                return None
            return Offer(
                task=task.name,
                kind=task.kind,
                round=task.round,
                config=task.config,
                seconds=max(0, ceil(self._closes - time.monotonic())),
                content=task.message(client).content,
            )

    def answer(self, client: int, name: str, data: bytes, metrics: str) -> Verdict:
        """Take a client's answer to the task of this name, or refuse it."""
        digest = digest_of(data, metrics)
        with self._changed:
            self._seen[client] = time.monotonic()
            task = self._task
            if self._last.get(client) == (name, digest) and (task is None or task.name != name):
                return KNOWN
            found = self._open(client, name)
            if not isinstance(found, OpenTask):
                return self._counted(found, name, len(data))
            if found.answered_by(client, digest):
                here = self._last.get(client) == (name, digest) or self._put_away(found, client, data, metrics, digest)
                return self._counted(KNOWN if here else _NOT_KEPT, name, len(data), "again")
            if client not in found.waiting:
                text = f"client {client} answered {name} already, or said that it cannot"
                return self._counted(refused(409, "DuplicateFrameError", text), name, len(data))
            verdict = self._taken(found, client, data, metrics, digest)
            self._changed.notify_all()
            return self._counted(verdict, name, 0)

    def _taken(self, task: OpenTask, client: int, data: bytes, metrics: str, digest: bytes) -> Verdict:
        try:
            values = read_metrics(metrics)
        except WrongMessageError as error:
            task.conduct.refuse(client, error, size=len(data), kind=task.kind)
            return refused(400, "BadMetrics", str(error), again=task.may_retry(client))
        try:
            task.take(client, data, values, digest)
        except FrameError as error:
            return refused(422, type(error).__name__, str(error), again=task.may_retry(client))
        task.conduct.note_beside(task.kind, received={"metrics": len(metrics)} if metrics else {})
        return TAKEN if self._put_away(task, client, data, metrics, digest) else _NOT_KEPT

    def _put_away(self, task: OpenTask, client: int, data: bytes, metrics: str, digest: bytes) -> bool:
        """Put an answer that was taken on disk; whether it is there, so that its client may be told."""
        try:
            self._keep(task.name, client, data, metrics)
        except OSError as error:  # a full disk; the client sends the answer again, and it is not folded twice
            _log.error("%s: the answer of client %s cannot be put on disk: %s", task.name, client, error)
            return False
        self._last[client] = (task.name, digest)
        return True

    def fail(self, client: int, name: str, text: bytes) -> Verdict:
        """Note that a client does not answer the task of this name, and why."""
        with self._changed:
            self._seen[client] = time.monotonic()
            found = self._open(client, name)
            if not isinstance(found, OpenTask):
                return self._counted(found, name, len(text))
            if client in found.waiting:
                reason = printable(text.decode("utf-8", errors="replace"), MOST_TEXT)
                lost = reason.startswith(LostModelError.__name__)
                found.conduct.note_beside(found.kind, received={"errors": len(text)})
                if not lost:
                    _log.warning("%s: client %s gives no answer: %s", name, client, reason)
                found.fail(client, reason, lost=lost)
                self._changed.notify_all()
            return self._counted(NOTED, name, 0)

    def cut(self, name: str, size: int) -> None:
        """Count an upload that was broken off after so many bytes, because it was too long, too slow or lost."""
        with self._changed:
            if self._task is not None and self._task.name == name and size:
                self._task.conduct.note_beside(self._task.kind, received={"refused": size})

    def _open(self, client: int, name: str) -> OpenTask | Verdict:
        """Return the task of this name if it is open and this client's; else why it is not."""
        task = self._task
        if self._starting:  # it may be the task that the server was killed in, and is about to open again
            return refused(503, "Starting", "the server is starting", again=True)
        if task is None or task.name != name:
            return refused(409, "WrongRoundError", f"task {name} is closed")
        if client not in task.clients:
            return refused(404, "NoTask", f"client {client} has no task {name}")
        return task

    def _counted(self, verdict: Verdict, name: str, size: int, part: str = "refused") -> Verdict:
        """Count a verdict's bytes, and those of an upload that was not folded, for the task that is open."""
        task = self._task
        if task is not None and task.name == name:
            sent, received = {"verdicts": len(verdict.body)}, {part: size} if size else {}
            task.conduct.note_beside(task.kind, sent=sent, received=received)
        return verdict

    # What the thread that runs the rounds calls.

    def start(self) -> None:
        """Say that no task is open from before the server was started: until then, uploads are told to come again."""
        with self._changed:
            self._starting = False

    def present(self, since: float) -> list[int]:
        """Return the clients that came at or after this time of `time.monotonic`, in increasing order."""
        return sorted(client for client, when in self._seen.items() if when >= since)

    def wait_for(self, wanted: int, within: float) -> list[int]:
        """Wait until so many clients asked for work within the last seconds; return all that did.

        Raises:
            ClosedError: the desk was closed.
        """
        with self._changed:
            while len(found := self.present(time.monotonic() - within)) < wanted:
                self._check_open()
                self._changed.wait(1.0)
            return found

    def put(self, task: OpenTask, seconds: float) -> None:
        """Open a task: its clients are sent it from now on, and have so many seconds."""
        with self._changed:
            self._task, self._closes, self._starting = task, time.monotonic() + seconds, False
        self.ring()

    def wait(self) -> bool:
        """Wait until nobody has to answer any more, or the time is over; return whether nobody has to.

        Raises:
            ClosedError: the desk was closed.
        """
        with self._changed:
            while self._task is not None and self._task.waiting:
                self._check_open()
                left = self._closes - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 1.0))
            return True

    def take_away(self) -> None:
        """Close the task that is open: whatever comes for it is too late."""
        with self._changed:
            self._task = None

    def prolong(self, seconds: float) -> None:
        """Give so many seconds more to all who did not answer the task that is open, failed, or were refused."""
        with self._changed:
            self._closes = time.monotonic() + seconds
            if self._task is not None:
                self._task.reopen()
        self.ring()

    def end(self) -> None:
        """Say that there will be no work any more."""
        with self._changed:
            self._task, self.over, self._starting = None, True, False
        self.ring()

    @property
    def closed(self) -> bool:
        """Whether the server ends."""
        return self._closed

    def close(self) -> None:
        """Make the thread that runs the rounds stop waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError
