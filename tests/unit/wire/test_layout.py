import json

import pytest
from core_examples import LAYOUT
from hypothesis import given
from hypothesis import strategies as st

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


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
SHAPES = st.lists(st.integers(0, 9), max_size=4).map(tuple)
LAYOUTS = st.lists(
    st.builds(TensorSpec, NAMES, SHAPES, st.sampled_from(Group)), max_size=6, unique_by=lambda t: t.name
).map(Layout.of)


@given(LAYOUTS)
def test_a_layout_travels_as_json(layout: Layout) -> None:
    text = layout.to_json()
    assert text.isascii()
    assert Layout.from_json(text) == Layout.from_json(text.encode()) == layout
    assert Layout.from_json(json.dumps(json.loads(text), ensure_ascii=False).encode()).digest == layout.digest
    rows = [(t["name"], tuple(t["shape"]), [*Group.__members__].index(t["group"].upper())) for t in json.loads(text)]
    assert oracle.layout_digest(rows) == layout.digest


ROW = {"name": "a", "shape": [2], "group": "coded"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfe[\0]\0", "Invalid JSON"),
        (json.dumps([ROW]).encode("utf-16"), "Invalid JSON"),
        ("\ufeff[]", "Invalid JSON"),
        ('[{"name": "a", "name": "b", "shape": [], "group": "coded"}]', "'name' twice"),
        ("3", "array of 65536 tensors at most, got 3"),
        ("[3]", "0: a tensor is an object of name, shape, group, got 3"),
        (json.dumps([ROW, {"name": "b", "group": "coded"}]), r"1\.shape is missing"),
        (json.dumps([{**ROW, "dtype": "f"}]), r"0\.dtype is no member of a tensor"),
        ('[{"name": "\\ud800", "shape": [], "group": "coded"}]', r"0\.name"),
        (json.dumps([{**ROW, "name": None}]), r"0\.name .* got null"),
        (json.dumps([{**ROW, "shape": 2}]), r"0\.shape .* got 2"),
        (json.dumps([{**ROW, "shape": [2.0]}]), r"0\.shape\.0 .* got 2\.0"),
        (json.dumps([{**ROW, "shape": [1 << 41]}]), r"0\.shape\.0"),
        (json.dumps([{**ROW, "group": 0}]), r"0\.group is one of coded, dense, stats, variance, got 0"),
        (json.dumps([{**ROW, "group": ["coded"]}]), r"0\.group .* got an array of length 1"),
        (json.dumps([ROW, ROW]), "same name"),
        (b" " * ((1 << 24) + 1), "16777216 bytes at most"),
    ],
    ids=lambda value: ascii(value[:24]),
)
def test_json_that_is_no_layout(data: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Layout.from_json(data)
    assert str(caught.value).isprintable()
