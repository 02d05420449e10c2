"""What an update must be for a client to sum it: another code's bytes are no bits."""

from typing import Any

import numpy as np
import pytest

from fedmrn.errors import WrongTemplateError
from fedmrn.methods import method
from fedmrn.secure.session import Session
from fedmrn.secure.update import numbers_of
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

LAYOUT = Layout.of([TensorSpec("w", (4, 10), Group.CODED)])


def update(name: str, **options: Any) -> Frame:
    """A client's update, as whatever the server asks for."""
    scheme = method(name).scheme(options, equal=True)
    server = Server(LAYOUT, scheme, np.zeros(LAYOUT.size, np.float32), bytes(16))
    broadcast = Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"), kind=Kind.BROADCAST)
    return encode_update(broadcast, LAYOUT, np.full(LAYOUT.size, 1e-3, np.float32), weight=1, sampling_key=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedavg", {}),
        ("fedmrn", {"scale": 0.01}),
        ("fedmrn", {"noise_key": "round"}),
        ("fedmrn-s", {"scale": 0.01, "coding": "entropy"}),
        ("fedmrn-s", {"noise_key": "round", "coding": "entropy"}),
        ("fedmrn-s", {"scale": "auto"}),
    ],
)
def test_what_is_no_plain_signed_mask_is_refused(name: str, options: dict[str, Any]) -> None:
    """Whatever the server asks for beside its shares: such bytes were summed as if they were a mask's."""
    with pytest.raises(WrongTemplateError, match="signed masks"):
        numbers_of(update(name, **options), Session.begin(1, 3, 2, LAYOUT.size, 1))


@pytest.mark.parametrize(("options", "reals"), [({"scale": 0.01}, 0), ({"scale": "auto"}, 1)])
def test_a_signed_mask_is_its_bits(options: dict[str, Any], reals: int) -> None:
    frame = update("fedmrn-s", noise_key="round", **options)
    numbers = numbers_of(frame, Session.begin(1, 3, 2, LAYOUT.size, reals))
    bits = np.unpackbits(np.frombuffer(frame.sections[0].body[-5:], np.uint8), bitorder="little")
    assert numbers.bits.tolist() == bits.tolist()
    assert numbers.reals.size == reals
