"""What is summed beside the values: signs, scales, what was kept; and codecs that are bound to the state."""

from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from math import ldexp

import numpy as np
import pytest
from core_examples import LAYOUT, noisy
from numpy.typing import NDArray

import fedmrn.numerics.threads
from fedmrn.codecs import (
    CHUNK,
    Bernoulli,
    Codec,
    EncodeKeys,
    MaskedNoise,
    Plane,
    Raw,
    Sign,
    SignRule,
    Sparse,
    Support,
)
from fedmrn.errors import ConfigError, MalformedFrameError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server.aggregate import Aggregator
from fedmrn.wire.frame import Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import templates

F32 = NDArray[np.float32]
CODED = LAYOUT.span(Group.CODED)
VOTE, KEPT = (Plane.SIGN, Plane.SCALE), (Plane.VALUE, Plane.KEPT)
CASES = {
    "vote": (Sign(), VOTE),
    "vote in another order": (Sign(SignRule.STOCHASTIC), (Plane.SCALE, Plane.SIGN)),
    "all of sign": (Sign(SignRule.LEARNED), (Plane.VALUE, *VOTE)),
    "scale alone": (Sign(), (Plane.SCALE,)),
    "kept": (Sparse(0.3), KEPT),
    "kept alone": (Sparse(0.3, 16), (Plane.KEPT,)),
    "a value a second time": (Bernoulli(3), (Plane.VALUE, Plane.VALUE)),
}
each_case = pytest.mark.parametrize(("codec", "planes"), CASES.values(), ids=CASES.keys())


def _fold(codec: Codec, planes: tuple[Plane, ...], layout: Layout = LAYOUT, **options: object) -> Aggregator:
    asked = templates(layout, {Group.CODED: codec, Group.DENSE: Raw(), Group.STATS: Raw()})
    plan = {"method": 2, "round": 1, "max_clients": 6, "planes": planes, **options}
    return Aggregator(layout, asked, **plan)  # type: ignore[arg-type]


def _frame(key: int, codec: Codec, weight: int = 1, layout: Layout = LAYOUT) -> Frame:
    vector, sections = noisy(layout.size, key, 10.0 ** (key % 4 - 1)), []
    for group, used in ((Group.CODED, codec), (Group.DENSE, Raw()), (Group.STATS, Raw())):
        span = layout.span(group)
        if span.stop > span.start:
            body = used.encode(vector[span], EncodeKeys(key, key + 1, layout.sizes(group)))
            sections.append(Section(used.id, Role.UPDATE, group, span.stop - span.start, used.params(), body))
    return Frame(Kind.UPDATE, 2, 1, key, layout.digest, weight, tuple(sections))


def _frames(codec: Codec, layout: Layout = LAYOUT) -> list[Frame]:
    return [_frame(k, codec, 1 + 997 * k % 5000, layout) for k in range(5)]


def _plane(frame: Frame, codec: Codec, plane: Plane) -> list[float]:
    """One plane, from the decoded values alone: all scales of these frames are positive, all kept values too."""
    body = frame.sections[0].body
    values = codec.decode(body, CODED.stop, frame.noise_key).tolist()
    match plane:
        case Plane.VALUE:
            return values
        case Plane.SIGN:
            return [1.0 if v > 0 else -1.0 for v in values]
        case Plane.SCALE:
            return [abs(v) for v in values]
        case Plane.KEPT:
            return [float(v != 0) for v in values]


def _add(fold: Aggregator, frames: list[Frame]) -> Aggregator:
    for frame in frames:
        fold.add(frame, frame.noise_key)
    return fold


def _means(fold: Aggregator) -> tuple[bytes, ...]:
    planes = fold.plan.planes
    return (fold.sums.integers.tobytes(), fold.finish().tobytes(), *(fold.finish_plane(p).tobytes() for p in planes))


