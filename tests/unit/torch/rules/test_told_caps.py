"""Scales that clients choose stay under the caps that they are told: in training, in the mask, and in the frame."""

import numpy as np
import pytest
import torch
from torch import nn

from fedmrn.codecs import codec_from
from fedmrn.errors import BoundError
from fedmrn.methods import METHODS, method
from fedmrn.server import Carried, Clipping, Server
from fedmrn.server.caps import Caps
from fedmrn.torch import MaskedTraining, ModelLayout, attach
from fedmrn.wire.frame import Frame
from fedmrn.wire.terms import read_caps

CAPS = (-9, -12)


def begun(name: str, options: dict[str, object]) -> tuple[nn.Module, Server]:
    torch.manual_seed(1)
    model = nn.Linear(6, 5)
    view = ModelLayout.of(model)
    scheme = method(name).scheme(options)
    carried = Carried.at_start(view.layout, scheme)
    caps = Caps(400, CAPS, carried.caps.values if carried.caps else ())
    server = Server(
        view.layout,
        scheme,
        view.read(),
        bytes(16),
        run=bytes(16),
        round=1,
        clipping=Clipping(hold=0),
        carried=Carried(carried.moments, caps),
    )
    return model, server


@pytest.mark.parametrize("coding", ["raw", "entropy"])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn-no-pm", "fedmrn-post"])
def test_masked_noise(name: str, coding: str) -> None:
    """The update asks for scales of about 1; the noise of each tensor stays at its cap."""
    model, server = begun(name, {"scale": "auto", "coding": coding})
    round_ = server.begin(2, ["a"])
    broadcast = Frame.from_bytes(round_.broadcast("a"))
    assert read_caps(broadcast) == CAPS
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=1.0), broadcast, steps=3, sampling_key=1)
    for _ in range(3):
        rule.zero_grad()
        model(torch.ones(4, 6)).square().sum().backward()
        rule.step()
    if isinstance(rule, MaskedTraining):
        noise = rule.noise.numpy()
        assert [
            2.0 ** (e - 1) < np.abs(noise[w]).max() <= 2.0**e
            for e, w in zip(CAPS, (slice(30), slice(30, 35)), strict=True)
        ]
    frame = rule.finish(weight=3)
    section = frame.sections[0]
    opened = codec_from(section.codec, section.params).open(section.body, section.count, frame.noise_key, 65536.0)
    scales = opened.tensor_scales()
    assert scales is not None
    assert scales.values.tolist() == [2.0**e for e in CAPS]
    round_.add("a", frame.to_bytes())


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.scheme().codecs[0].sends_scales])
def test_scales_that_are_measured_or_learned(name: str) -> None:
    model, server = begun(name, {})
    round_ = server.begin(2, ["a", "b"])
    sent = []
    for client, told in (("a", True), ("b", False)):
        broadcast = Frame.from_bytes(round_.broadcast(client))
        if not told:  # as one that does not keep to what it was told
            broadcast = Frame(
                broadcast.kind, broadcast.method, 2, broadcast.noise_key, broadcast.layout_digest, 0,
                tuple(s for s in broadcast.sections if s.role != 3),
            )  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        rule = attach(model, optimizer, broadcast, steps=3, sampling_key=1, accept="any")
        for _ in range(3):
            rule.zero_grad()
            model(torch.ones(4, 6)).square().sum().backward()
            rule.step()
        sent.append(rule.finish(weight=3).to_bytes())
    round_.add("a", sent[0])
    with pytest.raises(BoundError, match=r"clients were told to send"):
        round_.add("b", sent[1])
