"""The size that the project promises, measured on the paper's model."""

import numpy as np
from federating import broadcast_of

from fedmrn.models.catalogue import build_model
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update


def test_cnn4_takes_at_most_1_02_bits_a_masked_parameter() -> None:
    model = build_model("cnn4", shape=(1, 28, 28), classes=10, seed=1, init_std=0.01)
    layout = ModelLayout.of(model).layout
    update = np.random.default_rng(0).normal(0, 0.003, layout.size).astype(np.float32)
    broadcast = broadcast_of(model, "fedmrn")
    frame = broadcast if isinstance(broadcast, Frame) else Frame.from_bytes(broadcast)
    data = encode_update(frame, layout, update, weight=600, sampling_key=1).to_bytes()
    mask = Frame.from_bytes(data).select(Role.UPDATE, Group.CODED)
    assert mask is not None
    assert mask.count == 389_920
    assert 8 * mask.size / mask.count <= 1.02
    # Batch norm apart: 480 channels, four floats each, in three sections.
    assert sum(Frame.from_bytes(data).account()[part] for part in ("dense", "stats", "variance")) == 480 * 16
    assert 8 * len(data) / layout.trainable < 1.16
