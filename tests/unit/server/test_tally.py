"""What codecs say of the tensors: summed over clients, named, and handed on to whoever asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from core_examples import LAYOUT, noisy, play
from numpy.typing import NDArray

import fedmrn.codecs
from fedmrn.codecs import DENSITY, NOISE_SCALE, Observable, Observed, Opened, Raw
from fedmrn.errors import ConfigError
from fedmrn.methods.method import Method
from fedmrn.server import Server
from fedmrn.server.tally import Tally
from fedmrn.wire.layout import Group, Layout, TensorSpec

F32 = NDArray[np.float32]
LARGEST = Observable("largest", lambda total, elements, clients: total / clients + elements)


@dataclass(frozen=True)
class Said(Opened):
    """Says what it was given."""

    numbers: Observed

    def read(self, start: int, out: F32) -> None:
        out[:] = 0

    def observed(self, tensors: Sequence[slice]) -> Observed:
        return self.numbers


def tally(*said: Observed, layout: Layout = LAYOUT) -> Tally:
    found = Tally(layout)
    for numbers in said:
        found.add(Said(numbers))
    return found


def test_the_means_of_density_and_scale() -> None:
    """LAYOUT has coded tensors of 12 and 9 elements. A geometric mean of 2^-3, 2^-4 and 2^-8 is 2^-5."""
    said = [{DENSITY: [6, 9], NOISE_SCALE: [e, 0]} for e in (-3, -4, -8)]
    assert tally(*said).means(3) == {
        "density": {"a.weight": 0.5, "a.bias": 1.0},
        "noise_scale": {"a.weight": 2.0**-5, "a.bias": 1.0},
    }


def test_order_and_tree_do_not_matter() -> None:
    said = [{DENSITY: [k, 9 - k], LARGEST: [10**k, -k]} for k in range(4)]
    expected = tally(*said).means(4)
    assert expected["largest"] == {"a.weight": 1111 / 4 + 12, "a.bias": -6 / 4 + 9}
    for order in permutations(said):
        left, right = tally(*order[:1]), tally(*order[1:])
        left.merge(right)
        assert left.means(4) == expected
        assert tally(*order).means(4) == expected


def test_a_part_that_says_nothing_merges() -> None:
    said = {DENSITY: [3, 3]}
    empty, full = tally(), tally(said)
    full.merge(tally())
    empty.merge(full)
    assert empty.means(1) == full.means(1) == tally(said).means(1) != {}
    assert tally().means(0) == {}


def test_a_model_without_coded_elements_says_nothing() -> None:
    """A record with an empty table would be a key that other runs do not have."""
    layout = Layout.of([TensorSpec("none", (0, 3), Group.CODED), TensorSpec("b", (2,), Group.DENSE)])
    assert tally({DENSITY: []}, layout=layout).means(1) == {}


def test_a_codec_must_speak_of_every_tensor() -> None:
    with pytest.raises(ValueError, match="zip"):
        tally({DENSITY: [1, 2]}, {DENSITY: [1]})


def test_two_observables_of_one_name_are_refused() -> None:
    other = Observable("density", DENSITY.mean)
    with pytest.raises(ConfigError, match="two observables are called 'density'"):
        tally({DENSITY: [1, 2], other: [1, 2]}).means(1)


def test_means_are_plain_numbers_whatever_an_observable_makes() -> None:
    narrow = Observable("narrow", lambda total, *_: np.float32(total))  # type: ignore[arg-type,return-value]
    (means,) = tally({narrow: [1, 2]}).means(1).values()
    assert {type(value) for value in means.values()} == {float}


class OpenedLargest(Opened):
    """Floats that say the largest of each tensor, in thousandths."""

    def __init__(self, inner: Opened) -> None:
        self.inner = inner

    def read(self, start: int, out: F32) -> None:
        self.inner.read(start, out)

    def observed(self, tensors: Sequence[slice]) -> Observed:
        values = np.empty(max(t.stop for t in tensors), np.float32)
        self.read(0, values)
        return {LARGEST: [int(1000 * values[t].max()) for t in tensors]}


@dataclass(frozen=True)
class Talkative(Raw):
    """Raw, and an observation that nothing else knows of."""

    id = 201
    name = "talkative"

    def open(self, body: bytes | memoryview, count: int, noise_key: int, max_value: float) -> OpenedLargest:  # type: ignore[override]
        return OpenedLargest(super().open(body, count, noise_key, max_value))


def test_an_observation_of_ones_own_comes_out_at_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmrn.codecs, "CODECS", {**fedmrn.codecs.CODECS, Talkative.id: Talkative})
    scheme = Method(id=201, name="talkative", summary="", local="base:LocalRule", codec=lambda _: Talkative()).scheme()
    server = Server(LAYOUT, scheme, noisy(LAYOUT.size, 1, 1.0), bytes(16), run=bytes(16))
    assert server.observed == {}
    vectors = {c: np.full(LAYOUT.size, i, np.float32) for i, c in enumerate(("ann", "bob"), 1)}
    play(server, 1, vectors, {"ann": 1, "bob": 50}).finish()
    assert server.observed == {"largest": {"a.weight": 1500 + 12, "a.bias": 1500 + 9}}, "clients alike, not by weight"
