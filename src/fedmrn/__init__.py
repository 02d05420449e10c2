"""Federated learning at one bit per parameter: real frames, every byte counted.

fedmrn.server      the server: broadcasts, checks, folds (no training framework needed)
fedmrn.torch       the client: `attach` an optimiser, train, `finish` a frame
fedmrn.server.scheme      the methods
fedmrn.wire.frame       the bytes
"""

__version__ = "0.1.0"
