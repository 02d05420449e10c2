"""Federated learning over plain HTTP: the server's side; `fedmrn.http.client` is a client's.

Transport only: what is sent, checked and folded is the business of `fedmrn.server`, and training of `fedmrn.torch`.
The protocol is in docs/http.md. The server runs without a training framework.
"""

from fedmrn.extras import explained

try:
    from fedmrn.http.server import HttpServer, open_server
except ModuleNotFoundError as error:
    raise explained(error, "fedmrn.http") from error

from fedmrn.http.plan import Plan
from fedmrn.http.rounds import Outcome
from fedmrn.http.tokens import Tokens, new_tokens, read_tokens, write_tokens

__all__ = ["HttpServer", "Outcome", "Plan", "Tokens", "new_tokens", "open_server", "read_tokens", "write_tokens"]
