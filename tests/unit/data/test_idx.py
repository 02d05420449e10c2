import struct

import numpy as np
import pytest
from data_samples import zipped

from allocated import allocated
from fedmrn.data.idx import parse_idx
from fedmrn.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
HEAD = bytes.fromhex("00000803 00000002 00000003 00000004")
GOOD = zipped(HEAD + ARRAY.tobytes())


def test_literal_bytes():
    found = parse_idx(GOOD, (2, 3, 4), "f.gz")
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, ARRAY)


@pytest.mark.parametrize(
    ("blob", "what"),
    [
        (b"", "ends inside its header"),
        (b"plain text", "not sound gzip"),
        (HEAD + ARRAY.tobytes(), "not sound gzip"),
        (zipped(b""), "ends inside its header"),
        (zipped(HEAD[:15]), "ends inside its header"),
        (
            zipped(b"\0\0\x09\3" + HEAD[4:] + ARRAY.tobytes()),
            "starts with 00000903, expected 00000803",
        ),
        (zipped(b"\0\0\x08\1" + HEAD[4:] + ARRAY.tobytes()), "starts with 00000801"),
        (zipped(HEAD[:12] + b"\xff" * 4 + ARRAY.tobytes()), "declares dimensions"),
        (zipped(HEAD + ARRAY.tobytes()[:-1]), "ends after 23 of its 24"),
        (zipped(HEAD + ARRAY.tobytes() + b"x"), "goes on after its 24"),
        (GOOD + b"x", "goes on after its 24"),
        (GOOD + GOOD, "goes on after its 24"),
        (GOOD[:-1], "ends after 24 of its 24"),
        (GOOD[:-9], "ends after"),
        (GOOD[:-8] + bytes([GOOD[-8] ^ 1]) + GOOD[-7:], "not sound gzip"),
    ],
)
def test_refuses(blob, what):
    with pytest.raises(DataError, match=what) as caught:
        parse_idx(blob, (2, 3, 4), "f.gz")
    assert str(caught.value).startswith("f.gz ")
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused():
    for length in range(len(GOOD)):
        with pytest.raises(DataError):
            parse_idx(GOOD[:length], (2, 3, 4), "f.gz")


def test_a_bomb_is_not_inflated():
    bomb = zipped(struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + bytes(1 << 26))

    def refused():
        with pytest.raises(DataError, match="goes on"):
            parse_idx(bomb, (2, 3, 4), "f.gz")

    assert allocated(refused) < 1 << 20  # the bomb's own 65 kB, and not its 64 MiB