@pytest.mark.parametrize("weighted", [True, False])
@each_case
def test_each_plane_has_the_exact_mean(codec: Codec, planes: tuple[Plane, ...], weighted: bool) -> None:
    """Half a fixed-point unit for each client, over the total weight; then one rounding to float32."""
    frames = _frames(codec)
    fold = _add(_fold(codec, planes, weighted=weighted), frames)
    weights = [f.weight if weighted else 1 for f in frames]
    unit = Fraction(ldexp(0.5, -fold.sums.exponents[Group.CODED]))
    for plane in planes:
        found = fold.finish_plane(plane)
        assert found.dtype == np.float32
        assert found.shape == (CODED.stop,)
        each = [_plane(f, codec, plane) for f in frames]
        for i, value in enumerate(found.tolist()):
            exact = sum(w * Fraction(row[i]) for w, row in zip(weights, each, strict=True)) / sum(weights)
            slack = Fraction(len(frames), sum(weights)) * unit + abs(exact) * Fraction(1, 2**24) * Fraction(101, 100)
            assert abs(Fraction(value) - exact) <= slack
        assert found.any()


@each_case
def test_the_mean_is_the_first_plane_and_the_other_groups_know_no_planes(
    codec: Codec, planes: tuple[Plane, ...]
) -> None:
    frames = _frames(codec)
    fold, plain = _add(_fold(codec, planes), frames), _add(_fold(codec, (Plane.VALUE,)), frames)
    mean = fold.finish()
    assert mean.shape == (LAYOUT.size,)
    assert mean[CODED].tobytes() == fold.finish_plane(planes[0]).tobytes()
    assert mean[CODED.stop :].tobytes() == plain.finish()[CODED.stop :].tobytes()
    if Plane.VALUE in planes:
        np.testing.assert_allclose(fold.finish_plane(Plane.VALUE), plain.finish()[CODED], rtol=2.0**-22, atol=2.0**-20)


@each_case
def test_any_order_and_any_tree(codec: Codec, planes: tuple[Plane, ...]) -> None:
    frames = _frames(codec)
    expected = _means(_add(_fold(codec, planes), frames))
    for i, order in enumerate(list(permutations(frames))[::7]):
        cut = i % 6
        left, right = _add(_fold(codec, planes), order[:cut]), _add(_fold(codec, planes), order[cut:])
        left.merge(right)
        assert _means(left) == expected
    assert _means(_add(_fold(codec, planes), frames[1:])) != expected


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of([TensorSpec("w", (2 * CHUNK + 9,), Group.CODED), TensorSpec("b", (5,), Group.DENSE)])
    for codec, planes in ((Sign(), VOTE), (Sparse(0.3), KEPT)):
        frames = _frames(codec, layout)
        expected = _means(_add(_fold(codec, planes, layout), frames))
        with monkeypatch.context() as patch:
            patch.setattr(fedmrn.numerics.threads, "PIECE", 1)
            assert _means(_add(_fold(codec, planes, layout, threads=threads), frames)) == expected


@pytest.mark.parametrize(
    ("codec", "planes", "missing"),
    [
        (Raw(), VOTE, "sign or scale"),
        (Raw(), KEPT, "kept"),
        (MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.SIGNED), (Plane.SIGN,), "sign"),
        (Sign(), KEPT, "kept"),
        (Sparse(0.1), (Plane.KEPT, Plane.SCALE), "scale"),
        (Bernoulli(1), (Plane.VALUE, Plane.KEPT), "kept"),
    ],
)
def test_a_codec_without_the_plane_is_refused_before_the_round(
    codec: Codec, planes: tuple[Plane, ...], missing: str
) -> None:
    with pytest.raises(ConfigError, match=f"codec {codec.name} has no plane {missing}$"):
        _fold(codec, planes)


def test_folds_of_other_planes_do_not_merge() -> None:
    folds = [_fold(Sign(), p) for p in ((Plane.VALUE,), (Plane.SIGN,), VOTE, VOTE[::-1], (*VOTE, Plane.VALUE))]
    for i, fold in enumerate(folds):
        _add(fold, [_frame(i, Sign())])
    before = [_means(fold) for fold in folds]
    for a, b in permutations(folds, 2):
        with pytest.raises(ConfigError, match="can be merged"):
            a.merge(b)
    assert [_means(fold) for fold in folds] == before


def test_a_plane_that_was_not_asked_for() -> None:
    fold = _add(_fold(Sign(), VOTE), [_frame(1, Sign())])
    with pytest.raises(ValueError, match="not in tuple"):
        fold.finish_plane(Plane.VALUE)


