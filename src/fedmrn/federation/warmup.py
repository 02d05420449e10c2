"""Compile the kernels on something tiny, so that the first round is not where the time goes.

Compiled code is kept on disk beside the package (or in the user's cache folder, where that cannot be written): this
takes some seconds once for an installation, and milliseconds afterwards.
"""

import numpy as np

from fedmrn.numerics.fused import fold_all_masked
from fedmrn.numerics.masking import MaskType, progressive_weights
from fedmrn.numerics.rng import Stream
from fedmrn.server import Server
from fedmrn.server.scheme import Scheme
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update


def warm_up(scheme: Scheme) -> None:
    """Run every kernel of a scheme, and those of local training, once; the scheme's through real frames."""
    beside = [] if scheme.theta else [TensorSpec("b", (1,), Group.DENSE)]  # nothing goes beside private masks
    layout = Layout.of([TensorSpec("w", (257,), Group.CODED), *beside])
    zeros = np.zeros(9, np.float32)
    server = Server(layout, scheme, np.zeros(layout.size, np.float32), bytes(16))
    round_ = server.begin(1, [0])
    broadcast = Frame.from_bytes(round_.broadcast(0))
    update = encode_update(broadcast, layout, server.state, weight=1, sampling_key=0)
    round_.add(0, update.to_bytes())
    places, keys = np.array([zeros.ctypes.data], np.uint64), np.zeros(1, np.uint64)  # of masks of a larger model
    fold_all_masked(0, np.float32(1), keys, 0, places, 1, False, np.ones(1), np.zeros(8, np.int64))
    progressive_weights(zeros, zeros + 1, zeros, 0.5, Stream(0, 0), MaskType.BINARY, np.empty_like(zeros))
    Stream(0, 0).words(0, 1)  # the order of samples
