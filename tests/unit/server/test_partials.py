"""Forged partial sums: each is refused by its cause, and nothing has changed then."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from trees import LAYOUT, SECRET, server_of, updates

from allocated import allocated
from fedmrn.codecs import DENSITY, NOISE_SCALE, Observed, Raw
from fedmrn.errors import (
    BoundError,
    ChecksumError,
    ConfigError,
    FrameError,
    LimitError,
    MalformedFrameError,
    PaddingError,
    UnknownClientError,
    UnsupportedVersionError,
    WrongKeyError,
    WrongKindError,
    WrongLayoutError,
    WrongMethodError,
    WrongParametersError,
    WrongRoundError,
)
from fedmrn.numerics.packed import pack_numbers
from fedmrn.server import Clipping, EdgeRound, Round, Server
from fedmrn.server.partials import form_of
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.partial import Partial, sum_section
from fedmrn.wire.traffic import UNKNOWN, FloorTraffic, report_section

CLIENTS = range(5)
HERE = [1, 3, 4]


def third(server: Server) -> tuple[Round, EdgeRound]:
    """A round whose sums are summed, and an edge at which two of three clients have answered."""
    first = server.begin(1, CLIENTS)
    for client, data in updates(first).items():
        first.add(client, data)
    first.finish()
    round_ = server.begin(2, CLIENTS)
    edge = EdgeRound.from_bytes(round_.assign({"e": HERE, "f": [2]})["e"], LAYOUT, threads=1)
    sent = updates(round_)
    for client in (4, 1):
        edge.add(client, sent[client])
    round_.add(0, sent[0])
    return round_, edge


def parsed(round_: Round, edge: EdgeRound) -> Partial:
    return Partial.read(Frame.from_bytes(edge.partial()), form_of(round_.aggregator, len(HERE)))


def state_of(round_: Round) -> tuple[object, ...]:
    whole = round_.aggregator
    return (
        whole.sums.integers.tobytes(),
        dict(whole.admission.senders),
        whole.total_weight,
        set(round_.answered),
        len(whole.side.kept[Group.DENSE]),
        [*whole.census.weights],
        {o.name: [*n] for o, n in whole.tally.sums.items()},
    )


def refused(round_: Round, data: bytes, error: type[FrameError], match: str | None = None) -> None:
    before = state_of(round_)
    with pytest.raises(error, match=match) as raised:
        round_.merge("e", data)
    assert type(raised.value) is error
    assert state_of(round_) == before


Change = Callable[[Partial], Partial]


def beyond(found: Partial, *, group: Group = Group.CODED, rest: bool = False) -> Partial:
    """A sum with one element that its members cannot have."""
    section = found.sums[group]
    whole, fine = np.zeros(section.count, np.int64), np.zeros(section.count, np.int64)
    (fine if rest else whole)[3] = 1 << 62
    return replace(found, sums={**found.sums, group: sum_section(section, [(whole, fine)])})


FORGED: dict[str, tuple[Change, type[FrameError]]] = {
    "one member more": (
        lambda p: replace(
            p,
            members=np.array([1, 3, 4]),
            weights=np.array([*p.weights, 1], np.int64),
            scales=p.scales[[0, 1, 1]],
            kept={group: [*bodies, bodies[0]] for group, bodies in p.kept.items()},
        ),
        MalformedFrameError,  # of a weight that was not added
    ),
    "a member of another edge": (lambda p: replace(p, members=np.array([1, 2])), UnknownClientError),
    "a member of the root": (lambda p: replace(p, members=np.array([0, 4])), UnknownClientError),
    "a member that nobody asked": (lambda p: replace(p, members=np.array([1, 99])), UnknownClientError),
    "a member twice": (lambda p: replace(p, members=np.array([1, 1])), MalformedFrameError),
    "members out of order": (lambda p: replace(p, members=np.array([4, 1])), MalformedFrameError),
    "a heavier total": (lambda p: replace(p, weight=p.weight + 1), MalformedFrameError),
    "a lighter total": (lambda p: replace(p, weight=0), MalformedFrameError),
    "a weight of zero": (lambda p: replace(p, weights=p.weights * np.array([0, 1])), LimitError),
    "a negative weight": (lambda p: replace(p, weights=-p.weights), LimitError),
    "a weight above the limit": (lambda p: replace(p, weights=p.weights + (1 << 20)), LimitError),
    "a sum beyond its bound": (beyond, BoundError),
    "a fine sum beyond its bound": (lambda p: beyond(p, rest=True), BoundError),
    "an exponent that no float has": (lambda p: replace(p, scales=p.scales + 200), MalformedFrameError),
    "an observation too large": (lambda p: replace(p, tally=p.tally + 100_000), BoundError),
    "an observation too small": (lambda p: replace(p, tally=p.tally - 100_000), BoundError),
    "another key": (lambda p: replace(p, key=p.key ^ 1), WrongKeyError),
    "another plan": (lambda p: replace(p, plan=bytes(16)), WrongParametersError),
    "another method": (lambda p: replace(p, method=3), WrongMethodError),
    "another round": (lambda p: replace(p, round=1), WrongRoundError),
    "another model": (lambda p: replace(p, layout_digest=bytes(16)), WrongLayoutError),
    "side data that does not decode": (
        lambda p: replace(p, kept={**p.kept, Group.DENSE: [b"\0\0\xc0\x7f" * 4] * 2}),
        FrameError,
    ),
    "side data that is cut": (lambda p: replace(p, kept={**p.kept, Group.STATS: [b"1234"] * 2}), MalformedFrameError),
    "a refusal of somebody else": (lambda p: replace(p, refused={(0, "LimitError"): 1}), MalformedFrameError),
    "more frames than members": (lambda p: replace(p, floors=(FloorTraffic(frames=3),)), MalformedFrameError),
    "floors without an end": (lambda p: replace(p, floors=(FloorTraffic(),) * 255), LimitError),
    "a refusal for no error": (lambda p: replace(p, refused={(1, "SystemExit"): 1}), MalformedFrameError),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_sum_is_refused_by_its_cause(name: str) -> None:
    change, error = FORGED[name]
    round_, edge = third(server_of("fedmrn"))
    good = parsed(round_, edge)
    form = form_of(round_.aggregator, len(HERE))
    assert good.frame(form).to_bytes() == edge.partial(), "what is read is written again to the byte"
    data = change(good).frame(form).to_bytes()
    if error is FrameError:
        with pytest.raises(FrameError):
            round_.merge("e", data)
    else:
        refused(round_, data, error)
    round_.merge("e", edge.partial())
    assert round_.answered == {0, 1, 4}


def sections(data: bytes, change: Callable[[list[Section]], list[Section]]) -> bytes:
    frame = Frame.from_bytes(data)
    return replace(frame, sections=tuple(change([*frame.sections]))).to_bytes()


def with_body(at: int, body: bytes) -> Callable[[list[Section]], list[Section]]:
    return lambda found: [replace(s, body=body) if i == at else s for i, s in enumerate(found)]


def with_section(at: int, section: Section) -> Callable[[list[Section]], list[Section]]:
    return lambda found: [section if i == at else s for i, s in enumerate(found)]


def with_params(at: int, params: bytes) -> Callable[[list[Section]], list[Section]]:
    return lambda found: [replace(s, params=params) if i == at else s for i, s in enumerate(found)]


def longer(at: int) -> Callable[[list[Section]], list[Section]]:
    return lambda found: [replace(s, body=bytes(s.body) + b"\0") if i == at else s for i, s in enumerate(found)]


def shorter(at: int) -> Callable[[list[Section]], list[Section]]:
    return lambda found: [replace(s, body=bytes(s.body)[:-1]) if i == at else s for i, s in enumerate(found)]


MEMBERS, CODED, DENSE, TALLY, REPORT = 0, 1, 2, 5, 6


def test_sections_are_where_the_tests_think() -> None:
    _, edge = third(server_of("fedmrn"))
    found = [(s.role, s.group) for s in Frame.from_bytes(edge.partial()).sections]
    assert found[MEMBERS][0] is Role.MEMBERS
    assert found[CODED] == (Role.SUM, Group.CODED)
    assert found[DENSE] == (Role.KEPT, Group.DENSE)
    assert (found[TALLY][0], found[REPORT][0]) == (Role.TALLY, Role.REPORT)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda found: found[:-1], WrongParametersError),
        (lambda found: [found[1], found[0], *found[2:]], WrongParametersError),
        (lambda found: [*found[:2], replace(found[2], role=Role.SUM), *found[3:]], WrongParametersError),
        (lambda found: [found[0], replace(found[1], codec=9), *found[2:]], WrongParametersError),
        (lambda found: [found[0], replace(found[1], count=1 << 60), *found[2:]], WrongParametersError),
        (lambda found: [replace(found[0], count=1 << 60), *found[1:]], LimitError),
        (lambda found: [replace(found[0], count=3), *found[1:]], MalformedFrameError),
        (lambda found: [replace(found[0], codec=1), *found[1:]], MalformedFrameError),
        (lambda found: [*found[:-1], replace(found[-1], count=1 << 60)], MalformedFrameError),
        (lambda found: [*found[:TALLY], replace(found[TALLY], count=9), *found[REPORT:]], WrongParametersError),
        (with_params(MEMBERS, b""), MalformedFrameError),
        (with_params(MEMBERS, bytes([2]) + bytes(24)), UnsupportedVersionError),
        (with_params(MEMBERS, bytes([1]) + bytes(24)), WrongParametersError),
        (with_params(CODED, b""), MalformedFrameError),
        (with_params(CODED, b"\2"), MalformedFrameError),
        (with_params(DENSE, b"?"), WrongParametersError),
        (with_params(REPORT, b""), MalformedFrameError),
        (with_params(REPORT, b"\7"), MalformedFrameError),
        *((longer(at), MalformedFrameError) for at in range(7)),
        *((shorter(at), MalformedFrameError) for at in range(7)),
        (with_body(CODED, pack_numbers(np.zeros(158, np.int64))[:-1]), MalformedFrameError),
        (with_body(TALLY, b"\0\1\xf0"), PaddingError),
        (with_body(TALLY, b"\0\1\x0f"), BoundError),
    ],
)
def test_forged_bytes(change: Callable[[list[Section]], list[Section]], error: type[FrameError]) -> None:
    round_, edge = third(server_of("fedmrn"))
    refused(round_, sections(edge.partial(), change), error)


def test_unused_bits_are_zero() -> None:
    round_, edge = third(server_of("fedmrn", {"scale": 0.01}))
    body = bytes(Frame.from_bytes(edge.partial()).sections[CODED].body)
    assert 157 * body[1] % 8, "there are unused bits"
    refused(round_, sections(edge.partial(), with_body(CODED, body[:-1] + bytes([body[-1] | 0x80]))), PaddingError)


def test_damage_is_found_by_the_checksum() -> None:
    round_, edge = third(server_of("fedmrn"))
    data = bytearray(edge.partial())
    data[100] ^= 1
    refused(round_, bytes(data), ChecksumError)


def test_an_update_is_no_partial_sum_and_none_is_an_update() -> None:
    round_, edge = third(server_of("fedmrn"))
    refused(round_, updates(round_)[1], WrongKindError)
    with pytest.raises(WrongKindError):
        Frame.from_bytes(edge.partial(), kind=Kind.UPDATE)


def test_another_run_has_other_keys() -> None:
    _, edge = third(server_of("fedmrn"))
    one = server_of("fedmrn")
    other = Server(LAYOUT, one.scheme, one.state, SECRET, run=bytes(15) + b"1")
    round_, _ = third(other)
    refused(round_, edge.partial(), WrongKeyError)


def test_a_sum_of_other_caps_is_refused() -> None:
    """The key fits, and so do all headers; what the edge was told of weights does not."""
    _, edge = third(server_of("fedmrn"))
    server = server_of("fedmrn", clipping=Clipping(weights=3))
    round_, _ = third(server)
    refused(round_, edge.partial(), WrongParametersError, "templates, caps, limits")


def test_kept_frames_are_checked_as_frames_are() -> None:
    """In a first round updates wait for the close: the root opens them under each client's own key."""
    round_ = server_of("fedmrn", {"coding": "entropy"}).begin(1, CLIENTS)
    edge = EdgeRound.from_bytes(round_.assign({"e": HERE})["e"], LAYOUT, threads=1)
    for client, data in updates(round_).items():
        if client in HERE:
            edge.add(client, data)
    form = form_of(round_.aggregator, len(HERE))
    good = Partial.read(Frame.from_bytes(edge.partial()), form)
    cut = [bytes(body)[:-1] for body in good.kept[Group.CODED]]
    forged = replace(good, kept={**good.kept, Group.CODED: cut})
    before = (len(round_.aggregator.kept), dict(round_.aggregator.admission.senders))
    with pytest.raises(FrameError):
        round_.merge("e", forged.frame(form).to_bytes())
    assert (len(round_.aggregator.kept), dict(round_.aggregator.admission.senders)) == before
    round_.merge("e", edge.partial())
    assert len(round_.aggregator.kept) == 3


