"""The exchange after the last round: nodes find the statistics of the model that is kept, and the server pools them."""

from collections.abc import Iterable
from logging import INFO, WARNING, getLogger

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedmrn.errors import ConfigError, EmptyRoundError, FrameError, RoundOrderError
from fedmrn.federation.calibration import take_answer
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.records import CALIBRATE, Framed, arrays_size, beside_arrays, statistics_bytes
from fedmrn.flower.replies import Replies
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain
from fedmrn.server import Server

log = getLogger("flwr").log
_KIND = MessageKind.CALIBRATE


def check_calibrate(calibrate: bool | int) -> None:
    """Refuse what is neither a truth value nor a number of nodes.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(calibrate, int) or calibrate < 0:
        raise ConfigError(
            f"calibrate is True for the nodes of the last round, a number of nodes, or False; got {calibrate!r}"
        )


def calibrate_on(
    grid: Grid, server: Server, conduct: Conduct, nodes: Iterable[int], *, key: str, timeout: float
) -> None:
    """Ask nodes for the statistics of the server's model; what comes is checked, counted and pooled.

    Where nobody answers, or the model has no statistics, it stays as it is; the log says so.

    Args:
        grid: to the nodes.
        server: whose state takes the statistics.
        conduct: of the last round, which is finished.
        nodes: to ask.
        key: of the record of arrays.
        timeout: how long to wait, in seconds.
    """
    number = conduct.report.round
    try:
        calibration = server.calibrate(nodes)
    except (ConfigError, RoundOrderError) as error:
        log(WARNING, "round %s: the model is not calibrated: %s", number, error)
        return
    messages, framed = [], Framed()
    for node in calibration.clients:
        frame = calibration.frame_for(node)
        record, account = framed.record(frame), frame.account()
        content = RecordDict({key: record, "config": ConfigRecord({"server-round": number})})
        messages.append(Message(content=content, message_type=CALIBRATE, dst_node_id=int(node)))
        conduct.note_sent(int(node), _KIND, account)
        conduct.note_beside(_KIND, sent=beside_arrays(content))
    replies = Replies(_KIND, messages)
    for message in grid.send_and_receive(messages, timeout=timeout):
        sender = replies.take(conduct, message)
        if sender is None:
            continue
        try:
            data = statistics_bytes(message.content, key)
        except FrameError as error:
            conduct.refuse(sender, error, size=arrays_size(message.content), kind=_KIND)
            continue
        try:
            take_answer(conduct, calibration, sender, data)
        except FrameError:
            continue  # it is in the report
    try:
        calibration.finish()
    except EmptyRoundError as error:
        log(WARNING, "round %s: %s", number, error)
    stage = conduct.report.stages[_KIND]
    text = "round %s: calibrated by %s of %s nodes; %s bytes up, %s down"
    log(INFO, text, number, len(calibration.answered), len(stage.asked), f"{stage.up:,}", f"{stage.down:,}")


def nodes_to_ask(grid: Grid, server: Server, calibrate: bool | int, trained: list[int]) -> list[int]:
    """Return the nodes to ask: those that were asked to train, or so many of those that are connected."""
    if calibrate is True:
        return trained
    nodes = sorted(grid.get_node_ids())
    stream = Stream(derive_key(server.secret, "calibration nodes"), domain(Purpose.CLIENTS, server.round))
    return [nodes[i] for i in stream.permutation(len(nodes))[:calibrate]]
