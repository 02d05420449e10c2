from dataclasses import replace

import numpy as np
import pytest
from core_examples import LAYOUT, begin, noisy

from fedmrn.codecs import MaskedNoise, Raw, Sign, SignRule, codec_from
from fedmrn.errors import (
    EncodeError,
    MalformedFrameError,
    NonFiniteError,
    UnknownCodecError,
    WrongKindError,
    WrongLayoutError,
)
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.wire.frame import Frame, Kind, Role
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state, state_sections, templates


@pytest.fixture
def broadcast() -> Frame:
    return Frame.from_bytes(begin().broadcast("ann"))


def _with(frame: Frame, index: int, **fields: object) -> Frame:
    sections = list(frame.sections)
    sections[index] = replace(sections[index], **fields)
    return replace(frame, sections=tuple(sections))


def _encode(broadcast: Frame, vector: np.ndarray, **options: object) -> Frame:
    return encode_update(broadcast, LAYOUT, vector, **{"weight": 1, "sampling_key": 2, **options})


def test_templates_follow_the_groups() -> None:
    codecs = {Group.CODED: MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY), Group.STATS: Raw()}
    layout = Layout.of([TensorSpec("s", (4,), Group.STATS), TensorSpec("w", (2, 2), Group.CODED)])
    found = templates(layout, codecs)
    assert [(t.codec, t.role, t.group, t.count, len(t.params)) for t in found] == [
        (1, Role.TEMPLATE, Group.CODED, 4, 6),
        (0, Role.TEMPLATE, Group.STATS, 4, 0),
    ]


def test_the_state_travels_exactly(broadcast: Frame) -> None:
    state = noisy(LAYOUT.size, 1, 1.0)
    assert np.array_equal(read_state(broadcast, LAYOUT), state)
    again = replace(broadcast, sections=state_sections(LAYOUT, state))
    assert read_state(again, LAYOUT).tobytes() == state.tobytes()


def test_an_update_answers_its_broadcast(broadcast: Frame) -> None:
    u = noisy(LAYOUT.size, 3)
    frame = _encode(broadcast, u, weight=17)
    assert (frame.kind, frame.method, frame.round, frame.weight) == (Kind.UPDATE, 2, 1, 17)
    assert (frame.noise_key, frame.layout_digest) == (broadcast.noise_key, LAYOUT.digest)
    assert [s.template for s in frame.sections] == [s for s in broadcast.sections if s.role is Role.TEMPLATE]
    dense = np.frombuffer(frame.sections[1].body, "<f4")
    assert np.array_equal(dense, u[21:26])
    assert _encode(broadcast, u, weight=17) == frame
    assert _encode(broadcast, u, sampling_key=3).sections[0] != frame.sections[0]


def test_a_codec_in_place_of_the_templates(broadcast: Frame) -> None:
    """The deterministic ablation has the same parameters and other bits."""
    noise = NoiseSpec(Law.UNIFORM, 0.01)
    codec = MaskedNoise(noise, MaskType.BINARY, stochastic=False)
    u = noisy(LAYOUT.size, 3)
    frame = _encode(broadcast, u, codecs={Group.CODED: codec})
    n = noise.chunk(broadcast.noise_key, 0, 21)
    decoded = codec.decode(frame.sections[0].body, 21, broadcast.noise_key)
    assert np.array_equal(decoded, np.where(u[:21] / n >= 0.5, n, 0))


def test_learned_scales_go_in_place_of_the_template() -> None:
    broadcast = Frame.from_bytes(begin("fedbat").broadcast("ann"))
    codec = Sign(SignRule.LEARNED, (0.25, 2.0))
    frame = _encode(broadcast, noisy(LAYOUT.size, 3), codecs={Group.CODED: codec})
    values = codec_from(2, b"\2").decode(frame.sections[0].body, 21, broadcast.noise_key)
    assert np.abs(values).tolist() == [0.25] * 12 + [2.0] * 9
    assert frame.sections[0].template == broadcast.sections[0]