def test_an_observable_that_a_codec_does_not_announce(monkeypatch: pytest.MonkeyPatch) -> None:
    def observed(self: object, tensors: list[slice]) -> Observed:
        return {NOISE_SCALE: [0] * len(tensors)}

    server = server_of("fedavg")
    monkeypatch.setattr(type(Raw().open(b"", 0, 0, 1.0)), "observed", observed)
    _, edge = third(server)
    with pytest.raises(ConfigError, match="codec raw observes 'noise_scale', which is not among"):
        edge.partial()


def test_spans_of_observables() -> None:
    assert DENSITY.span(9) == (0, 9)
    least, most = NOISE_SCALE.span(9)
    assert NOISE_SCALE.mean(most * 5, 9, 5) == 2.0**128
    assert NOISE_SCALE.mean(least * 5, 9, 5) == 2.0**-149


def test_counts_without_an_end_stop_no_inner_node() -> None:
    """Nobody can check how much an edge says that it refused: two of them add up to more than a report has room for."""
    server = server_of("fedmrn")
    round_ = server.begin(1, CLIENTS)
    sent = updates(round_)
    inner = EdgeRound.from_bytes(round_.assign({"e": [1, 2, 3, 4]})["e"], LAYOUT, threads=1)
    most = FloorTraffic(frames=1, refused=(1 << 64) - 1, refused_bytes=(1 << 64) - 1)
    for number, (name, data) in enumerate(inner.assign({"a": [1, 2], "b": [3, 4]}).items()):
        edge, form = EdgeRound.from_bytes(data, LAYOUT, threads=1), form_of(inner.aggregator, 2)
        edge.add(1 + 2 * number, sent[1 + 2 * number])
        found = Partial.read(Frame.from_bytes(edge.partial()), form)
        lies = replace(found, floors=(most,), refused={(UNKNOWN, "LimitError"): (1 << 32) - 1})
        inner.merge(name, lies.frame(form).to_bytes())
    round_.merge("e", inner.partial())
    assert round_.answered == {1, 3}
    assert round_.traffic[0] == replace(most, frames=2)
    assert round_.refused == {(UNKNOWN, "LimitError"): (1 << 32) - 1}


