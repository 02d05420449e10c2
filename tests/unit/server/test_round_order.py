"""One round, one state: a round ends on the state that its clients were shown, or with an error that says why not."""

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, SECRET, fitting, noisy, play, start, update

from fedmrn.errors import ConfigError, DuplicateFrameError, RoundOrderError, WrongKeyError, WrongRoundError
from fedmrn.methods import METHODS, method
from fedmrn.server import Server

RUN = bytes(range(16))


def server(name: str = "fedmrn", **options: object) -> Server:
    options = {"run": RUN, **options}
    return Server(LAYOUT, method(name).scheme(), noisy(LAYOUT.size, 1, 1.0), SECRET, **options)  # type: ignore[arg-type]


def test_a_round_that_was_finished_is_not_begun_again() -> None:
    one = server()
    round_ = one.begin(3, CLIENTS)
    round_.add("ann", update(round_, "ann"))
    round_.finish()
    assert one.round == 3
    for number in (1, 3):
        with pytest.raises(RoundOrderError, match=f"round {number} cannot be begun: round 3 is finished already"):
            one.begin(number, CLIENTS)
    one.begin(4, CLIENTS)


@pytest.mark.parametrize("later", [2, 3])
def test_a_round_that_ends_late_moves_nothing(later: int) -> None:
    """Whether the later one is still open, or finished meanwhile."""
    one = server()
    late = one.begin(2, CLIENTS)
    late.add("ann", update(late, "ann"))
    newer = one.begin(later, CLIENTS)
    with pytest.raises(RoundOrderError, match="round 2 cannot be finished: another one was begun after it"):
        late.finish()
    newer.add("bob", update(newer, "bob"))
    state = newer.finish()
    with pytest.raises(RoundOrderError, match="cannot be finished"):
        late.finish()
    assert one.state is state
    assert one.round == later


def test_the_state_is_not_changed_behind_a_round() -> None:
    given = noisy(LAYOUT.size, 1, 1.0)
    one = Server(LAYOUT, method("fedmrn").scheme(), given, SECRET)
    before = one.state.copy()
    given += 1
    with pytest.raises(ValueError, match="read-only"):
        one.state[0] = 7
    with pytest.raises(AttributeError):
        one.state = given  # type: ignore[misc]
    assert np.array_equal(one.state, before)
    round_ = one.begin(1, CLIENTS)
    round_.add("ann", update(round_, "ann"))
    with pytest.raises(ValueError, match="read-only"):
        round_.finish()[:] = 0


def test_frames_of_another_run_are_refused_though_the_secret_is_the_same() -> None:
    """A secret that was used before, a round of the same number, and another state: the key says so."""
    old, new = server().begin(1, CLIENTS), server(run=bytes(16)).begin(1, CLIENTS)
    with pytest.raises(WrongKeyError):
        new.add("ann", update(old, "ann"))


def test_runs_have_ids_of_their_own() -> None:
    first, second = (Server(LAYOUT, method("fedmrn").scheme(), noisy(LAYOUT.size, 1), SECRET) for _ in range(2))
    assert len(first.run) == 16
    assert first.run != second.run
    with pytest.raises(ConfigError, match="a run's id has 16 bytes, got 3"):
        server(run=b"abc")


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_the_last_finished_round_is_a_number_of_32_bits(number: int) -> None:
    with pytest.raises(ConfigError, match="the last finished round"):
        server(round=number)


def test_a_server_goes_on_after_the_round_that_it_is_told() -> None:
    with pytest.raises(RoundOrderError):
        server(round=7).begin(7, CLIENTS)
    assert server(round=7).begin(8, CLIENTS).number == 8


@pytest.mark.parametrize("name", METHODS)
def test_a_finished_round_takes_nothing_more(name: str) -> None:
    one = start(name)
    vector = fitting(one, noisy(LAYOUT.size, 5))
    round_ = play(one, 1, {"ann": vector}, {"ann": 3})
    assert one.asked == ("ann",)
    again = play(one, 1, {"ann": vector}, {"ann": 3})
    state = again.finish()
    assert one.asked == ()
    for old, error in ((again, WrongRoundError), (round_, RoundOrderError)):
        with pytest.raises(error, match="round 1"):
            old.finish()
    with pytest.raises((DuplicateFrameError, WrongRoundError)):
        again.add("ann", b"")
    assert one.state is state
