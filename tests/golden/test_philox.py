"""The published vectors of Philox4x32-10 (Random123, tests/kat_vectors), on each of our back ends."""

import numpy as np
import pytest

import oracle
from fedmrn.numerics.philox import BLOCK, PLANE, philox_block
from fedmrn.numerics.rng import Stream

ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES,) * 4, (ONES,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
IDS = ["zeros", "ones", "pi"]


def _hex(words: object) -> str:
    return " ".join(f"{int(w):08x}" for w in words)


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS, ids=IDS)
def test_known_answers_of_the_oracle(counter: tuple[int, ...], key: tuple[int, int], words: str) -> None:
    assert _hex(oracle.philox(counter, key)) == words


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS, ids=IDS)
@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "interpreted"])
def test_known_answers_of_the_library(
    counter: tuple[int, ...], key: tuple[int, int], words: str, compiled: bool
) -> None:
    n = counter[0] | counter[1] << 32
    block, j = divmod(n, PLANE)
    stream = Stream(key[0] | key[1] << 32, counter[2] | counter[3] << 32)
    out = np.empty(4 * PLANE, np.uint32)
    run = philox_block if compiled else philox_block.py_func
    with np.errstate(over="ignore"):
        run(np.uint64(stream.key), np.uint64(stream.domain), np.uint64(block), out)
    assert _hex(out.reshape(4, PLANE)[:, j]) == words


def test_a_stream_hits_the_vector_of_zeros() -> None:
    """The zero counter is element 0 of plane 0: the four words lie 256 elements apart."""
    assert _hex(Stream(0, 0).words(0, 1024)[::PLANE]) == VECTORS[0][2]


def test_first_words_are_pinned() -> None:
    stream = Stream(0x0123456789ABCDEF, 0x0000000100000002)
    assert _hex(stream.words(0, 4)) == "20f4d595 57d0d554 55449de0 9f341add"
    assert _hex(stream.words((1 << 40) + 254, (1 << 40) + 258)) == "f0d3c00c 1ef083cc dbfa3401 ae290133"
    assert stream.permutation(8).tolist() == [5, 4, 3, 0, 2, 1, 6, 7]


@pytest.mark.parametrize("block", [0, 1, (1 << 24) - 1, 1 << 24, (1 << 53) + 12345])
def test_whole_blocks_are_the_definition(block: int) -> None:
    """Every lane of the vectors, with counters on both sides of 2^32."""
    rng = np.random.default_rng(block % 1000)
    key, dom = rng.integers(0, 1 << 64, 2, np.uint64)
    out, expected = np.empty((2, BLOCK), np.uint32)
    philox_block(key, dom, np.uint64(block), out)
    with np.errstate(over="ignore"):
        philox_block.py_func(key, dom, np.uint64(block), expected)
    assert np.array_equal(out, expected)


def test_a_block_is_written_and_nothing_beside_it() -> None:
    out = np.full(BLOCK + 32, 7, np.uint32)
    philox_block(np.uint64(1), np.uint64(2), np.uint64(3), out[16:-16])
    assert (out[:16] == 7).all()
    assert (out[-16:] == 7).all()
    assert (out[16:-16] != 7).all()
