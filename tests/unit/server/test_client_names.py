"""Clients may be named by any integer: NumPy's are those that they equal."""

from typing import Any

import numpy as np
import pytest
from core_examples import start, update

from fedmrn.errors import DuplicateFrameError


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.int16])
def test_an_integer_of_numpy_names_the_same_client(kind: Any) -> None:
    server = start("fedmrn")
    plain = [server.begin(1, [5, 9]).broadcast(client) for client in (5, 9)]
    named = server.begin(1, [kind(5), kind(9)])
    for client, data in zip((5, 9), plain, strict=True):
        assert named.broadcast(client) == named.broadcast(kind(client)) == data
    data = update(named, kind(5))
    named.add(kind(5), data)
    with pytest.raises(DuplicateFrameError):
        named.add(5, data)
    named.add(9, update(named, 9))  # type: ignore[arg-type]
    assert len(named.answered) == 2
