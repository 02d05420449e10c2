"""A round's second conversation: clients are sent the new model, and answer with its statistics on their samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedmrn.errors import FrameError, WorkerError
from fedmrn.federation.account import Account
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.report import Stage
from fedmrn.federation.transport import MessageKind, Transport
from fedmrn.server import Server
from fedmrn.server.calibration import Calibration
from fedmrn.wire.frame import Frame

CALIBRATE = ("never", "last", "every")
"""After which rounds of a simulation the clients calibrate the new model."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What the calibration of a round's model was: the model before it, and its bytes.

    Attributes:
        accuracy, loss: of the model before; None where the round is not tested.
        clients: who was asked.
        up, down: bytes by part of all clients' frames.
    """

    accuracy: float | None
    loss: float | None
    clients: list[int]
    up: Account = field(repr=False)
    down: Account = field(repr=False)


def take_answer(conduct: Conduct, calibration: Calibration, client: int, data: bytes) -> Frame:
    """Take a client's answer, and count it.

    Raises:
        FrameError: as `Calibration.add`. It is in the report, and nothing else has changed.
    """
    try:
        frame = calibration.add(client, data)
        conduct.note_received(client, MessageKind.CALIBRATE, frame.account())
    except FrameError as error:
        conduct.refuse(client, error, size=len(data), kind=MessageKind.CALIBRATE)
        raise
    return frame


def calibrate_all(
    server: Server,
    conduct: Conduct,
    transport: Transport,
    clients: Sequence[int],
    held: Callable[[int], bytes] = lambda _: b"",
) -> Stage:
    """Let all these clients calibrate the newest model, whose statistics the server's state has then; return the bytes.

    `held` returns what a simulated client keeps of public models.

    Raises:
        WorkerError: a client failed or did not answer.
        FrameError, EncodeError: as the parts do.
    """
    calibration = server.calibrate(clients)
    number, kind = calibration.number, MessageKind.CALIBRATE
    for reply in transport.ask(
        conduct.ask(client, kind, calibration.frame_for(client), held=held(client)) for client in clients
    ):
        if reply.error is not None:
            conduct.take(reply)
            raise WorkerError(f"round {number}: {conduct.report.failed_otherwise[-1]}")
        take_answer(conduct, calibration, reply.client, reply.data)
    missing = [client for client in clients if client not in calibration.answered]
    if missing:
        raise WorkerError(f"round {number}: no statistics came from client {', '.join(map(str, missing))}")
    calibration.finish()
    return conduct.report.stages[kind]
