"""One thread of the framework for every test here, and Flower's idea of which task this process is."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedmrn[flower]")
from flwr.supercore.task_identity import TaskIdentity


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message wants to know the task that makes it; a SuperLink would say."""
    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)