def test_a_codec_with_other_parameters_is_refused(broadcast: Frame) -> None:
    for codec in (Raw(), MaskedNoise(NoiseSpec(Law.UNIFORM, 0.02), MaskType.BINARY)):
        with pytest.raises(EncodeError, match="not the one that the broadcast asked for"):
            _encode(broadcast, noisy(LAYOUT.size, 3), codecs={Group.CODED: codec})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 20, 21, 28])
def test_a_vector_that_is_not_finite(broadcast: Frame, value: float, at: int) -> None:
    u = noisy(LAYOUT.size, 3)
    u[at] = value
    with pytest.raises(EncodeError, match="NaN or infinite"):
        _encode(broadcast, u)
    with pytest.raises(EncodeError, match="NaN or infinite"):
        state_sections(LAYOUT, u)


def test_a_vector_of_another_shape_or_type(broadcast: Frame) -> None:
    for vector in (np.zeros(28, np.float32), np.zeros((29, 1), np.float32), np.zeros(29)):
        with pytest.raises(EncodeError):
            _encode(broadcast, vector)


@pytest.mark.parametrize("weight", [0, -3])
def test_a_weight_is_positive(broadcast: Frame, weight: int) -> None:
    with pytest.raises(EncodeError, match="weight"):
        _encode(broadcast, noisy(LAYOUT.size, 3), weight=weight)


@pytest.mark.parametrize("read", [True, False])
def test_a_frame_that_is_not_this_models_broadcast(broadcast: Frame, read: bool) -> None:
    u = noisy(LAYOUT.size, 3)
    other = Layout.of([TensorSpec("other", (29,), Group.CODED)])

    def use(frame: Frame, layout: Layout = LAYOUT) -> object:
        if read:
            return read_state(frame, layout)
        return encode_update(frame, layout, u, weight=1, sampling_key=2)

    with pytest.raises(WrongKindError):
        use(_encode(broadcast, u))
    with pytest.raises(WrongLayoutError):
        use(broadcast, other)


@pytest.mark.parametrize("count", [0, 20, 22, 1 << 63, (1 << 64) - 1])
def test_a_broadcast_with_wrong_counts(broadcast: Frame, count: int) -> None:
    assert broadcast.sections[0].role is Role.TEMPLATE
    with pytest.raises(MalformedFrameError, match=f"asks for {count} elements of group coded"):
        _encode(_with(broadcast, 0, count=count), noisy(LAYOUT.size, 3))
    assert broadcast.sections[3].role is Role.STATE
    with pytest.raises(MalformedFrameError, match="lacks the state of group coded"):
        read_state(_with(broadcast, 3, count=count), LAYOUT)


def test_a_broadcast_with_unknown_codecs(broadcast: Frame) -> None:
    with pytest.raises(UnknownCodecError, match="codec 200"):
        _encode(_with(broadcast, 0, codec=200), noisy(LAYOUT.size, 3))
    with pytest.raises(UnknownCodecError, match="codec 200"):
        read_state(_with(broadcast, 3, codec=200), LAYOUT)
    with pytest.raises(MalformedFrameError, match="parameters"):
        _encode(_with(broadcast, 0, params=b"\0\0\0\0\0\0"), noisy(LAYOUT.size, 3))


def test_a_broadcast_with_damaged_state(broadcast: Frame) -> None:
    with pytest.raises(MalformedFrameError, match="lacks the state of group stats"):
        read_state(replace(broadcast, sections=broadcast.sections[:-1]), LAYOUT)
    with pytest.raises(MalformedFrameError, match="raw values take"):
        read_state(_with(broadcast, 4, body=bytes(19)), LAYOUT)
    with pytest.raises(NonFiniteError):
        read_state(_with(broadcast, 4, body=bytes(16) + b"\0\0\xc0\x7f"), LAYOUT)


def test_a_large_state_is_read() -> None:
    """The limit on magnitudes is for what clients send; a server's state may be larger."""
    state = np.full(LAYOUT.size, 3e38, np.float32)
    frame = Frame(Kind.BROADCAST, 1, 1, 0, LAYOUT.digest, 0, state_sections(LAYOUT, state))
    assert np.array_equal(read_state(Frame.from_bytes(frame.to_bytes()), LAYOUT), state)
