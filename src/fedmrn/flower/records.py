"""Frames in Flower's records: bytes in an `Array` of a serialisation type of its own, which nothing else can average.

A reply carries one frame in one array, and so does a model to evaluate. A broadcast is cut in two: the *state*, which
all clients of a round share where the broadcast is exact, so that Flower holds and stores it once; and the rest, some
hundred bytes with the client's noise key. Joined again they are the frame, byte for byte.
"""

from typing import NamedTuple, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict

from fedmrn.errors import WrongMessageError
from fedmrn.federation.account import Account
from fedmrn.federation.transport import MessageKind
from fedmrn.wire.frame import CHECKSUM_SIZE, Frame, Role, Section

_PLAIN = "numpy.ndarray"
"""The serialisation type of Flower's own arrays."""
STYPE = "fedmrn.frame.v1"
CALIBRATE = f"{MessageType.TRAIN}.{MessageKind.CALIBRATE}"
"""The type of a message that asks for the statistics of a model; `@app.train("calibrate")` answers it."""
FRAME = "frame"
STATE = "state"
RUN = "fedmrn-run"
"""In a message's configuration: 8 bytes that name the run to nodes, in runs that may be taken up again."""
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)
_PIECES = 3  # of a section, in `Frame.parts`


class Cut(NamedTuple):
    """A broadcast's frame without its state, and the state."""

    frame: Array
    state: Array


SECURE, ENVELOPES = "fedmrn-secure", "envelopes"
"""Beside a broadcast that is summed unseen: the record that holds the shares for the node, and its one value."""


def to_array(data: bytes) -> Array:
    """Return bytes as an array that Flower carries and does not understand."""
    return Array("uint8", (len(data),), STYPE, data)


class Cutter:
    """Cuts a round's broadcasts; frames that hold the same state, not only an equal one, share its bytes."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, ...], tuple[list[Section], Array]] = {}

    def cut(self, content: Frame | bytes) -> Cut:
        """Cut a broadcast, in which the state comes last; other bytes are left in one piece."""
        if not isinstance(content, Frame):
            return Cut(to_array(content), to_array(b""))
        parts = content.parts()
        state = [section for section in content.sections if section.role is Role.STATE]
        at = 1 + _PIECES * (len(content.sections) - len(state))
        same = tuple(map(id, state))  # of sections that are kept here, so that no other has their ids
        if same not in self._states:
            self._states[same] = state, to_array(b"".join(parts[at:-1]))
        return Cut(to_array(b"".join([*parts[:at], parts[-1]])), self._states[same][1])


class Framed:
    """Makes records of frames in one piece; frames that hold the same state, not only an equal one, share theirs."""

    def __init__(self) -> None:
        self._records: dict[tuple[int, ...], tuple[Frame, ArrayRecord]] = {}

    def record(self, frame: Frame) -> ArrayRecord:
        """Return the record of a frame's bytes."""
        same = tuple(map(id, frame.sections))  # of frames that are kept here, so that no other has their ids
        if same not in self._records:
            self._records[same] = frame, ArrayRecord({FRAME: to_array(frame.to_bytes())})
        return self._records[same][1]


def arrays_size(content: RecordDict) -> int:
    """Return the bytes of all arrays of a message's content."""
    return sum(len(array.data) for record in records_of(content, ArrayRecord).values() for array in record.values())


def beside_arrays(content: RecordDict) -> Account:
    """Return the bytes of what a message holds beside its arrays, by part: "metrics" and "config".

    Names and texts count in UTF-8, numbers 8 bytes as Flower writes them, and a truth value 1.
    """
    metrics, config = records_of(content, MetricRecord).values(), records_of(content, ConfigRecord).values()
    found = {"metrics": sum(map(_record_size, metrics)), "config": sum(map(_record_size, config))}
    return {part: size for part, size in found.items() if size}


def _record_size(record: MetricRecord | ConfigRecord) -> int:
    return sum(len(name.encode(errors="replace")) + _value_size(value) for name, value in record.items())


def _value_size(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_value_size, value))
    if isinstance(value, bytes | str):
        return len(value if isinstance(value, bytes) else value.encode(errors="replace"))
    return 1 if isinstance(value, bool) else 8


def broadcast_bytes(content: RecordDict, key: str) -> bytes:
    """Return the broadcast's bytes from a message's content; `key` names the record of arrays.

    Raises:
        WrongMessageError: the content is not what a fedmrn strategy sends to be trained from.
    """
    arrays = _arrays(content, key, {FRAME, STATE}, _TO_TRAIN)
    head, state = _data(arrays, FRAME), _data(arrays, STATE)
    at = max(0, len(head) - CHECKSUM_SIZE)
    return b"".join([head[:at], state, head[at:]])


