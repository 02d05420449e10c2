import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from math import ldexp

import numpy as np
import pytest
from core_examples import LAYOUT, noisy
from numpy.typing import NDArray

import fedmrn.codecs.mask.masked_noise
import fedmrn.numerics.threads
import fedmrn.server.fold
import fedmrn.server.sum
from fedmrn.codecs import CHUNK, Codec, EncodeKeys, MaskedNoise, OwnScale, Plane, Raw
from fedmrn.errors import ConfigError, DuplicateFrameError, EmptyRoundError, FedmrnError, LimitError
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server.aggregate import Aggregator
from fedmrn.wire.frame import DEFAULT_LIMITS, Frame, Kind, Limits, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import templates

F32 = NDArray[np.float32]
MASKED = MaskedNoise(NoiseSpec(Law.UNIFORM, 0.01), MaskType.BINARY)


def _aggregator(codec: Codec = MASKED, layout: Layout = LAYOUT, **options: object) -> Aggregator:
    asked = templates(layout, {Group.CODED: codec, Group.DENSE: Raw(), Group.STATS: Raw()})
    return Aggregator(layout, asked, **{"method": 2, "round": 1, "max_clients": 50, **options})  # type: ignore[arg-type]


def _frame(key: int, vector: F32, weight: int, codec: Codec = MASKED, layout: Layout = LAYOUT) -> Frame:
    sections = []
    for group, used in ((Group.CODED, codec), (Group.DENSE, Raw()), (Group.STATS, Raw())):
        span = layout.span(group)
        if span.stop > span.start:
            body = used.encode(vector[span], EncodeKeys(key, key + 1))
            sections.append(Section(used.id, Role.UPDATE, group, span.stop - span.start, used.params(), body))
    return Frame(Kind.UPDATE, 2, 1, key, layout.digest, weight, tuple(sections))


def _frames(count: int, codec: Codec = MASKED, layout: Layout = LAYOUT) -> list[Frame]:
    """Weights from 1 to the cap, values over eight orders of magnitude."""
    return [
        _frame(k, noisy(layout.size, k, 10.0 ** (k % 9 - 6)), 1 + k**5 % (1 << 20), codec, layout) for k in range(count)
    ]


def _decoded(frame: Frame, codec: Codec) -> F32:
    parts = [(codec if s.group is Group.CODED else Raw(), s) for s in frame.sections]
    return np.concatenate([c.decode(s.body, s.count, frame.noise_key) for c, s in parts])


def _folded(frames: list[Frame], **options: object) -> Aggregator:
    fold = _aggregator(**options)  # type: ignore[arg-type]
    for frame in frames:
        fold.add(frame, frame.noise_key)
    return fold


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize(
    "codec",
    [Raw(), MASKED, MaskedNoise(NoiseSpec(Law.GAUSSIAN, 3.0), MaskType.SIGNED)],
    ids=["raw", "binary", "signed gaussian"],
)
def test_the_mean_is_the_exact_one(codec: Codec, weighted: bool) -> None:
    """Against fractions. Each contribution is off by half a unit at most, so the mean by count / total_weight half
    units; then the result is rounded to float64 three times and to float32 once."""
    frames = _frames(30, codec)
    fold = _folded(frames, codec=codec, weighted=weighted)
    weights = [f.weight if weighted else 1 for f in frames]
    assert fold.total_weight == sum(weights)
    assert fold.count == len(frames)
    mean = fold.finish()
    assert mean.dtype == np.float32
    vectors = [_decoded(f, codec) for f in frames]
    for group, total in fold.sums.sums.items():
        span = LAYOUT.span(group)
        for i in range(span.start, span.stop):
            exact = sum(w * Fraction(float(v[i])) for w, v in zip(weights, vectors, strict=True)) / sum(weights)
            fixed = Fraction(len(frames), sum(weights)) * Fraction(total.step) / 2
            assert abs(Fraction(float(mean[i])) - exact) <= fixed + abs(exact) * Fraction(1, 2**24) * Fraction(101, 100)


def test_the_resolution_is_finer_than_float32_at_the_defaults() -> None:
    """A hundred clients of the largest weight: the noise's unit is below its own float32 rounding, and a dense value's
    is 2^-69, though 65,536 is allowed."""
    fold = _aggregator(max_clients=100)
    assert fold.sums.sums[Group.CODED].step < 0.01 * 2.0**-24
    assert fold.sums.sums[Group.DENSE].step == 2.0**-69


