"""The fold is a commutative, associative sum: for any frames, any order, any tree."""

from functools import reduce

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmrn.codecs import Codec, EncodeKeys, MaskedNoise, Raw
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server.aggregate import Aggregator
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import templates

SIZE = 5
LAYOUT = Layout.of([TensorSpec("w", (SIZE,), Group.CODED), TensorSpec("b", (2,), Group.DENSE)])
CODECS = [Raw()] + [MaskedNoise(NoiseSpec(law, 0.3), mask) for law in Law for mask in MaskType]

values = st.floats(-65536, 65536, width=32)
clients = st.tuples(st.integers(1, 1 << 20), st.lists(values, min_size=SIZE + 2, max_size=SIZE + 2))


def _aggregator(codec: Codec) -> Aggregator:
    asked = templates(LAYOUT, {Group.CODED: codec, Group.DENSE: Raw()})
    return Aggregator(LAYOUT, asked, method=1, round=1, max_clients=40)


def _frame(codec: Codec, key: int, weight: int, numbers: list[float]) -> Frame:
    vector = np.array(numbers, np.float32)
    keys = EncodeKeys(key, ~key & 0xFFFF)
    sections = (
        Section(codec.id, Role.UPDATE, Group.CODED, SIZE, codec.params(), codec.encode(vector[:SIZE], keys)),
        Section(0, Role.UPDATE, Group.DENSE, 2, b"", Raw().encode(vector[SIZE:], keys)),
    )
    return Frame(Kind.UPDATE, 1, 1, key, LAYOUT.digest, weight, sections)


def _fold(codec: Codec, frames: list[Frame]) -> Aggregator:
    fold = _aggregator(codec)
    for frame in frames:
        fold.add(Frame.from_bytes(frame.to_bytes()), frame.noise_key)
    return fold


def _merged(a: Aggregator, b: Aggregator) -> Aggregator:
    a.merge(b)
    return a


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(CODECS), st.lists(clients, min_size=1, max_size=8), st.data())
def test_order_and_tree_do_not_matter(codec: Codec, sent: list[tuple[int, list[float]]], data: st.DataObject) -> None:
    frames = [_frame(codec, key, weight, numbers) for key, (weight, numbers) in enumerate(sent)]
    whole = _fold(codec, frames)
    order = data.draw(st.permutations(frames))
    leaf_of = data.draw(st.lists(st.integers(0, 3), min_size=len(order), max_size=len(order)))
    leaves = [_fold(codec, [f for f, at in zip(order, leaf_of, strict=True) if at == leaf]) for leaf in range(4)]
    merged = reduce(_merged, data.draw(st.permutations(leaves)))
    assert merged.sums.integers.tobytes() == whole.sums.integers.tobytes()
    assert merged.total_weight == whole.total_weight == sum(weight for weight, _ in sent)
    assert merged.finish().tobytes() == whole.finish().tobytes()


@settings(deadline=None, max_examples=60)
@given(st.lists(clients, min_size=1, max_size=8))
def test_the_mean_lies_between_the_extremes(sent: list[tuple[int, list[float]]]) -> None:
    """Up to the fixed point's half unit (2^-19 for 40 clients of the largest weight) and float32 rounding."""
    mean = _fold(Raw(), [_frame(Raw(), k, w, v) for k, (w, v) in enumerate(sent)]).finish().astype(np.float64)
    vectors = np.array([v for _, v in sent])
    slack = 2.0**-18 + np.abs(vectors).max(axis=0) * 2.0**-23
    assert (mean >= vectors.min(axis=0) - slack).all()
    assert (mean <= vectors.max(axis=0) + slack).all()
