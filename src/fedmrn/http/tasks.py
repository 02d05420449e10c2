"""A task that is open: who is to train in a round, or to evaluate its model, and what came of it so far."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b

from fedmrn.errors import WrongMessageError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import Message, MessageKind, Reply
from fedmrn.http.metrics import WEIGHT, MetricMeans, weight_of
from fedmrn.wire.frame import Frame

_DOWNLOADS, _REFUSALS, _LOST = 16, 3, 2


class OpenTask:
    """What some clients are asked to do now: to train.

    Args:
        conduct: of the round.
        clients: who is asked.
        config: what they are told, as it travels.

    Attributes:
        name: of the task in the path of its answers, such as "4-train".
        waiting: clients that may still answer.
        means: of their metrics.
    """

    kind = MessageKind.TRAIN

    def __init__(self, conduct: Conduct, clients: Iterable[int], config: str) -> None:
        self.conduct, self.config = conduct, config
        self.clients = tuple(clients)
        self.round = conduct.report.round
        self.name = f"{self.round}-{self.kind}"
        self.waiting = set(self.clients)
        self.means = MetricMeans()
        self._answers: dict[int, bytes] = {}
        self._downloads, self._refusals, self._lost = Counter[int](), Counter[int](), Counter[int]()

    def offers(self, client: int) -> bool:
        """Whether a client is to be sent this task."""
        return client in self.waiting and self._downloads[client] < _DOWNLOADS

    def message(self, client: int) -> Message:
        """Return what a client is sent, and count it."""
        self._downloads[client] += 1
        message = self._message(client)
        self.conduct.note_beside(self.kind, sent={"config": len(self.config)})
        return message

    def answered_by(self, client: int, digest: bytes) -> bool:
        """Whether a client's answer with this digest was taken."""
        return self._answers.get(client) == digest

    def take(self, client: int, data: bytes, metrics: Mapping[str, float], digest: bytes) -> None:
        """Take an answer of a client that is waited for.

        Raises:
            FrameError: it is refused; `may_retry` tells whether another may come.
        """
        self._take(client, data, metrics)
        self._answers[client] = digest
        self.waiting.discard(client)

    def may_retry(self, client: int) -> bool:
        """Count a refusal of a client's answer, and return whether it may send another."""
        self._refusals[client] += 1
        if self._refusals[client] >= _REFUSALS:
            self.waiting.discard(client)
        return client in self.waiting

    def fail(self, client: int, reason: str, *, lost: bool) -> None:
        """Note that a client does not answer; one that lost its public model is sent the whole one, if not for ever."""
        self.conduct.fail(client, reason, self.kind, lost=lost)
        self._lost[client] += lost
        if not lost or self._lost[client] > _LOST:
            self.waiting.discard(client)

    def reopen(self) -> None:
        """Ask those again who failed or were refused."""
        self.waiting = {client for client in self.clients if client not in self._answers}
        self._downloads.clear()
        self._refusals.clear()
        self._lost.clear()

    @property
    def answers(self) -> int:
        """How many answers were taken."""
        return len(self._answers)

    def _message(self, client: int) -> Message:
        return self.conduct.train(client)

    def _take(self, client: int, data: bytes, metrics: Mapping[str, float]) -> None:
        if WEIGHT in metrics:
            weight_of(metrics)
        if client not in self.conduct.report.asked:  # it was sent the broadcast before the server was restarted
            self.conduct.note_public(client)
            self.conduct.note_sent(client, self.kind, {})
        frame = self.conduct.fold(client, data)
        self.means.add(client, weight_of(metrics, frame.weight), metrics)


class OpenEvaluation(OpenTask):
    """What some clients are asked to do now: to evaluate the model after a round.

    Args:
        conduct, clients, config: as for `OpenTask`.
        model: client -> the frame of the model.
    """

    kind = MessageKind.EVALUATE

    def __init__(self, conduct: Conduct, clients: Iterable[int], config: str, model: Callable[[int], Frame]) -> None:
        super().__init__(conduct, clients, config)
        self._model = model

    def _message(self, client: int) -> Message:
        return self.conduct.ask(client, self.kind, self._model(client))

    def _take(self, client: int, data: bytes, metrics: Mapping[str, float]) -> None:
        if data:
            error = WrongMessageError("an evaluation is answered by metrics alone, and this one has a body")
            self.conduct.refuse(client, error, size=len(data), kind=self.kind)
            raise error
        weight = weight_of(metrics)
        self.conduct.take(Reply(client=client, kind=self.kind))
        self.means.add(client, weight, metrics)


def digest_of(data: bytes, metrics: str) -> bytes:
    """Return what tells an answer from another: 16 bytes of the hash of its frame and metrics."""
    digest = blake2b(digest_size=16, person=b"fedmrn-answer")
    digest.update(len(data).to_bytes(8, "little") + data)
    digest.update(metrics.encode())
    return digest.digest()
