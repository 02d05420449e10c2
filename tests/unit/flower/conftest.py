"""One thread of the framework for every test here, and Flower's idea of which task this process is."""

import pytest

from one_thread import one_thread

pytest.importorskip("flwr", reason="Flower is not installed: pip install fedmrn[flower]")
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message wants to know the task that makes it; a SuperLink would say."""
    for name, value in (("_task_id", 1), ("_run_id", 1), ("_node_id", 1)):
        monkeypatch.setattr(TaskIdentity, name, value, raising=False)