def update_bytes(content: RecordDict, key: str) -> bytes:
    """Return the update's bytes from a reply's content; `key` names the record of arrays.

    Raises:
        WrongMessageError: the content is not one frame in one array.
    """
    return _data(_arrays(content, key, {FRAME}, _TO_FOLD), FRAME)


def model_bytes(content: RecordDict, key: str) -> bytes:
    """Return the frame of a model to evaluate from a message's content; `key` names the record of arrays.

    Raises:
        WrongMessageError: the content is not what a fedmrn strategy sends to be evaluated.
    """
    return _data(_arrays(content, key, {FRAME}, _TO_EVALUATE), FRAME)


def statistics_bytes(content: RecordDict, key: str) -> bytes:
    """Return the frame of statistics from a reply's content; `key` names the record of arrays.

    Raises:
        WrongMessageError: the content is not one frame in one array.
    """
    return _data(_arrays(content, key, {FRAME}, _TO_POOL), FRAME)


def record_bytes(content: RecordDict, key: str) -> bytes:
    """Return the record of a secure sum from a message's content; `key` names the record of arrays.

    Raises:
        WrongMessageError: the content is not one record in one array.
    """
    return _data(_arrays(content, key, {FRAME}, _TO_SUM), FRAME)


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return the records of a kind by name.

    As `RecordDict.array_records` and its like, which make of a content a cycle: its arrays, a frame or a whole state,
    would stay in memory until the garbage collector comes by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


class _Words(NamedTuple):
    """What to tell an author whose message holds something else: plain arrays, or a frame of the other kind."""

    plain: str
    other: str


_TO_TRAIN = _Words(
    "the message holds plain arrays, as those of Flower's own strategies do: attach() works with the strategy "
    "fedmrn.flower.FedMRN on the server; with another one, load the arrays and train without attach() and reply()",
    "the message holds a model to evaluate, not a broadcast: answer it in @app.evaluate(), where "
    "fedmrn.flower.client.load(model, message) sets the model",
)
_TO_EVALUATE = _Words(
    "the message holds plain arrays, as those of Flower's own strategies do and FedMRN's with evaluate=\"arrays\": "
    'write model.load_state_dict(message.content["arrays"].to_torch_state_dict()) in place of load()',
    "the message holds a broadcast to train from, not a model to evaluate: answer it in @app.train(), by attach()",
)
_TO_FOLD = _Words(
    "the reply holds plain arrays, as a stock Flower client's do: it must be made by fedmrn.flower.client.reply(...) "
    "of what attach(...) returned",
    "the reply holds the broadcast's two arrays: it must be made by fedmrn.flower.client.reply(...)",
)
_TO_SUM = _Words(
    "the message holds plain arrays where a record of a secure sum belongs: a client answers by "
    'fedmrn.flower.member.secure_sum(message, context), in @app.train("secure")',
    "the message holds a broadcast's two arrays where a record of a secure sum belongs",
)
_TO_POOL = _Words(
    "the reply holds plain arrays where statistics belong: it must be made by fedmrn.flower.client.calibrate(...)",
    "the reply holds a broadcast's two arrays: it must be made by fedmrn.flower.client.calibrate(...)",
)


def _arrays(content: RecordDict, key: str, names: set[str], words: _Words) -> ArrayRecord:
    found = records_of(content, ArrayRecord)
    if any(array.stype == _PLAIN for record in found.values() for array in record.values()):
        raise WrongMessageError(words.plain)
    if set(found) != {key}:
        raise WrongMessageError(f"a message has one record of arrays, {key!r}; this one has {_short(found)}")
    if set(found[key]) != names:
        if set(found[key]) <= {FRAME, STATE} and FRAME in found[key]:
            raise WrongMessageError(words.other)
        raise WrongMessageError(f"record {key!r} holds {_short(found[key])}, where {_short(names)} belongs")
    return found[key]


def _data(arrays: ArrayRecord, name: str) -> bytes:
    array = arrays[name]
    if array.stype != STYPE or array.dtype != "uint8":
        raise WrongMessageError(
            f"array {name!r} is {array.dtype[:40]!r} as {array.stype[:40]!r}, not uint8 as {STYPE!r}"
        )
    if tuple(array.shape) != (len(array.data),):
        raise WrongMessageError(f"array {name!r} has {len(array.data)} bytes, which is not the shape that it declares")
    return array.data


def _short(names: object) -> str:
    text = ", ".join(sorted(map(repr, names))) or "nothing"  # type: ignore[call-overload]
    return text if len(text) < 200 else text[:200] + " ..."
