"""What clients are shown may be less than the server's exact state: who goes by which."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from core_examples import LAYOUT, SECRET, noisy
from numpy.typing import NDArray

from fedmrn.codecs import Raw
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.server.rules import Sees, ServerRule
from fedmrn.server.scheme import Scheme
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update, read_state

F32 = NDArray[np.float32]
CODED = LAYOUT.span(Group.CODED)
STEP = 2.0**-4


class Coarse(Server):
    """Shows its state rounded to sixteenths."""

    @property
    def shown(self) -> F32:
        return (np.rint(self.state / STEP) * STEP).astype(np.float32)


@dataclass(frozen=True)
class FromShown(ServerRule):
    """What was shown, plus the mean."""

    sees: ClassVar[Sees] = Sees.SHOWN


def server(rule: ServerRule, kind: type[Server] = Coarse) -> Server:
    return kind(LAYOUT, Scheme(1, dict.fromkeys(Group, Raw()), rule), noisy(LAYOUT.size, 1, 1.0), SECRET)


def moved(here: Server, update: F32) -> F32:
    """The state after a round in which one client sends this update."""
    round_ = here.begin(1, ["ann"])
    asked = Frame.from_bytes(round_.broadcast("ann"))
    round_.add("ann", encode_update(asked, LAYOUT, update, weight=1, sampling_key=2).to_bytes())
    return round_.finish()


def test_the_state_is_shown_as_it_is() -> None:
    here = server(ServerRule(), Server)
    assert here.shown.tobytes() == here.state.tobytes()


@pytest.mark.parametrize("rule", [ServerRule(), FromShown()], ids=["exact", "shown"])
def test_broadcasts_are_made_of_what_is_shown(rule: ServerRule) -> None:
    here = server(rule)
    found = read_state(Frame.from_bytes(here.begin(1, ["ann"]).broadcast("ann")), LAYOUT)
    assert found.tobytes() == here.shown.tobytes() != here.state.tobytes()


def test_a_rule_starts_from_what_it_sees_and_all_else_from_the_exact_state() -> None:
    """Updates are multiples of the fold's unit, 2^-24 or finer, so that only the addition rounds."""
    update = np.rint(noisy(LAYOUT.size, 2, 0.5) * 2**12).astype(np.float32) / np.float32(2**12)
    exact, shown = server(ServerRule()), server(FromShown())
    state, seen = exact.state.copy(), exact.shown.copy()
    assert moved(exact, update).tobytes() == (state + update).tobytes()
    after = moved(shown, update)
    assert after[CODED].tobytes() == (seen + update)[CODED].tobytes() != (state + update)[CODED].tobytes()
    assert after[CODED.stop :].tobytes() == (state + update)[CODED.stop :].tobytes()


def test_codecs_are_bound_to_what_is_shown() -> None:
    """A weight that rounds to nothing is zero to the clients, which then send no value for it."""
    scheme = method("fedsparsify-global").scheme({"sparsity": 0.5, "rounds": 4})
    state = Server.initial(LAYOUT, scheme, noisy(LAYOUT.size, 1, 0.1))
    here = Coarse(LAYOUT, scheme, state, SECRET)
    hidden = (here.shown == 0) & (here.state != 0)
    assert hidden[CODED].any()
    update = noisy(LAYOUT.size, 2)
    update[CODED] *= here.shown[CODED] != 0
    frame = encode_update(
        Frame.from_bytes((round_ := here.begin(1, ["ann"])).broadcast("ann")), LAYOUT, update, weight=1, sampling_key=2
    )
    assert len(frame.sections[0].body) == 4 * np.count_nonzero(here.shown[CODED])
    round_.add("ann", frame.to_bytes())
    assert np.isfinite(round_.finish()).all()
