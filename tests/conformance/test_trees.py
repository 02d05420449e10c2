"""Every method through a tree of servers: the same state, caps, moments and observations as one server."""

import pytest
from trees import LAYOUT, LEAN, Shape, fill, server_of, updates

from fedmrn.codecs import codec_from
from fedmrn.errors import ConfigError
from fedmrn.methods import METHODS, method
from fedmrn.methods.method import Options
from fedmrn.server import Clipping, Server
from fedmrn.server.optimizer import Adam
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import encode_update

SHAPES: tuple[Shape, ...] = (((0, 1, 2), (3, 4, 5)), ((5, (4, 2)), (1,), 0, (((3,),),)))
"""Two edges; and one tree with clients at every floor."""
CLIPPINGS = {
    "kept": Clipping(),  # a first round waits, and side data always
    "side data kept": Clipping(hold=6 * 9),  # of the small layout: not of first rounds
    "nothing kept": Clipping(hold=0),
    "not clipped": None,
}
ORDER = (4, 0, 1, 3, 2, 5)


def check(one: Server, trees: list[Server], layout: Layout, rounds: int = 3) -> None:
    """Rounds in each of which one client does not answer; in the last one all that move hardly do."""
    for number in range(1, rounds + 1):
        whole = one.begin(number, range(6))
        sent = updates(whole, spread=1e-6 if number == rounds else 0.01)
        del sent[number]
        for client in ORDER:
            if client in sent:
                whole.add(client, sent[client])
        whole.finish()
        for tree, shape in zip(trees, SHAPES, strict=True):
            root = tree.begin(number, range(6))
            fill(root, shape, sent, layout)
            assert root.answered == whole.answered
            root.finish()
            assert tree.state.tobytes() == one.state.tobytes()
            assert tree.carried.caps == one.carried.caps
            assert tree.carried.moments.tobytes() == one.carried.moments.tobytes()
            assert tree.observed == one.observed


@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("name", METHODS)
def test_a_tree_is_one_server(name: str, clipping: str) -> None:
    made = [server_of(name, clipping=CLIPPINGS[clipping]) for _ in range(3)]
    check(made[0], made[1:], LAYOUT)


@pytest.mark.parametrize(
    ("name", "options", "layout"),
    [
        ("fedmrn", {"noise_key": "round"}, LAYOUT),
        ("fedmrn-s", {"coding": "entropy", "noise_key": "round"}, LAYOUT),
        ("fedmrn", {"scale": 0.01, "noise": "gaussian"}, LAYOUT),
        ("fedmrn-s", {"coding": "entropy"}, LAYOUT),
        ("fedmrn", {}, LEAN),
        ("fedavg", {}, LEAN),
    ],
)
def test_options(name: str, options: Options, layout: Layout) -> None:
    made = [server_of(name, options, layout=layout) for _ in range(3)]
    check(made[0], made[1:], layout)


def test_moments_of_the_server() -> None:
    made = [server_of("fedmrn-s", optimizer=Adam(0.01, beta=0.9, beta2=0.99, tau=1e-3)) for _ in range(3)]
    check(made[0], made[1:], LAYOUT)
    assert made[1].carried.moments.any()


def test_scales_that_are_told_need_clipping() -> None:
    """So there is no such server whose tree could differ."""
    with pytest.raises(ConfigError):
        server_of("fedmrn", {"noise_key": "round"}, clipping=None)


@pytest.mark.parametrize("name", METHODS)
def test_codecs_announce_what_their_sections_say(name: str) -> None:
    """A root knows what a partial sum has beside its sums before it has seen a section."""
    for options in ({}, {"coding": "entropy"}, {"noise_key": "round"}):
        if not set(options) <= method(name).options.keys():
            continue
        round_ = server_of(name, options).begin(1, [0])
        asked = Frame.from_bytes(round_.broadcast(0))
        frame = encode_update(asked, LAYOUT, round_.shown * 0.1, weight=1, sampling_key=1)
        section = frame.select(Role.UPDATE, Group.CODED)
        assert section is not None
        codec = codec_from(section.codec, section.params).bind(round_.shown[: section.count])
        opened = codec.open(section.body, section.count, frame.noise_key, 65536.0)
        assert (opened.wanted_scales() is not None) is codec.sends_scales
        assert tuple(opened.observed([slice(0, 150), slice(150, 157)])) == codec.observables