def test_nobody_has_no_observations() -> None:
    round_, _ = third(server_of("fedmrn"))
    nobody = EdgeRound.from_bytes(round_.assign({"g": [1]})["g"], LAYOUT) if 1 in round_.give_up("e") else None
    assert nobody is not None
    form = form_of(round_.aggregator, 1)
    good = Partial.read(Frame.from_bytes(nobody.partial()), form)
    assert not good.members.size
    for number in (1, -1):
        with pytest.raises(BoundError, match="0 members"):
            round_.merge("g", replace(good, tally=good.tally + number).frame(form).to_bytes())
    round_.merge("g", nobody.partial())
    assert round_.answered == {0}


def test_a_sum_that_is_cut_costs_no_memory_of_the_models_size() -> None:
    layout = Layout.of([TensorSpec("w", (1 << 22,), Group.CODED)])
    round_ = server_of("fedmrn", {"scale": 0.01}, layout=layout, clipping=None).begin(1, [1])
    edge = EdgeRound.from_bytes(round_.assign({"e": [1]})["e"], layout, threads=1)
    good = edge.partial()
    for change in (with_body(1, b"\0" * 99), with_body(1, b""), with_params(1, b"\1\1")):
        data = sections(good, change)

        def merge(forged: bytes = data) -> None:
            with pytest.raises(MalformedFrameError):
                round_.merge("e", forged)

        assert allocated(merge) < 1 << 20


def test_a_report_is_in_order() -> None:
    section = report_section((), {(3, "LimitError"): 1, (1, "BoundError"): 2})
    rows = bytes(section.body)
    assert rows.startswith(b"\1\0\0\0\2\0\0\0\x0aBoundError")
    round_, edge = third(server_of("fedmrn"))
    first, second = rows[:19], rows[19:]
    for body in (second + first, first + first):
        forged = sections(edge.partial(), with_section(REPORT, replace(section, body=body)))
        refused(round_, forged, MalformedFrameError, "increasing order")
