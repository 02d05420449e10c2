"""The server's side: which updates it takes, their exact mean, and how a mean becomes the next state."""

from fedmrn.server.round import Round
from fedmrn.server.server import Carried, Server

__all__ = ["Carried", "Round", "Server"]
