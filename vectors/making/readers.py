"""Who refuses a frame: a client before it trains, and a server before it adds. Each says by which error."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import FrameError, MalformedFrameError
from fedmrn.methods import check_consent
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Layout
from fedmrn.wire.messages import check_templates, read_model, read_state
from fedmrn.wire.terms import read_terms

MASKED_TERMS = {"progressive", "stochastic", "budget"}
TERMS_OF = {"fedmrn-s": MASKED_TERMS | {"theta"}, "fedbat": {"warmup", "rho"}, "fedpm": {"backward"}}
"""Terms of methods that have others than `MASKED_TERMS`, which those of masked noise have."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A frame that must be refused.

    Attributes:
        name, why: of the frame.
        error: by which.
        data: its bytes.
        reader: client or server.
        kind: what is expected.
        layout: a key of `LAYOUTS`.
        before: frames that the client was sent before.
        accept: methods that the client accepts.
        start: the weights that it started with; None where it does not know any.
        limits: of the reader, as the index names them.
    """

    name: str
    why: str
    error: type[FrameError]
    data: bytes
    reader: str = "client"
    kind: Kind = Kind.BROADCAST
    layout: str = "tiny"
    before: Sequence[bytes] = ()
    accept: Sequence[str] = ("masked",)
    start: NDArray[np.float32] | None = None
    limits: dict[str, int] = field(default_factory=dict)


Row = tuple[str, type[FrameError], str, bytes]
"""(name, error, why, bytes) of a frame that is refused."""


def each(prefix: str, rows: Iterable[Row], **fields: Any) -> Iterator[Refused]:
    """Yield rows as frames that are refused, with these further fields."""
    for name, error, why, data in rows:
        yield Refused(name=f"{prefix}-{name}", why=why, error=error, data=data, **fields)


def fault_of(read: Callable[[], object]) -> type[FrameError] | None:
    """Return the type of the error that reading raises, or None."""
    try:
        read()
    except FrameError as error:
        return type(error)
    return None


def limits_of(limits: dict[str, int]) -> Limits:
    """Return the limits that the index names."""
    return Limits(**{f"max_{name}": value for name, value in limits.items()}) if limits else DEFAULT_LIMITS


def read_as_client(refused: Refused, layout: Layout) -> None:
    """Read what a client was sent before, and then the frame, in the order of the document.

    Raises:
        FrameError: as the checks say.
    """
    held, start = Held(layout), None if refused.start is None else refused.start.copy
    for data in refused.before:
        read_state(Frame.from_bytes(data), layout, held, start)
    frame = Frame.from_bytes(refused.data, kind=refused.kind, limits=limits_of(refused.limits))
    if refused.kind is Kind.MODEL:
        read_model(frame, layout, held, start)
        return
    row = check_consent(frame, refused.accept)
    allowed = TERMS_OF.get(row.name, MASKED_TERMS if row.masked else set())
    told = read_terms(frame)
    if not told.keys() <= allowed:
        raise MalformedFrameError(f"method {row.name} has no such term")
    row.local_options(told)
    read_state(frame, layout, held, start)
    check_templates(frame, layout)
