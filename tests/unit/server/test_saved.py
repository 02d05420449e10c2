"""A server is put away and taken up: it goes on to the same bytes, and a damaged folder is named."""

import os
import re
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from core_examples import CLIENTS, LAYOUT, SECRET, fitting, noisy, play, update

from fedmrn.errors import RoundOrderError, RunError, WrongKeyError
from fedmrn.methods import METHODS, method
from fedmrn.server import Clipping, Server
from fedmrn.server.optimizer import Adam, Momentum, ServerOptimizer
from fedmrn.server.saved import FILE, saved_round
from fedmrn.wire.frame import Frame, Kind, Role
from fedmrn.wire.layout import Layout

WEIGHTS = {"ann": 3, "bob": 10, "cyd": 7}


def server(name: str = "fedmrn", optimizer: ServerOptimizer | None = None, **options: object) -> Server:
    scheme, model = method(name).scheme(options, optimizer=optimizer), noisy(LAYOUT.size, 1, 1.0)
    return Server(LAYOUT, scheme, Server.initial(LAYOUT, scheme, model), SECRET)


def go_on(one: Server, rounds: range) -> None:
    for number in rounds:
        vectors = {c: fitting(one, noisy(LAYOUT.size, 10 * number + i)) for i, c in enumerate(CLIENTS)}
        play(one, number, vectors, WEIGHTS).finish()


@pytest.mark.parametrize("optimizer", [None, Momentum(0.5, 0.9), Adam(0.01, 0.9, 0.99, 0.001)], ids=str)
@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in METHODS), ("fedmrn", {"scale": "auto"})])
def test_it_goes_on_to_the_same_bytes(
    name: str, options: dict[str, object], optimizer: ServerOptimizer | None, tmp_path: Path
) -> None:
    one = server(name, optimizer, **options)
    go_on(one, range(1, 3))
    one.save(tmp_path)
    two = Server.load(tmp_path, LAYOUT, one.scheme)
    assert (two.round, two.run, two.secret, two.asked) == (2, one.run, one.secret, ())
    assert two.carried.caps == one.carried.caps
    assert saved_round(tmp_path) == 2
    for each in (one, two):
        go_on(each, range(3, 5))
    assert one.state.tobytes() == two.state.tobytes()
    assert one.carried.moments.tobytes() == two.carried.moments.tobytes()
    with pytest.raises(RoundOrderError):
        Server.load(tmp_path, LAYOUT, one.scheme).begin(2, CLIENTS)


def test_weights_without_a_cap_that_matters(tmp_path: Path) -> None:
    """A multiple beyond 64 bits is one that no frame's weight comes to."""
    one = server()
    one.clipping = Clipping(weights=1 << 62)
    go_on(one, range(1, 3))
    one.save(tmp_path)
    two = Server.load(tmp_path, LAYOUT, one.scheme, clipping=one.clipping)
    assert two.carried.caps == one.carried.caps
    for each in (one, two):
        go_on(each, range(3, 5))
    assert one.state.tobytes() == two.state.tobytes()


