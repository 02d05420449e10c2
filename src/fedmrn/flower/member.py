"""A Flower client's side of secure sums: one function for keys, shares and unmasking.

    @app.train("secure")
    def secure(message: Message, context: Context) -> Message:
        return secure_sum(message, context)

`fedmrn.flower.client.reply` puts the pads on. Between messages a node's secrets lie in its `context.state`: Flower may
start a new process for each. They are deleted when the round is over, or another one begins.
"""

from collections.abc import Collection

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedmrn.errors import WrongMessageError, WrongRoundError
from fedmrn.flower.records import ENVELOPES, FRAME, SECURE, record_bytes, records_of, to_array
from fedmrn.secure.member import SumMember
from fedmrn.secure.records import RecordKind, kind_of
from fedmrn.secure.update import numbers_of
from fedmrn.wire.frame import Frame

_KEPT = "fedmrn-secure-sum"


def secure_sum(
    message: Message,
    context: Context,
    *,
    sign: bytes | None = None,
    trusted: Collection[bytes] = (),
    colluding: float | None = None,
    least: int = 2,
    arrayrecord_key: str = "arrays",
) -> Message:
    """Answer the message that asks for keys, shares, or to reveal shares.

    Args:
        message: of type "train.secure".
        context: of this client.
        sign: this client's private key of Ed25519, 32 bytes, where clients know each other by such keys.
        trusted: the public keys of all clients that may take part; none: the server's list is believed.
        colluding: share with a few neighbours where the server asks for it, if that withstands this share of all
            clients helping the server; None: share with all others alone (`fedmrn.secure.SumMember.begin`).
        least: of how few clients a server that lies may read the sum: a round in which it could be fewer is refused.
        arrayrecord_key: as in the strategy.

    Raises:
        WrongMessageError: the message holds no record of a secure sum.
        WrongRoundError: this client has begun no secure sum.
        ConfigError: `least` is no whole number of at least 2.
        FrameError: as `fedmrn.secure.SumMember`.
    """
    data = record_bytes(message.content, arrayrecord_key)
    kind = kind_of(data)
    if kind is RecordKind.SETUP:
        member, answer = SumMember.begin(data, sign=sign, colluding=colluding, least=least)
        _keep(context, member)
    elif kind is RecordKind.ROSTER:
        member = _kept(context)
        answer = member.share(data, trusted=frozenset(trusted))
        _keep(context, member)
    elif kind is RecordKind.SURVIVORS:
        answer = _kept(context).reveal(data)
        del context.state[_KEPT]
    else:
        raise WrongMessageError("the message holds no question of a secure sum")
    return Message(content=RecordDict({arrayrecord_key: ArrayRecord({FRAME: to_array(answer)})}), reply_to=message)


def padded(update: Frame, message: Message, context: Context) -> bytes:
    """Return an update with pads on it, as the training message's shares say; called by `reply`.

    Raises:
        WrongMessageError: the message holds no shares.
        FrameError, EncodeError: as `fedmrn.secure.SumMember.pad`.
    """
    envelopes = records_of(message.content, ConfigRecord)[SECURE].get(ENVELOPES)
    if not isinstance(envelopes, bytes):
        raise WrongMessageError("the message holds no shares of a secure sum")
    member = _kept(context)
    data = member.pad(envelopes, numbers_of(update, member.session))
    _keep(context, member)
    return data


def _keep(context: Context, member: SumMember) -> None:
    context.state[_KEPT] = ConfigRecord({"member": member.to_bytes()})


def _kept(context: Context) -> SumMember:
    record = records_of(context.state, ConfigRecord).get(_KEPT)
    data = None if record is None else record.get("member")
    if not isinstance(data, bytes):
        raise WrongRoundError("this client has begun no secure sum, or it is over")
    return SumMember.from_bytes(data)
