"""Tokens: who a client is, by a secret of its own. A server compares digests of them."""

import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from fedmrn.errors import ConfigError
from fedmrn.files import read_file, write_atomic
from fedmrn.whole import whole

_LINE = re.compile(r"(\d{1,19}) ([A-Za-z0-9._~+/=-]{16,200})")
_SCHEME = "bearer "
_LONGEST = 300
_MOST_BYTES = 1 << 26


class Tokens:
    """Which client each token names.

    Args:
        tokens: client -> its token, at least 16 printable characters without spaces.

    Attributes:
        clients: all of them, in increasing order.

    Raises:
        ConfigError: there is none, two clients share one, or a client or a token cannot be.
    """

    def __init__(self, tokens: Mapping[int, str]) -> None:
        self._clients: dict[bytes, int] = {}
        for client, token in tokens.items():
            number = whole(client, "a client", least=0, most=(1 << 63) - 1)
            if not isinstance(token, str) or not _LINE.fullmatch(f"0 {token}"):
                raise ConfigError(f"the token of client {number} is not 16 to 200 letters, digits or ._~+/=-")
            self._clients[_digest(token)] = number
        self.clients = tuple(sorted(self._clients.values()))
        if not self.clients or len(self.clients) != len(tokens):
            raise ConfigError("each client has a token of its own, and there is at least one client")

    def client_of(self, authorization: str | None) -> int | None:
        """Return whom an Authorization header names; None where it names nobody."""
        given = authorization or ""
        if not given.isascii() or len(given) > _LONGEST or given[: len(_SCHEME)].lower() != _SCHEME:
            return None
        return self._clients.get(_digest(given[len(_SCHEME) :].strip()))


def new_tokens(clients: int) -> dict[int, str]:
    """Return fresh tokens of 256 bits for clients 0 to `clients` - 1."""
    return {client: secrets.token_urlsafe(32) for client in range(whole(clients, "the number of clients"))}


def write_tokens(path: Path, tokens: Mapping[int, str]) -> None:
    """Write tokens to a file that only its owner can read, a client a line: its number, a space, its token."""
    write_atomic(path, "".join(f"{client} {token}\n" for client, token in tokens.items()).encode(), private=True)


def read_tokens(path: Path) -> Tokens:
    """Return the tokens in a file that `write_tokens` wrote, or a person.

    Raises:
        ConfigError: it is not there, or a line of it is not a number and a token.
    """
    data = read_file(path, _MOST_BYTES, error=ConfigError, links=True)
    if data is None:
        raise ConfigError(f"{path} is not there: write_tokens(path, new_tokens(50)) makes one for 50 clients")
    found: dict[int, str] = {}
    for number, line in enumerate(data.decode("utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None or int(match[1]) in found:
            raise ConfigError(
                f"{path}, line {number}: a number that no other line has, a space, and a token belong there"
            )
        found[int(match[1])] = match[2]
    return Tokens(found)


def _digest(token: str) -> bytes:
    return sha256(token.encode()).digest()
