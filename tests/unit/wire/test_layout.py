import pytest
from core_examples import LAYOUT

import oracle
from fedmrn.errors import ConfigError
from fedmrn.wire.layout import Group, Layout, TensorSpec


def test_groups_lie_one_after_the_other() -> None:
    assert [t.name for t in LAYOUT.tensors] == ["a.weight", "a.bias", "norm.weight", "norm.mean"]
    assert LAYOUT.size == 29
    assert LAYOUT.trainable == 26
    assert [LAYOUT.span(g) for g in Group] == [slice(0, 21), slice(21, 26), slice(26, 29), slice(29, 29)]
    assert LAYOUT.slices == {
        "a.weight": slice(0, 12),
        "a.bias": slice(12, 21),
        "norm.weight": slice(21, 26),
        "norm.mean": slice(26, 29),
    }


def test_scalars_and_empty_groups() -> None:
    layout = Layout.of([TensorSpec("temperature", (), Group.DENSE)])
    assert layout.size == layout.trainable == 1
    assert [layout.span(g) for g in Group] == [slice(0, 0), slice(0, 1), slice(1, 1), slice(1, 1)]
    empty = Layout(())
    assert empty.size == empty.trainable == 0
    assert empty.slices == {}


def test_order_within_a_group_is_kept() -> None:
    tensors = [TensorSpec(n, (2,), Group.CODED) for n in "zmab"]
    assert [t.name for t in Layout.of(tensors).tensors] == list("zmab")


def test_groups_out_of_order_are_refused() -> None:
    with pytest.raises(ConfigError, match="order"):
        Layout((TensorSpec("a", (1,), Group.STATS), TensorSpec("b", (1,), Group.CODED)))


def test_two_tensors_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="same name"):
        Layout.of([TensorSpec("a", (1,), Group.CODED), TensorSpec("a", (2,), Group.STATS)])


def test_the_digest_is_the_oracles() -> None:
    tensors = [(t.name, t.shape, int(t.group)) for t in LAYOUT.tensors]
    assert LAYOUT.digest == oracle.layout_digest(tensors)
    assert Layout(LAYOUT.tensors).digest == LAYOUT.digest
    named = Layout.of([TensorSpec("größe", (2**40, 0, 3), Group.STATS)])
    assert named.digest == oracle.layout_digest([("größe", (2**40, 0, 3), 2)])


def test_the_digest_sees_every_field() -> None:
    def one(*tensors: tuple[str, tuple[int, ...], Group]) -> bytes:
        return Layout(tuple(TensorSpec(*t) for t in tensors)).digest

    coded, dense = Group.CODED, Group.DENSE
    layouts = [
        one(),
        one(("a", (2, 3), coded)),
        one(("b", (2, 3), coded)),
        one(("a", (3, 2), coded)),
        one(("a", (6,), coded)),
        one(("a", (6, 1), coded)),
        one(("a", (), coded)),
        one(("a", (2, 3), dense)),
        one(("a", (2, 3), coded), ("b", (1,), coded)),
        one(("b", (1,), coded), ("a", (2, 3), coded)),
        one(("ab", (1,), coded), ("c", (1,), coded)),
        one(("a", (1,), coded), ("bc", (1,), coded)),
    ]
    assert len(set(layouts)) == len(layouts)
    assert {len(d) for d in layouts} == {16}
