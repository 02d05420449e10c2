"""What a client keeps: the base and the newest, in bytes that are taken whole or not at all."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public_models import LAYOUT, LEAN, RUN, framed, model_of

from allocated import allocated
from fedmrn.errors import LostModelError
from fedmrn.wire.frame import Kind
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Layout
from fedmrn.wire.messages import read_model, read_state
from fedmrn.wire.public import Heading, tag_of

OTHER = tag_of(b"another run")


def heading(number: int, base: int | None, run: bytes = RUN) -> Heading:
    return Heading(number, base, run, None, bytes(8))


def kept() -> Held:
    """A client that holds models 1 and 2."""
    held, first, second = Held(LAYOUT), model_of(1, seed=1), model_of(2, seed=2, exponent=-7)
    held.keep(first, heading(1, None))
    held.keep(second, heading(2, 1))
    return held


def resealed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def nothing(held: Held) -> bool:
    return (held.numbers, held.run, held.to_bytes()) == ((), b"", b"")


def test_the_base_and_the_newest_are_kept() -> None:
    held = kept()
    assert held.numbers == (1, 2)
    held.keep(model_of(3), heading(3, 1))  # the reply to 2 was lost
    assert held.numbers == (1, 3)
    held.keep(model_of(4), heading(4, 3))
    assert held.numbers == (3, 4)
    held.keep(model_of(4), heading(4, 4))
    assert held.numbers == (4,)
    held.keep(model_of(7), heading(7, None))  # a whole one: the server may count on 4 still
    assert held.numbers == (4, 7)
    held.keep(model_of(8), heading(8, None))
    held.keep(model_of(9), heading(9, None))
    assert held.numbers == (7, 8, 9)
    held.keep(model_of(9), heading(9, None))
    assert held.numbers == (8, 9)
    held.keep(model_of(11), heading(11, 8))
    assert held.numbers == (8, 11)
    with pytest.raises(LostModelError, match="this client keeps 8, 11 of this run"):
        held.find(RUN, 4, LAYOUT)


def test_another_run_or_model_ends_what_was_kept() -> None:
    held = kept()
    held.keep(model_of(2), heading(2, 1, OTHER))
    assert (held.run, held.numbers) == (OTHER, (2,))
    lean = Held(LEAN)
    lean._bodies, lean.run = {1: {}}, RUN
    lean.keep(model_of(2), heading(2, 1))
    assert lean.numbers == (2,)


def test_what_is_kept_is_found() -> None:
    held = Held.from_bytes(kept().to_bytes(), LAYOUT)
    for number, seed, exponent in ((1, 1, -6), (2, 2, -7)):
        wanted = model_of(number, seed=seed, exponent=exponent)
        for group, points in held.find(RUN, number, LAYOUT).items():
            assert points.numbers.tolist() == wanted.parts[group].numbers.tolist()
            assert points.exponents.tolist() == wanted.parts[group].exponents.tolist()
    for run, number, layout in ((RUN, 3, LAYOUT), (OTHER, 1, LAYOUT), (b"", 1, LAYOUT), (RUN, 1, LEAN)):
        with pytest.raises(LostModelError):
            held.find(run, number, layout)


def test_starting_weights_are_given_again() -> None:
    """They are not among the bytes: who reads them has the model."""
    start = np.linspace(0, 1, LAYOUT.size, dtype=np.float32)
    held, model = Held(), model_of(1, start)
    read_state(framed(model), LAYOUT, held, lambda: start)
    assert start[:2].tobytes() not in held.to_bytes()
    again = Held.from_bytes(held.to_bytes(), LAYOUT, start)
    assert read_state(framed(model, model), LAYOUT, again).tobytes() == model.values.tobytes()
    assert [found.tolist() for found in again.starts(lambda: start)] == [start.tolist()] * 2
    assert [*Held().starts(None)] == []


def test_the_models_own_weights_are_copied() -> None:
    """Training goes on in place."""
    weights = np.zeros(LAYOUT.size, np.float32)
    (found,) = Held().starts(lambda: weights)
    weights += 1
    assert not found.any()


def test_a_model_to_evaluate_is_not_kept() -> None:
    held = kept()
    before = held.to_bytes()
    read_model(framed(model_of(9), kind=Kind.MODEL), LAYOUT, held)
    assert held.to_bytes() == before


# --- bytes from outside -----------------------------------------------------------------------------------------------


def test_bytes_come_back() -> None:
    data = kept().to_bytes()
    held = Held.from_bytes(data, LAYOUT)
    assert (held.to_bytes(), held.numbers, held.run) == (data, (1, 2), RUN)
    assert nothing(Held.from_bytes(b"", LAYOUT))
    assert nothing(Held())


def test_every_truncation_and_every_flip_keeps_nothing() -> None:
    data = kept().to_bytes()
    for length in range(len(data)):
        assert nothing(Held.from_bytes(data[:length], LAYOUT))
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert nothing(Held.from_bytes(bytes(flipped), LAYOUT))
    assert nothing(Held.from_bytes(data + b"\0", LAYOUT))


def test_bytes_of_another_model_keep_nothing() -> None:
    data = kept().to_bytes()
    assert nothing(Held.from_bytes(data, LEAN))
    assert nothing(Held.from_bytes(data, Layout(())))


@pytest.mark.parametrize("models", [0, 1, 3, 255])
def test_as_many_models_as_it_says(models: int) -> None:
    body = bytearray(kept().to_bytes()[:-4])
    body[33] = models
    assert nothing(Held.from_bytes(resealed(bytes(body)), LAYOUT))


def test_models_that_contradict_each_other() -> None:
    """Two of one number; and groups of one model that have two numbers."""
    body = kept().to_bytes()[:-4]
    (length,) = struct.unpack_from("<Q", body, 38)
    second = 34 + 12 + length
    for at in (34, second):
        changed = bytearray(body)
        struct.pack_into("<I", changed, at, 2)
        assert nothing(Held.from_bytes(resealed(bytes(changed)), LAYOUT))
    twice = body.replace(struct.pack("<I", 1), struct.pack("<I", 2))
    assert nothing(Held.from_bytes(resealed(twice), LAYOUT))


def test_lengths_beyond_the_bytes() -> None:
    body = kept().to_bytes()[:-4]
    for length in (1 << 20, 1 << 63, (1 << 64) - 1):
        changed = bytearray(body)
        struct.pack_into("<Q", changed, 38, length)
        data = resealed(bytes(changed))
        assert nothing(Held.from_bytes(data, LAYOUT))
        assert allocated(lambda data=data: Held.from_bytes(data, LAYOUT)) < 1 << 16


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=4), st.integers(0, 60), st.binary())
def test_what_has_its_checksum_is_kept_as_it_is_or_not_at_all(
    changes: list[tuple[int, int]], cut: int, more: bytes
) -> None:
    """Somebody else may write the file: what is found in it is a model or lost, and no other error."""
    body = bytearray(kept().to_bytes()[:-4])
    for at, value in changes:
        body[at % len(body)] = value
    data = resealed(bytes(body[: len(body) - cut]) + more)
    held = Held.from_bytes(data, LAYOUT)
    if nothing(held):
        return
    assert held.to_bytes() == data
    for number in held.numbers:
        try:
            found = held.find(held.run, number, LAYOUT)
        except LostModelError:
            continue
        assert sum(part.numbers.size for part in found.values()) == LAYOUT.size


@given(st.binary(max_size=300))
def test_noise_keeps_nothing(data: bytes) -> None:
    assert nothing(Held.from_bytes(data, LAYOUT))
    assert nothing(Held.from_bytes(resealed(data), LAYOUT))
