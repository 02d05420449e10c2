"""What the server answers to an upload: a status and a few words of JSON."""

import json
from dataclasses import dataclass, field
from functools import cached_property

from fedmrn.text import printable

_LONGEST = 600


@dataclass(frozen=True)
class Verdict:
    """What became of an upload.

    Attributes:
        status: of HTTP.
        content: members of the JSON object that is sent.
    """

    status: int
    content: dict[str, str | bool] = field(default_factory=dict)

    @cached_property
    def body(self) -> bytes:
        """The bytes that are sent."""
        return json.dumps(self.content, separators=(",", ":")).encode()


TAKEN = Verdict(200, {"answer": "taken"})
KNOWN = Verdict(200, {"answer": "known"})
NOTED = Verdict(200, {"answer": "noted"})


def refused(status: int, error: str, message: str, *, again: bool = False) -> Verdict:
    """Return the verdict on what is not taken; `again`: whether another answer to the same task may be."""
    return Verdict(status, {"error": error, "message": printable(message, _LONGEST), "again": again})