def test_a_refused_frame_leaves_every_plane_as_it_was() -> None:
    fold = _add(_fold(Sign(), VOTE), [_frame(1, Sign(), 5)])
    before = _means(fold)
    good = _frame(2, Sign())
    bad = replace(good, sections=(replace(good.sections[0], body=good.sections[0].body[:-1]), *good.sections[1:]))
    with pytest.raises(MalformedFrameError):
        fold.add(bad, 2)
    assert _means(fold) == before


@pytest.mark.parametrize("max_value", [2.0**-20, 0.5, 1.0, 65536.0])
@pytest.mark.parametrize(("codec", "planes"), [(Sign(), VOTE), (Sparse(1.0), KEPT)], ids=["sign", "kept"])
def test_counts_and_signs_do_not_overflow_where_values_are_tiny(
    codec: Codec, planes: tuple[Plane, ...], max_value: float
) -> None:
    """Every client at the largest weight: the sum of ones is their total weight, which must fit in 63 bits."""
    limits = Limits(max_value=max_value)
    fold = _fold(codec, planes, max_clients=16, limits=limits)
    sections = [
        Section(codec.id, Role.UPDATE, Group.CODED, 21, codec.params(), b""),
        Section(0, Role.UPDATE, Group.DENSE, 5, b"", bytes(20)),
        Section(0, Role.UPDATE, Group.STATS, 3, b"", bytes(12)),
    ]
    vector = np.full(21, max_value, np.float32)
    for key in range(16):
        body = codec.encode(vector, EncodeKeys(key, 1, (12, 9)))
        sections[0] = replace(sections[0], body=body)
        fold.add(Frame(Kind.UPDATE, 2, 1, key, LAYOUT.digest, limits.max_weight, tuple(sections)), key)
    assert fold.total_weight == 16 << 20
    assert fold.finish_plane(Plane.SIGN if Plane.SIGN in planes else Plane.KEPT).tolist() == [1.0] * 21
    assert fold.finish_plane(Plane.SCALE if Plane.SCALE in planes else Plane.VALUE).tolist() == [max_value] * 21


def test_a_model_without_coded_tensors() -> None:
    layout = Layout.of([TensorSpec("b", (3,), Group.DENSE)])
    fold = _add(_fold(Sign(), VOTE, layout), [_frame(1, Sign(), 2, layout)])
    assert fold.finish().any()
    assert [fold.finish_plane(p).shape for p in VOTE] == [(0,), (0,)]


# --- codecs that are bound to the state ------------------------------------------------------------------------------


def _sparse_state() -> F32:
    state = noisy(LAYOUT.size, 9, 1.0)
    state[[0, 5, 20, 21, 25, 28]] = 0  # the last three are the first and the last dense one, and a statistic
    return state


def test_a_codec_that_needs_the_state_is_refused_without() -> None:
    with pytest.raises(ConfigError, match="codec support is bound to the broadcast's state, which is not given"):
        _fold(Support(), (Plane.VALUE,))


def test_each_group_is_bound_to_its_own_part_of_the_state() -> None:
    state, vector = _sparse_state(), noisy(LAYOUT.size, 4)
    vector[state == 0] = 0
    codecs: dict[Group, Codec] = {Group.CODED: Support(), Group.DENSE: Support(), Group.STATS: Raw()}
    asked = templates(LAYOUT, codecs)
    fold = Aggregator(LAYOUT, asked, method=2, round=1, max_clients=1, state=state)
    sections = []
    for group, codec in codecs.items():
        span = LAYOUT.span(group)
        body = codec.bind(state[span]).encode(vector[span], EncodeKeys(0, 0))
        sections.append(Section(codec.id, Role.UPDATE, group, span.stop - span.start, b"", body))
    assert [len(s.body) for s in sections] == [4 * 18, 4 * 3, 12]
    fold.add(Frame(Kind.UPDATE, 2, 1, 7, LAYOUT.digest, 1, tuple(sections)), 7)
    # One client: values up to 2^16 with a weight up to 2^20, in units of 2^-24; half of one off.
    assert fold.sums.exponents[Group.CODED] == 24
    np.testing.assert_allclose(fold.finish(), vector, rtol=2.0**-24, atol=2.0**-25)
    assert not fold.finish()[state == 0].any()


def test_a_state_changes_nothing_for_codecs_that_need_none() -> None:
    frames = _frames(Sign())
    assert _means(_add(_fold(Sign(), VOTE, state=_sparse_state()), frames)) == _means(_add(_fold(Sign(), VOTE), frames))
