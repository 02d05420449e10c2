"""Updates that come on several threads: each is folded once, nobody is refused, and the state is that of one thread."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import Plane
from fedmrn.errors import DuplicateFrameError, RoundOrderError, WrongRoundError
from fedmrn.methods import method
from fedmrn.server import Clipping, Round, Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

LAYOUT = Layout.of(
    [TensorSpec("w", (20_000,), Group.CODED), TensorSpec("n", (50,), Group.DENSE), TensorSpec("m", (50,), Group.STATS)]
)
CLIENTS, THREADS = range(16), 4


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def begun(name: str, clipping: Clipping | None) -> tuple[Server, Round, list[bytes]]:
    state = np.random.default_rng(1).standard_normal(LAYOUT.size).astype(np.float32)
    server = Server(LAYOUT, method(name).scheme(), state, bytes(16), run=bytes(16), clipping=clipping)
    round_ = server.begin(1, CLIENTS)
    frames = []
    for client in CLIENTS:
        update = (np.random.default_rng(client).standard_normal(LAYOUT.size) * 0.01).astype(np.float32)
        asked = Frame.from_bytes(round_.broadcast(client))
        frames.append(encode_update(asked, LAYOUT, update, weight=1 + client, sampling_key=client).to_bytes())
    return server, round_, frames


WAYS = [Clipping(), Clipping(hold=0, first_weight=99), None]


@pytest.mark.parametrize("clipping", WAYS, ids=["kept", "as they come", "unclipped"])
@pytest.mark.parametrize("name", ["fedmrn", "fedavg", "signsgd-vote"])
def test_each_frame_is_folded_once(name: str, clipping: Clipping | None) -> None:
    """Every frame is sent twice, by threads that start together."""
    _, alone, frames = begun(name, clipping)
    for client, data in zip(CLIENTS, frames, strict=True):
        alone.add(client, data)
    expected = alone.finish().tobytes()
    for _ in range(5):
        server, round_, frames = begun(name, clipping)
        together = Barrier(THREADS)

        def send(number: int, round_: Round = round_, frames: list[bytes] = frames, start: Barrier = together) -> int:
            start.wait()
            folded = 0
            for client in (*CLIENTS[number:], *CLIENTS[:number]) if number < 2 else CLIENTS[::-1]:
                try:
                    round_.add(client, frames[client])
                    folded += 1
                except DuplicateFrameError:
                    pass
            return folded

        with ThreadPoolExecutor(THREADS) as pool:
            assert sum(pool.map(send, range(THREADS))) == len(CLIENTS)
        assert round_.answered == set(CLIENTS)
        assert round_.finish().tobytes() == expected
        assert server.round == 1


def test_a_round_that_ends_meanwhile_refuses_what_comes_later() -> None:
    """Each frame is folded or refused as late, and the state is the mean of those that were folded."""
    for _ in range(10):
        server, round_, frames = begun("fedavg", Clipping(hold=0, first_weight=99))
        before, together = server.state, Barrier(2)

        def send(round_: Round = round_, frames: list[bytes] = frames, start: Barrier = together) -> list[int]:
            start.wait()
            folded = []
            for client in CLIENTS:
                with suppress(WrongRoundError):
                    round_.add(client, frames[client])
                    folded.append(client)
            return folded

        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send)
            together.wait()
            while not round_.answered:
                pass
            state = round_.finish()
            folded = sent.result()
        again = Server(
            LAYOUT, server.scheme, before, bytes(16), run=bytes(16), clipping=Clipping(hold=0, first_weight=99)
        ).begin(1, CLIENTS)
        for client in folded:
            again.add(client, frames[client])
        assert state.tobytes() == again.finish().tobytes()


@pytest.mark.parametrize("clipping", WAYS, ids=["kept", "as they come", "unclipped"])
def test_what_a_round_ends_on_belongs_together(clipping: Clipping | None) -> None:
    """An update that comes while planes and observations are read is late: it is in none of them."""
    _, round_, frames = begun("signsgd-vote", clipping)
    round_.add(0, frames[0])
    plane_of = round_.aggregator.finish_plane

    def late(plane: Plane) -> NDArray[np.float32]:
        mean = plane_of(plane)
        with pytest.raises(WrongRoundError, match="round 1 is finished"):
            round_.add(1, frames[1])
        return mean

    round_.aggregator.finish_plane = late  # type: ignore[method-assign]
    state = round_.finish()
    _, alone, _ = begun("signsgd-vote", clipping)
    alone.add(0, frames[0])
    assert state.tobytes() == alone.finish().tobytes()
    assert round_.answered == {0}


def test_a_frame_that_fills_the_round_is_not_in_its_own_way() -> None:
    """The same frame on two threads, at its last place: the second one is a duplicate, and not one too many."""

    class Late(dict[int | str, None]):
        def __contains__(self, sender: object) -> bool:
            found = super().__contains__(sender)
            self[3] = None  # another thread notes it just now
            return found

    admission = begun("fedmrn", None)[1].aggregator.admission
    admission.senders = Late.fromkeys(range(100, 100 + len(CLIENTS) - 1))
    admission.check_sender(3)
    with pytest.raises(DuplicateFrameError):
        admission.check_sender(3)


def test_a_round_begun_while_another_ends_does_not_move_the_newer_state(monkeypatch: pytest.MonkeyPatch) -> None:
    server, first, frames = begun("fedmrn", Clipping())
    first.add(0, frames[0])
    clients = Round.clients

    def slowly(self: Round) -> tuple[int | str, ...]:
        if self is not first and server.round == 0:
            first.finish()
        return clients.fget(self)  # type: ignore[attr-defined, no-any-return]

    monkeypatch.setattr(Round, "clients", property(slowly))
    second = server.begin(2, CLIENTS)
    state = server.state
    asked = Frame.from_bytes(second.broadcast(0))
    second.add(0, encode_update(asked, LAYOUT, np.ones(LAYOUT.size, np.float32), weight=1, sampling_key=1).to_bytes())
    with pytest.raises(RoundOrderError):
        second.finish()
    assert server.state is state
