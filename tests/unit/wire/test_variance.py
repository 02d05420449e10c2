"""Running variances: their logarithms, at 0 and at the ends; what is no usable model; how they travel."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmrn.codecs import Float16, Levels
from fedmrn.errors import BoundError, ConfigError, EncodeError, MalformedFrameError, NonFiniteError
from fedmrn.methods import method
from fedmrn.methods.method import DOWN, GRID, SIDE
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update, read_state, state_sections
from fedmrn.wire.variance import CEILING, FLOOR, check_trained, fault_of, log_change, moved

F32 = NDArray[np.float32]
LAYOUT = Layout.of(
    [
        TensorSpec("bn.running_var", (3,), Group.VARIANCE),
        TensorSpec("fc.weight", (2, 4), Group.CODED),
        TensorSpec("bn.running_mean", (3,), Group.STATS),
        TensorSpec("other.spread", (2, 1), Group.VARIANCE),
    ]
)
WHERE = LAYOUT.span(Group.VARIANCE)


def f32(*values: float) -> F32:
    return np.array(values, np.float32)


def model(*variances: float) -> F32:
    state = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
    state[WHERE] = variances or (1.0, 0.0, 1e10, 2.0, 1e-30)
    return state


def broadcast(down: str = "float32", side: str = "float32") -> Frame:
    server = Server(LAYOUT, method("fedavg").scheme(side=side, down=down), model(), b"sixteen letters!")
    return Frame.from_bytes(server.begin(1, ["ann"]).broadcast("ann"))


def test_a_change_is_the_difference_of_logarithms() -> None:
    before, after = f32(1, 2, 1e-10, 1e10), f32(2, 1, 1e-12, 1e10)
    expected = [log(a) - log(b) for a, b in zip(after.tolist(), before.tolist(), strict=True)]
    assert log_change(before, after).tolist() == f32(*expected).tolist()
    assert log_change(before, after).dtype == np.float32
    np.testing.assert_allclose(moved(before, log_change(before, after)), after, rtol=2.0**-21)
    assert moved(before, log_change(before, after)).dtype == np.float32


def test_a_variance_that_does_not_change_stays_what_it_is() -> None:
    before = f32(0, 1e-45, 1e-30, FLOOR, 0.1, 3e38)
    assert log_change(before, before).tolist() == [0.0] * 6
    assert moved(before, f32(*[0] * 6)).tolist() == before.tolist()
    assert moved(before, f32(*[-0.0] * 6)).tolist() == before.tolist()


def test_zero_and_the_first_rounds() -> None:
    """From 1 to 0 and below the floor, from 0 to 1, and from 1 to raw features of 1e10: one round is enough."""
    before, after = f32(1, 1, 0, 0, 1), f32(0, 1e-38, 1, 1e-38, 1e20)
    found = moved(before, log_change(before, after))
    np.testing.assert_allclose(found[:3], [FLOOR, FLOOR, 1], rtol=2.0**-18)  # 41.6 in float32: to 2^-19
    assert found[3] == 0  # both are below the floor: no change
    assert abs(found[4] / 1e20 - 1) < 2.0**-18


def test_nothing_leaves_the_range() -> None:
    before = f32(0, 1e-45, 1, 3e38)
    for change in (-65536.0, -1e30, 65536.0, 1e30):
        assert moved(before, f32(*[change] * 4)).tolist() == [FLOOR if change < 0 else CEILING] * 4
    assert FLOOR < 1e-12 * 2.0**-19
    assert np.finfo(np.float32).max > CEILING * 2


@pytest.mark.parametrize(
    ("at", "value", "tensor", "finite"),
    [
        (0, np.nan, "fc.weight", False),
        (7, -np.inf, "fc.weight", False),
        (9, np.inf, "bn.running_mean", False),
        (11, -1e-45, "bn.running_var", True),
        (15, -5.0, "other.spread", True),
        (15, np.nan, "other.spread", False),
    ],
)
def test_the_first_fault_is_named(at: int, value: float, tensor: str, finite: bool) -> None:
    state = model()
    assert fault_of(LAYOUT, state) is None
    state[at] = value
    fault = fault_of(LAYOUT, state)
    assert fault is not None
    assert (fault.tensor, fault.finite) == (tensor, finite)
    assert f"tensor {tensor} has {np.float32(value):g} in element {fault.element}" in str(fault)
    assert at == LAYOUT.slices[tensor].start + fault.element
    with pytest.raises(ConfigError, match=f"no usable model: tensor {tensor}"):
        Server(LAYOUT, method("fedavg").scheme(), state, b"sixteen letters!")


def test_an_empty_model_has_no_fault() -> None:
    assert fault_of(Layout(()), f32()) is None
    empty = Layout.of([TensorSpec("v", (0,), Group.VARIANCE)])
    assert fault_of(empty, f32()) is None


@pytest.mark.parametrize("value", [-5.0, np.nan, np.inf])
def test_a_client_does_not_send_impossible_variances(value: float) -> None:
    after = model()[WHERE]
    check_trained(LAYOUT, after)
    after[3] = value
    with pytest.raises(EncodeError, match=r"tensor other\.spread has .* in element 0"):
        check_trained(LAYOUT, after)


@pytest.mark.parametrize("down", [down for down in DOWN if down != GRID])
def test_a_broadcast_says_variances_exactly(down: str) -> None:
    frame = broadcast(down)
    section = frame.select(Role.STATE, Group.VARIANCE)
    assert section is not None
    assert section.codec == 0
    assert read_state(frame, LAYOUT)[WHERE].tobytes() == model()[WHERE].tobytes()


def test_a_public_model_has_variances_of_its_grid() -> None:
    """Six bits of the fraction: within 2^-7 of the exact ones, which stay with the server."""
    found, exact = read_state(broadcast(GRID), LAYOUT)[WHERE], model()[WHERE]
    assert (np.abs(found - exact) <= exact * 2.0**-7).all()
    assert found[exact == 0].tolist() == [0.0]


def test_no_codec_changes_that() -> None:
    sections = state_sections(LAYOUT, model(), dict.fromkeys(Group, Float16()))
    assert [s.codec for s in sections] == [10, 10, 0]


@pytest.mark.parametrize(("side", "codec"), [("float32", 0), ("float16", 10), ("levels", 10), ("float8", 16)])
def test_no_encoding_of_side_data_rounds_logarithms_to_levels(side: str, codec: int) -> None:
    assert side in SIDE
    template = broadcast(side=side).select(Role.TEMPLATE, Group.VARIANCE)
    assert template is not None
    assert template.codec == codec
    scheme = method("fedavg").scheme()
    with pytest.raises(ConfigError, match="raw, float16 or float8, not by levels"):
        replace(scheme, codecs={**scheme.codecs, Group.VARIANCE: Levels()})


def _with_state(frame: Frame, part: F32, codec: int = 0) -> Frame:
    body = part.astype("<f2" if codec else "<f4").tobytes()
    bad = Section(codec, Role.STATE, Group.VARIANCE, part.size, b"", body)
    return replace(frame, sections=(*frame.sections[:-1], bad))


def test_a_client_refuses_a_model_with_impossible_statistics() -> None:
    frame = broadcast()
    for value, error in ((-5.0, BoundError), (-1e-45, BoundError), (np.nan, NonFiniteError), (np.inf, NonFiniteError)):
        part = model()[WHERE]
        part[1] = value
        with pytest.raises(error):
            read_state(_with_state(frame, part), LAYOUT)
    with pytest.raises(BoundError, match=r"tensor bn\.running_var has -5 in element 0, a negative variance"):
        read_state(_with_state(frame, f32(-5, 1, 1, 1, 1)), LAYOUT)
    assert read_state(_with_state(frame, f32(-0.0, 1, 1, 1, 1)), LAYOUT)[WHERE.start] == 0


def test_a_client_refuses_rounded_variances() -> None:
    with pytest.raises(MalformedFrameError, match="group variance travels by codec raw, this is float16"):
        read_state(_with_state(broadcast(), f32(1, 1, 1, 1, 1), 10), LAYOUT)


def test_an_update_holds_what_it_is_given() -> None:
    vector = np.zeros(LAYOUT.size, np.float32)
    vector[WHERE] = (0.5, -41.5, 1e5, 0, 0)
    frame = encode_update(broadcast(), LAYOUT, vector, weight=1, sampling_key=1)
    section = frame.select(Role.UPDATE, Group.VARIANCE)
    assert section is not None
    assert np.frombuffer(section.body, "<f4").tolist() == [0.5, -41.5, 65536.0, 0, 0]
