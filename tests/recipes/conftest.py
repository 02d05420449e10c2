"""One seed of the framework for every test here, one thread, and no network."""

from collections.abc import Iterator

import pytest
import torch

from one_thread import one_thread

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def _offline_and_one_seed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield
