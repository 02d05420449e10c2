"""Messages to nodes: a round's broadcasts, and models to evaluate; what they share is shared, and all is counted."""

from collections.abc import Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedmrn.errors import ConfigError
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.transport import MessageKind
from fedmrn.flower.arrays import frames_of
from fedmrn.flower.records import FRAME, STATE, Cutter, Framed, beside_arrays
from fedmrn.server import Server
from fedmrn.text import nearest

_EVALUATE = ("frame", "arrays")


def check_evaluate(evaluate: str) -> None:
    """Refuse what is no way in which a model travels to be evaluated.

    Raises:
        ConfigError: it is none.
    """
    if evaluate not in _EVALUATE:
        raise ConfigError(f"evaluate {evaluate!r} does not exist{nearest(str(evaluate), _EVALUATE)}")


def to_train(conduct: Conduct, nodes: Iterable[int], config: ConfigRecord, keys: tuple[str, str]) -> list[Message]:
    """Return each node's broadcast; they share the bytes of the state.

    Args:
        conduct: of the round, which has begun with these nodes.
        nodes: to ask.
        config: what all are told beside it.
        keys: of the record of arrays and of the configuration.
    """
    cutter, messages = Cutter(), []
    for node in nodes:
        head, state = cutter.cut(conduct.train(node).content)
        content = RecordDict({keys[0]: ArrayRecord({FRAME: head, STATE: state}), keys[1]: config})
        messages.append(Message(content=content, message_type=MessageType.TRAIN, dst_node_id=node))
        conduct.note_beside(MessageKind.TRAIN, sent=beside_arrays(content))
    return messages


def to_evaluate(
    conduct: Conduct, messages: Sequence[Message], server: Server, arrays: ArrayRecord, key: str, *, framed: bool
) -> None:
    """Put the model into messages that hold it as plain arrays, as it travels in broadcasts; count them.

    Args:
        conduct: of the round.
        messages: are changed.
        server: whose model it is.
        arrays: the model.
        key: of the record of arrays.
        framed: False: the arrays stay.
    """
    frames = frames_of(server, arrays, conduct.report.round) if framed and messages else None
    account, records = {"arrays": sum(len(array.data) for array in arrays.values())}, Framed()
    for message in messages:
        if frames is not None:
            frame = frames(message.metadata.dst_node_id)
            message.content, account = RecordDict({**message.content, key: records.record(frame)}), frame.account()
        conduct.note_sent(message.metadata.dst_node_id, MessageKind.EVALUATE, account)
        conduct.note_beside(MessageKind.EVALUATE, sent=beside_arrays(message.content))