def test_one_frame_comes_back() -> None:
    """With 50 clients planned, noise of 0.01 is folded in units of 2^-42, which a weight of 2^20 makes 2^-62 of the
    mean. Half of it is below half the spacing of any float32 of this noise (2^-54 at its smallest), so it comes back
    itself; so do dense values, whose units are finer."""
    frame = _frame(3, noisy(LAYOUT.size, 1), 1 << 20)
    fold = _folded([frame])
    assert fold.sums.sums[Group.CODED].step == 2.0**-42
    found, sent = fold.finish(), _decoded(frame, MASKED)
    assert np.array_equal(found, sent)
    assert found[:21].any()


@pytest.mark.parametrize("codec", [Raw(), MASKED], ids=["raw", "masked"])
def test_any_order_and_any_tree(codec: Codec) -> None:
    frames = _frames(24, codec)
    whole = _folded(frames, codec=codec)
    expected = whole.finish().tobytes()
    rng = np.random.default_rng(5)
    for _ in range(10):
        order = [frames[i] for i in rng.permutation(len(frames))]
        cuts = sorted(rng.integers(0, len(order) + 1, 3).tolist())
        leaves = [_folded(order[a:b], codec=codec) for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        while len(leaves) > 1:
            first = leaves.pop(int(rng.integers(len(leaves))))
            leaves[int(rng.integers(len(leaves)))].merge(first)
        (root,) = leaves
        assert root.sums.integers.tobytes() == whole.sums.integers.tobytes()
        assert (root.admission.senders, root.total_weight, root.count) == (
            whole.admission.senders,
            whole.total_weight,
            24,
        )
        assert root.finish().tobytes() == expected


@pytest.mark.parametrize("size", [CHUNK - 1, 3 * CHUNK, 100_003])
@pytest.mark.parametrize("codec", [Raw(), MASKED], ids=["raw", "masked"])
def test_threads_change_nothing(codec: Codec, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of([TensorSpec("w", (size,), Group.CODED), TensorSpec("b", (size // 2,), Group.DENSE)])
    frames = _frames(4, codec, layout)
    expected = _folded(frames, codec=codec, layout=layout)
    monkeypatch.setattr(fedmrn.numerics.threads, "PIECE", 1)
    pools: list[int] = []
    pool = fedmrn.numerics.threads.ThreadPoolExecutor
    monkeypatch.setattr(fedmrn.numerics.threads, "_pools", {})
    monkeypatch.setattr(fedmrn.numerics.threads, "ThreadPoolExecutor", lambda n, _: (pools.append(n), pool(n))[1])
    for threads in (2, 3, 8):
        found = _folded(frames, codec=codec, layout=layout, threads=threads)
        assert found.sums.integers.tobytes() == expected.sums.integers.tobytes()
    assert pools == [1, 2, 7]  # beside the caller's, and kept


@pytest.mark.parametrize("mask", MaskType)
@pytest.mark.parametrize("law", Law)
@pytest.mark.parametrize("count", [1, 8, 11, 16])
def test_frames_that_wait_give_the_same_sum(
    count: int, law: Law, mask: MaskType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the slow way: values read from each frame, and integers added one frame after the other."""
    codec = MaskedNoise(NoiseSpec(law, 0.3), mask)
    layout = Layout.of([TensorSpec("w", (CHUNK + 77,), Group.CODED), TensorSpec("b", (5,), Group.DENSE)])
    frames = _frames(count, codec, layout)
    monkeypatch.setattr(fedmrn.server.fold, "WAIT_FROM", 1)
    for module in (fedmrn.server.sum, fedmrn.codecs.mask.masked_noise):
        monkeypatch.setattr(module, "PART", CHUNK)
    fold, half = _aggregator(codec, layout), _aggregator(codec, layout)
    for i, frame in enumerate(frames):
        (half if i % 3 == 1 else fold).add(frame, frame.noise_key)
    assert (fold.count, half.count) == (count - (count + 1) // 3, (count + 1) // 3)
    fold.merge(half)
    found = fold.finish()
    expected = np.zeros(layout.size, np.int64)
    for frame in frames:
        vector = _decoded(frame, codec).astype(np.float64)
        for group in (Group.CODED, Group.DENSE):
            span = layout.span(group)
            factor = ldexp(frame.weight, fold.sums.sums[group].units[0].exponent)
            expected[span] += np.rint(vector[span] * factor).astype(np.int64)
    assert fold.sums.integers.tobytes() == expected.tobytes()
    assert found.tobytes() == fold.finish().tobytes() == fold.finish().tobytes()


@pytest.mark.parametrize("size", [1, 2, CHUNK + 77, 3 * (1 << 18) + 5])
def test_closing_gives_the_mean_over_the_sum_and_ends_it(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes as `finish`, for every part of the vector, with groups of odd sizes and a group not asked for."""
    tensors = [TensorSpec("w", (size,), Group.CODED), TensorSpec("b", (7,), Group.DENSE)]
    layout = Layout.of([*tensors, TensorSpec("s", (3,), Group.STATS)])
    frames = _frames(3, layout=layout)
    one, two = _folded(frames, layout=layout), _folded(frames, layout=layout)
    expected = one.finish()
    mean = two.close()
    assert mean.tobytes() == expected.tobytes()
    assert mean.dtype == np.float32
    base = mean if mean.base is None else mean.base
    assert isinstance(base, np.ndarray)
    assert base.nbytes <= 4 * layout.size + 4  # the rest of the sum is given back
    for again in (two.close, two.finish, lambda: two.add(frames[0], frames[0].noise_key), lambda: one.merge(two)):
        with pytest.raises(FedmrnError, match="closed"):
            again()
    asked = templates(layout, {Group.CODED: MASKED, Group.DENSE: Raw(), Group.STATS: Raw()})[:1]
    part = Aggregator(layout, asked, method=2, round=1, max_clients=50)
    for frame in frames:
        only = replace(frame, sections=frame.sections[:1])
        part.add(only, only.noise_key)
    found = part.close()
    assert found[:size].tobytes() == expected[:size].tobytes()
    assert not found[size:].any()


def test_a_frame_that_waits_keeps_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmrn.server.fold, "WAIT_FROM", 1)
    frames = _frames(2)
    expected = _folded(frames).finish().tobytes()
    fold, buffer = _aggregator(), bytearray(len(frames[0].to_bytes()))
    for frame in frames:
        buffer[:] = frame.to_bytes()
        fold.add(Frame.from_bytes(buffer), frame.noise_key)
    buffer[:] = bytes(len(buffer))
    assert fold.finish().tobytes() == expected


def test_an_interrupt_among_waiting_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmrn.server.fold, "WAIT_FROM", 1)
    fold, other = _folded(_frames(3)), _aggregator()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fedmrn.server.sum, "in_parallel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fold.finish()
    for attempt in (fold.finish, lambda: other.merge(fold)):
        with pytest.raises(FedmrnError, match="interrupted half-way"):
            attempt()


def test_threads_above_a_million_elements() -> None:
    layout = Layout.of([TensorSpec("w", ((1 << 20) + 5,), Group.CODED)])
    frames = _frames(2, MASKED, layout)
    one, three = (_folded(frames, layout=layout, threads=t) for t in (1, 3))
    one.sums.settle()
    assert one.sums.integers.any()
    assert one.finish().tobytes() == three.finish().tobytes()


@pytest.mark.parametrize("max_clients", [1, 2, 7, 1000, 1 << 20, 1 << 30])
@pytest.mark.parametrize("max_weight", [1, 1000, 1 << 20, (1 << 40) + 1])
@pytest.mark.parametrize("max_value", [2.0**-20, 0.99, 1.0, 65536.0, 3e38])
def test_the_extremes_do_not_overflow(max_clients: int, max_weight: int, max_value: float) -> None:
    """max_clients frames of the largest weight and value add up below 2^63: worked out for the whole round, and seen
    for the first few frames, whose sums are what exact integers give."""
    limits = Limits(max_weight=max_weight, max_value=max_value)
    layout = Layout.of([TensorSpec("w", (4,), Group.CODED), TensorSpec("b", (2,), Group.DENSE)])
    largest = float(np.nextafter(np.float32(max_value), np.float32(0)))
    values = np.array([0, 0, 0, 0, largest, -largest], np.float32)
    codec = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 1.0), MaskType.SIGNED)
    fold = _aggregator(codec, layout, max_clients=max_clients, limits=limits)
    for group, bound in ((Group.CODED, codec.noise.bound), (Group.DENSE, max_value)):
        unit = Fraction(2) ** fold.sums.sums[group].units[0].exponent
        worst = max_clients * round(max_weight * Fraction(bound) * unit)
        assert worst < 1 << 63
    count = min(max_clients, 3)
    frames = [_frame(k, values, max_weight, codec, layout) for k in range(count)]
    for frame in frames:
        fold.add(frame, frame.noise_key)
    # A weight up to 2^29 times a float32 is exact in a double; beyond, the product is rounded to 53 bits first.
    slack = 0 if max_weight <= 1 << 29 else Fraction(1, 1 << 53)
    decoded = [_decoded(f, codec) for f in frames]
    for i, total in enumerate(fold.sums.integers.tolist()):
        unit = Fraction(2) ** fold.sums.sums[Group.CODED if i < 4 else Group.DENSE].units[0].exponent
        parts = [round(max_weight * Fraction(float(d[i])) * unit) for d in decoded]
        assert abs(total - sum(parts)) <= slack * sum(map(abs, parts))


def test_a_full_round_of_extremes() -> None:
    """As many frames as planned, each at the cap of weight and value: the mean is the value."""
    limits = replace(DEFAULT_LIMITS, max_value=1.0)
    layout = Layout.of([TensorSpec("b", (2,), Group.DENSE)])
    fold = _aggregator(layout=layout, max_clients=127, limits=limits)
    for k in range(127):
        fold.add(_frame(k, np.array([1, -1], np.float32), 1 << 20, layout=layout), k)
    assert fold.finish().tolist() == [1.0, -1.0]
    with pytest.raises(LimitError, match="planned for 127"):
        fold.add(_frame(127, np.zeros(2, np.float32), 1, layout=layout), 127)


SIZES = (1e-12, 1e-7, 1.0, 1e3)


@pytest.mark.parametrize("codec", [Raw(), OwnScale(MaskedNoise(NoiseSpec(Law.UNIFORM, 1.0), MaskType.BINARY))])
@pytest.mark.parametrize("sizes", [*((x,) for x in SIZES), SIZES], ids=str)
def test_small_updates_keep_their_digits(sizes: tuple[float, ...], codec: Codec) -> None:
    """Ten thousand clients with weights up to 10^6: each element is off by 2^-20 of sum w|u| / sum w at most.

    Measured against exact integers: a float32 times a weight is an integer in units of 2^-149.
    """
    layout, clients = Layout.of([TensorSpec("w", (16,), Group.CODED), TensorSpec("b", (4,), Group.DENSE)]), 10_000
    rng = np.random.default_rng(7)
    fold = _aggregator(codec, layout, max_clients=clients)
    exact, magnitude, total = [0] * layout.size, [0] * layout.size, 0
    for k in range(clients):
        vector = (rng.standard_normal(layout.size) * sizes[k % len(sizes)]).astype(np.float32)
        weight = int(rng.integers(1, 10**6)) if k % 2 else 1
        frame = _frame(k, vector, weight, codec, layout)
        fold.add(frame, k)
        for i, value in enumerate(_decoded(frame, codec).tolist()):
            term = weight * int(Fraction(value) * 2**149)
            exact[i] += term
            magnitude[i] += abs(term)
        total += weight
    for i, mean in enumerate(fold.finish().tolist()):
        error = abs(Fraction(mean) - Fraction(exact[i], total * 2**149))
        assert error <= Fraction(magnitude[i], total * 2**149) / 2**20


def test_no_budget_of_weight_can_be_exhausted() -> None:
    """Sixteen frames of the largest weight once locked out everybody else."""
    layout = Layout.of([TensorSpec("b", (2,), Group.DENSE)])
    fold, ones = _aggregator(layout=layout, max_clients=100), np.ones(2, np.float32)
    for k in range(100):
        fold.add(_frame(k, ones, 1 << 20 if k < 16 else 1, layout=layout), k)
    assert (fold.count, fold.finish().tolist()) == (100, [1.0, 1.0])


def test_nothing_folded() -> None:
    with pytest.raises(EmptyRoundError):
        _aggregator().finish()
    with pytest.raises(EmptyRoundError):
        _aggregator().finish_plane(Plane.VALUE)
    empty = _aggregator()
    empty.merge(_aggregator())
    assert empty.count == empty.total_weight == 0


def test_a_group_without_elements_or_template() -> None:
    layout = Layout.of([TensorSpec("w", (3,), Group.CODED), TensorSpec("s", (2,), Group.STATS)])
    asked = templates(layout, {Group.CODED: Raw(), Group.STATS: Raw()})
    fold = Aggregator(layout, asked[:1], method=2, round=1, max_clients=1)
    frame = _frame(1, np.arange(5, dtype=np.float32), 1, Raw(), layout)
    fold.add(replace(frame, sections=frame.sections[:1]), 1)
    assert fold.finish().tolist() == [0, 1, 2, 0, 0]


@pytest.mark.parametrize("options", [{"max_clients": 0}, {"max_clients": -1}, {"threads": 0}])
def test_impossible_plans(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        _aggregator(**options)


def test_templates_of_another_layout() -> None:
    other = Layout.of([TensorSpec("w", (4,), Group.CODED)])
    with pytest.raises(ConfigError, match="4 elements of group coded"):
        Aggregator(LAYOUT, templates(other, {Group.CODED: Raw()}), method=2, round=1, max_clients=1)


def _different_plans() -> Iterator[tuple[str, Aggregator]]:
    tensors = [replace(t, name="x" + t.name) for t in LAYOUT.tensors]
    yield "layout", _aggregator(layout=Layout(tuple(tensors)))
    yield "codec", _aggregator(Raw())
    yield "scale", _aggregator(MaskedNoise(NoiseSpec(Law.UNIFORM, 0.0100001), MaskType.BINARY))
    yield "method", _aggregator(method=3)
    yield "round", _aggregator(round=2)
    yield "weighted", _aggregator(weighted=False)
    yield "clients", _aggregator(max_clients=51)
    yield "value", _aggregator(limits=Limits(max_value=65537.0))
    yield "weight", _aggregator(limits=Limits(max_weight=(1 << 20) - 1))


@pytest.mark.parametrize("other", [pytest.param(a, id=name) for name, a in _different_plans()])
def test_other_plans_do_not_merge(other: Aggregator) -> None:
    """Also where the resolution happens to agree: limits that differ could overflow together."""
    fold = _folded(_frames(3))
    before = (fold.sums.integers.tobytes(), dict(fold.admission.senders), fold.total_weight)
    with pytest.raises(ConfigError, match="can be merged"):
        fold.merge(other)
    with pytest.raises(ConfigError, match="can be merged"):
        other.merge(fold)
    assert (fold.sums.integers.tobytes(), fold.admission.senders, fold.total_weight) == before
    assert not other.sums.integers.any()


def test_merging_is_all_or_nothing() -> None:
    frames = _frames(6)
    fold, overlapping, full = _folded(frames[:3]), _folded(frames[2:4]), _folded(frames[3:])
    before = (fold.sums.integers.tobytes(), dict(fold.admission.senders), fold.total_weight)
    with pytest.raises(DuplicateFrameError, match="of the same client"):
        fold.merge(overlapping)
    with pytest.raises(DuplicateFrameError, match="of the same clients: they are one"):
        fold.merge(fold)
    assert (fold.sums.integers.tobytes(), fold.admission.senders, fold.total_weight) == before
    small, rest = _folded(frames[:3], max_clients=5), _folded(frames[3:], max_clients=5)
    with pytest.raises(LimitError, match="planned for 5 clients"):
        small.merge(rest)
    assert small.sums.integers.tobytes() == _folded(frames[:3], max_clients=5).sums.integers.tobytes()
    assert small.admission.senders.keys() == {0, 1, 2}
    fold.merge(full)
    assert fold.count == 6


def test_merging_leaves_the_other_alone() -> None:
    frames = _frames(4)
    fold, other = _folded(frames[:2]), _folded(frames[2:])
    before = (other.sums.integers.tobytes(), dict(other.admission.senders), other.total_weight)
    fold.merge(other)
    assert (other.sums.integers.tobytes(), other.admission.senders, other.total_weight) == before
    with pytest.raises(DuplicateFrameError):
        fold.merge(other)


def test_threads_may_differ_between_merged_parts() -> None:
    frames = _frames(4)
    fold = _folded(frames[:2], threads=2)
    fold.merge(_folded(frames[2:]))
    assert fold.finish().tobytes() == _folded(frames).finish().tobytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_clients() -> None:
    """A million parameters, 10 and 1,000 frames; a few bodies, with keys rewritten. What grows is the set of keys: at
    most 200 bytes a client, where one decoded vector would be 4 MiB."""
    size = 1_000_000
    layout = Layout.of([TensorSpec("w", (size,), Group.CODED)])
    bodies = [_frame(k, noisy(size, k), 3, layout=layout).to_bytes() for k in range(3)]

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            fold = _aggregator(layout=layout, max_clients=1000)
            for k in range(count):
                frame = replace(Frame.from_bytes(bodies[k % 3]), noise_key=k + 10)
                fold.add(frame, k + 10)
            assert fold.count == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(10), peak(1000)
    assert 8 * size < few < 8 * size + (1 << 20)
    assert many - few < 200 * 990


def test_a_fold_that_was_interrupted_is_not_taken_for_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = _frames(3)
    fold = _folded(frames[:1])
    with monkeypatch.context() as patch:

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(fedmrn.server.sum, "in_parallel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fold.add(frames[1], frames[1].noise_key)
    for attempt in (
        lambda: fold.add(frames[1], frames[1].noise_key),
        fold.finish,
        lambda: fold.finish_plane(Plane.VALUE),
        lambda: fold.merge(_folded(frames[2:])),
        lambda: _folded(frames[2:]).merge(fold),
    ):
        with pytest.raises(FedmrnError, match="interrupted half-way"):
            attempt()
