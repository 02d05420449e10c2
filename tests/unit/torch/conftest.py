"""One seed of the framework for every test here, and one thread."""

from collections.abc import Iterator

import pytest
import torch

from one_thread import one_thread

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def _one_seed() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield
