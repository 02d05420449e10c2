"""scale = "auto" under one noise key a round: the server tells scales, and learns them from what would have fitted."""

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from fedmrn.codecs import EncodeKeys, OwnScale, ToldScale, codec_from
from fedmrn.errors import ConfigError, EncodeError, MalformedFrameError, WrongParametersError
from fedmrn.methods import method
from fedmrn.server import Clipping, Round, Server
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state
from fedmrn.wire.terms import read_caps, read_scales, terms_section

F32 = NDArray[np.float32]
LAYOUT = Layout.of(
    [
        TensorSpec("first bias", (10,), Group.CODED),
        TensorSpec("weight", (40, 50), Group.CODED),
        TensorSpec("bias", (40,), Group.CODED),
        TensorSpec("none", (0, 3), Group.CODED),
        TensorSpec("zero", (4, 4, 2), Group.CODED),
        TensorSpec("norm", (16,), Group.DENSE),
    ]
)
SIZES = [10, 2000, 40, 32]
STEPS = {"first bias": 1e-3, "weight": 1e-3, "bias": 3e-2, "zero": 1e-2, "norm": 1e-2}
OPTIONS = [{}, {"noise": "gaussian"}, {"noise": "bernoulli", "coding": "entropy"}]


def honest(client: int, round: int, times: float = 1.0) -> F32:
    rng = np.random.default_rng([client, round])
    return np.concatenate([rng.standard_normal(t.size) * STEPS.get(t.name, 0) * times for t in LAYOUT.tensors]).astype(
        np.float32
    )


def begun(name: str = "fedmrn-s", clipping: Clipping | None = Clipping(), **options: object) -> Server:  # noqa: B008
    state = np.random.default_rng(0).uniform(-0.2, 0.2, LAYOUT.size).astype(np.float32)
    state[LAYOUT.slices["zero"]] = 0
    scheme = method(name).scheme({"noise_key": "round", **options})
    return Server(LAYOUT, scheme, state, bytes(16), run=bytes(16), clipping=clipping)


def told(round_: Round) -> tuple[int, ...]:
    return read_scales(Frame.from_bytes(round_.broadcast(0)))


def sent(round_: Round, client: int, vector: F32) -> bytes:
    asked = Frame.from_bytes(round_.broadcast(client))
    return encode_update(asked, LAYOUT, vector, weight=100, sampling_key=client + 1).to_bytes()


def play(server: Server, number: int, vectors: list[F32]) -> Round:
    round_ = server.begin(number, range(len(vectors)))
    for client, vector in enumerate(vectors):
        round_.add(client, sent(round_, client, vector))
    round_.finish()
    return round_


def fitting(server: Server, vector: F32) -> list[int]:
    """The exponents that clients with keys of their own choose for this update."""
    codec = server.scheme.codecs[Group.CODED]
    assert isinstance(codec, ToldScale)
    own, ends = OwnScale(codec.masked), np.cumsum(SIZES)
    return [round(np.log2(own.scale(vector[e - n : e]))) for e, n in zip(ends, SIZES, strict=True)]


def test_a_first_round_takes_its_scales_from_the_fan_in() -> None:
    """Of a bias that of the tensor before it; of one before all others its size. Nothing of the state matters."""
    moves = [0.125 / sqrt(fan) for fan in (10, 50, 50, 8)]
    for name, multiple in (("fedmrn", 4), ("fedmrn-s", sqrt(2))):
        scales = told(begun(name).begin(1, range(3)))
        assert len(scales) == 4
        for e, move in zip(scales, moves, strict=True):
            assert abs(e - np.log2(multiple * move)) <= 0.5


@pytest.mark.parametrize("clipping", [Clipping(), Clipping(hold=0)], ids=["kept", "as they come"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
def test_masks_have_the_told_scale_and_say_what_would_have_fitted(
    name: str, options: dict[str, str], clipping: Clipping
) -> None:
    """The next round is told the lower median of what each client would have chosen."""
    server = begun(name, clipping, **options)
    round_ = server.begin(1, range(4))
    scales, wishes = told(round_), []
    assert read_caps(Frame.from_bytes(round_.broadcast(0))) == ()
    for client in range(4):
        vector = honest(client, 1, 4.0**client)
        section = Frame.from_bytes(sent(round_, client, vector)).sections[0]
        parts = oracle.parts(section.codec, section.params, section.count, bytes(section.body), 0)
        assert parts["scales"] == [(n, 2.0**e) for n, e in zip(SIZES, scales, strict=True)]
        assert parts["wanted"] == fitting(server, vector)
        wishes.append(parts["wanted"])
        round_.add(client, sent(round_, client, vector))
    round_.finish()
    assert told(server.begin(2, range(4))) == tuple(sorted(column)[1] for column in zip(*wishes, strict=True))
    assert list(server.observed["noise_scale"].values()) == [2.0**e for e in scales]


def test_the_sum_is_the_noise_in_told_scales_times_the_sum_of_masks() -> None:
    """Noise times a power of two is exact in the fold's units: the mean is that of small integers times the noise."""
    server = begun("fedmrn")
    play(server, 1, [honest(c, 1) for c in range(5)])
    before, round_ = server.state, server.begin(2, range(5))
    scales, key = told(round_), Frame.from_bytes(round_.broadcast(0)).noise_key
    total = np.zeros(sum(SIZES), np.int64)
    for client in range(5):
        data = sent(round_, client, honest(client, 2))
        body = bytes(Frame.from_bytes(data).sections[0].body)
        total += np.array(oracle.unpacked(body[4 + 13 * 4 :], total.size))
        round_.add(client, data)
    round_.finish()
    noise = np.array([oracle.noise(0, 1.0, key, i) for i in range(total.size)])
    expected = before[: total.size] + (noise * np.exp2(np.repeat(scales, SIZES)) * total / 5).astype(np.float32)
    assert server.state[: total.size].tobytes() == expected.astype(np.float32).tobytes()


def test_a_mask_in_another_scale_is_refused_by_name() -> None:
    server = begun()
    round_ = server.begin(1, range(3))
    frame = Frame.from_bytes(sent(round_, 0, honest(0, 1)))
    section = frame.sections[0]
    for exponent in (-1, 1):  # of the second tensor: a smaller scale is refused too
        body = bytearray(section.body)
        scale = np.frombuffer(body, "<f4", 1, 4 + 12 + 8) * np.float32(2.0**exponent)
        body[4 + 12 + 8 : 4 + 12 + 12] = scale.astype("<f4").tobytes()
        wrong = replace(frame, sections=(replace(section, body=bytes(body)), *frame.sections[1:]))
        with pytest.raises(
            WrongParametersError, match=r"the scale of weight is .*; all clients of the round were told"
        ):
            round_.add(0, wrong.to_bytes())
    round_.add(0, frame.to_bytes())


@pytest.mark.parametrize("clipping", [Clipping(), Clipping(hold=0)], ids=["kept", "as they come"])
def test_wishes_of_a_minority_move_no_scale(clipping: Clipping) -> None:
    """Four of ten wish for the most that there is for 20 rounds: the scale stays within a power of two."""
    found = []
    for attack in (False, True):
        server = begun(clipping=clipping)
        for number in range(1, 21):
            vectors = [honest(c, number) for c in range(6)]
            vectors += [honest(c, number, 1e5 if attack else 1) for c in range(6, 10)]
            play(server, number, vectors)
        found.append(told(server.begin(21, range(10))))
    assert max(abs(a - b) for a, b in zip(*found, strict=True)) <= 1


def test_scales_follow_by_a_power_of_two_a_round() -> None:
    """Each round has the same updates, from the second on 16 times as large."""
    server, rounds = begun(), []
    for number in range(1, 9):
        rounds.append(told(play(server, number, [honest(c, 1, 1 if number == 1 else 16) for c in range(5)])))
    known = rounds[1]
    for behind, scales in enumerate(rounds[2:], start=1):
        assert scales == tuple(e + min(behind, 4) for e in known)


def test_a_tensor_that_nobody_moves_keeps_its_first_scale() -> None:
    server = begun()
    first = told(server.begin(1, range(3)))
    for number in (1, 2, 3):
        vectors = [honest(c, number) for c in range(3)]
        for vector in vectors:
            vector[LAYOUT.slices["zero"]] = 0
        play(server, number, vectors)
    after = told(server.begin(4, range(3)))
    assert after[3] == first[3]
    assert after[1] != first[1]


def test_a_server_that_is_loaded_tells_the_same(tmp_path: Path) -> None:
    server = begun()
    play(server, 1, [honest(c, 1) for c in range(3)])
    server.save(tmp_path)
    again = Server.load(tmp_path, LAYOUT, server.scheme)
    for s in (server, again):
        play(s, 2, [honest(c, 2) for c in range(3)])
    assert again.state.tobytes() == server.state.tobytes()
    assert again.carried.caps == server.carried.caps
    assert told(again.begin(3, [0])) == told(server.begin(3, [0]))


def test_scales_are_told_to_the_codec_that_takes_them_and_to_no_other() -> None:
    broadcast = begun().begin(1, [0]).broadcast_frame(0)
    plain = method("fedmrn-s").scheme({"scale": 0.01}).codecs[Group.CODED]
    rest = tuple(s for s in broadcast.sections if s.role is not Role.TERMS)
    other = tuple(
        replace(s, codec=plain.id, params=plain.params()) if s.role is Role.TEMPLATE and s.group is Group.CODED else s
        for s in broadcast.sections
    )
    few: tuple[Section, ...] = (*terms_section({}, (), (-3, -4)), *rest)
    for sections in (rest, few, other):
        with pytest.raises(MalformedFrameError, match=r"the broadcast tells \d scales to codec"):
            read_state(replace(broadcast, sections=sections), LAYOUT)


def test_without_clipping_there_is_nothing_to_learn_scales_by() -> None:
    with pytest.raises(ConfigError, match="leave clipping on, or set scale to a number"):
        begun(clipping=None)


def test_told_scales_stay_where_a_server_takes_them() -> None:
    """Clients that wish for more than the limits allow are told the largest that is taken, and nobody is refused."""
    server = begun("fedmrn", noise="gaussian")
    for number in range(1, 4):
        round_ = play(server, number, [np.full(LAYOUT.size, 30_000, np.float32)] * 3)
        assert round_.answered == {0, 1, 2}
    assert max(told(server.begin(4, [0]))) <= 14


def test_scales_for_another_number_of_tensors() -> None:
    section = begun().begin(1, [0]).broadcast_frame(0).sections[0]
    codec = codec_from(section.codec, section.params)
    with pytest.raises(EncodeError, match="3 scales are told for 1 tensors"):
        codec.encode(np.ones(5, np.float32), EncodeKeys(1, 2, (5,), (), (1, 2, 3)))


@pytest.mark.parametrize(
    ("tail", "words"), [(b"\x05", "2 wanted scales take as many"), (b"\x05\x51\0", r"2\^5 to 2\^81")]
)
def test_wanted_scales_that_cannot_be(tail: bytes, words: str) -> None:
    codec = begun().scheme.codecs[Group.CODED]
    rows = b"".join(n.to_bytes(8, "little") + np.float32(0.5).tobytes() for n in (3, 2))
    with pytest.raises(MalformedFrameError, match=words):
        codec.open((2).to_bytes(4, "little") + rows + tail, 5, 1, 65536.0)
