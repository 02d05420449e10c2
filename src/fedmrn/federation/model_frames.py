"""The frames of a model for clients to evaluate; needs no training framework."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fedmrn.codecs import EncodeKeys
from fedmrn.numerics.rng import derive_key
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.messages import model_frame


def model_frames(server: Server, model: NDArray[np.float32], number: int) -> Callable[[int], Frame]:
    """Return what makes the frame of a model for a client to evaluate: the same values for all, coded as `down` says.

    A server with public models sends what changed since the one that the client holds, unless the model is another
    than its own, which somebody has changed: it is sent exactly.

    Args:
        server: whose model it is.
        model: float32, shape (layout.size,).
        number: of the round that it is the model after.
    """
    keys = EncodeKeys(derive_key(server.secret, "model", number), derive_key(server.secret, "model draws", number))
    publisher = server.publisher
    frame = model_frame(
        server.layout, model, method=server.scheme.method, round=number, codecs=server.scheme.down, keys=keys
    )
    if publisher is None or model.tobytes() != server.shown.tobytes():
        return lambda _: frame
    public = publisher.current.number
    return lambda client: replace(frame, sections=publisher.sections(client, public))
