"""The server's side: which updates it takes, their exact mean, and how a mean becomes the next state."""

from fedmrn.server.caps import Clipping
from fedmrn.server.carried import Carried
from fedmrn.server.edge import EdgeRound
from fedmrn.server.grid import PublicGrid
from fedmrn.server.round import Round
from fedmrn.server.server import Server

__all__ = ["Carried", "Clipping", "EdgeRound", "PublicGrid", "Round", "Server"]