def test_a_file_may_be_as_long_as_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of five thousand million parameters writes more than 64 GiB, and reads them again."""
    one, limits = server(), list[int]()

    def read(path: Path, most: int, cure: str) -> bytes:
        limits.append(most)
        return path.read_bytes()

    monkeypatch.setattr("fedmrn.server.saved.read_file", read)
    one.save(tmp_path)
    Server.load(tmp_path, LAYOUT, one.scheme)
    assert limits == [1 << 40]


def test_before_the_first_round(tmp_path: Path) -> None:
    one = server()
    one.save(tmp_path)
    two = Server.load(tmp_path, LAYOUT, one.scheme)
    assert (two.round, two.state.tobytes()) == (0, one.state.tobytes())
    go_on(two, range(1, 2))


@pytest.mark.parametrize("clients", [["ann", "bob"], [1, 2**64 - 1, -3], ["1", 1, "s", "", "bäh\n\0"]])
def test_who_was_asked_is_asked_again(clients: list[int | str], tmp_path: Path) -> None:
    """A round that was open is begun again: the same keys, so that answers on their way are taken."""
    one = server()
    round_ = one.begin(1, clients)
    one.save(tmp_path)
    two = Server.load(tmp_path, LAYOUT, one.scheme)
    assert two.asked == tuple(clients)
    again = two.begin(two.round + 1, two.asked)
    for client in clients:
        again.add(client, update(round_, client))  # type: ignore[arg-type]
    assert again.aggregator.count == len(clients)


def test_only_its_owner_can_read_the_secret(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        server().save(tmp_path)
        server().save(tmp_path)
    finally:
        os.umask(before)
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_run_taken_up_elsewhere_has_its_own_keys(tmp_path: Path) -> None:
    one = server()
    one.save(tmp_path)
    loaded = Server.load(tmp_path, LAYOUT, one.scheme)
    fresh = Server(LAYOUT, one.scheme, loaded.state, loaded.secret, round=loaded.round)
    with pytest.raises(WrongKeyError):
        fresh.begin(1, CLIENTS).add("ann", update(loaded.begin(1, CLIENTS), "ann"))


def saved(folder: Path) -> bytes:
    one = server(optimizer=Momentum(1.0, 0.9))
    one.begin(1, CLIENTS)
    one.save(folder)
    return (folder / FILE).read_bytes()


SCHEME = method("fedmrn").scheme(optimizer=Momentum(1.0, 0.9))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "is not there: no server was saved"),
        ("a folder", "is not a regular file"),
        ("empty", "is damaged"),
        ("shorter", "is damaged"),
        ("a bit", "is damaged"),
        ("a broadcast", "of an older version"),
        ("other method", "it is of method 3"),
        ("other model", "it is of a model with other tensors"),
        ("other optimizer", "the optimizer of this setting has 52"),
        ("no optimizer", "the optimizer of this setting has 0"),
    ],
)
def test_a_folder_that_cannot_be_used(damage: str, words: str, tmp_path: Path) -> None:
    data, path, scheme, layout = saved(tmp_path), tmp_path / FILE, SCHEME, LAYOUT
    if damage in {"missing", "a folder"}:
        path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage in {"empty", "shorter", "a bit"}:
        path.write_bytes({"empty": b"", "shorter": data[:-1]}.get(damage, data[:-20] + b"\xff" + data[-19:]))
    elif damage == "a broadcast":
        path.write_bytes(server().begin(1, ["ann"]).broadcast("ann"))
    elif damage == "other method":
        path.write_bytes(replace(Frame.from_bytes(data), method=3).to_bytes())
    elif damage == "other model":
        layout = Layout.of([*LAYOUT.tensors[:-1], replace(LAYOUT.tensors[-1], name="x")])
    elif damage == "other optimizer":
        scheme = method("fedmrn").scheme(optimizer=Adam(0.01, 0.9, 0.99, 0.001))
    elif damage == "no optimizer":
        scheme = method("fedmrn").scheme()
    with pytest.raises(RunError, match=f"{FILE}.*{words}"):
        Server.load(tmp_path, layout, scheme)


def test_every_byte_of_what_is_kept_beside_the_state_may_be_wrong(tmp_path: Path) -> None:
    """Sealed again, so that the checksum holds: an error that names the file, or a server that differs."""
    frame = Frame.from_bytes(saved(tmp_path))
    at, section = next((i, s) for i, s in enumerate(frame.sections) if s.role is Role.SERVER)
    body = bytes(section.body)
    for place in range(len(body)):
        for flip in (1, 0x80):
            wrong = body[:place] + bytes([body[place] ^ flip]) + body[place + 1 :]
            sections = (*frame.sections[:at], replace(section, body=wrong), *frame.sections[at + 1 :])
            (tmp_path / FILE).write_bytes(replace(frame, sections=sections).to_bytes())
            with suppress(RunError):
                Server.load(tmp_path, LAYOUT, SCHEME)
    for size in range(len(body)):
        sections = (*frame.sections[:at], replace(section, body=body[:size]), *frame.sections[at + 1 :])
        (tmp_path / FILE).write_bytes(replace(frame, sections=sections).to_bytes())
        with pytest.raises(RunError, match="does not fit"):
            Server.load(tmp_path, LAYOUT, SCHEME)


def test_it_is_no_message() -> None:
    assert [k.name for k in Kind] == ["UPDATE", "BROADCAST", "MODEL", "SAVED", "STATISTICS", "PARTIAL", "ASSIGNMENT"]


def test_a_file_whose_checksum_fits_may_hold_what_no_server_has(tmp_path: Path) -> None:
    """Probabilities outside [0, 1], moments that are not finite, caps that are none: the file is named."""
    one = server("fedpm", Adam(0.01, 0.9, 0.99, 0.001))
    one.save(tmp_path)
    path = tmp_path / FILE
    frame = Frame.from_bytes(path.read_bytes(), kind=Kind.SAVED)
    for role, at, value in (
        (Role.STATE, 0, np.float32(3).tobytes()),
        (Role.MOMENTS, 0, np.float32(np.nan).tobytes()),
        (Role.SERVER, 37 + len(one.secret), b"\xff\x7f"),
    ):
        index = next(i for i, s in enumerate(frame.sections) if s.role is role)
        section = frame.sections[index]
        body = bytes(section.body[:at]) + value + bytes(section.body[at + len(value) :])
        wrong = replace(section, body=body)
        path.write_bytes(
            replace(frame, sections=(*frame.sections[:index], wrong, *frame.sections[index + 1 :])).to_bytes()
        )
        with pytest.raises(RunError, match=re.escape(f"{path} does not fit: ")):
            Server.load(tmp_path, one.layout, one.scheme)
