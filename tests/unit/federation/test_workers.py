"""Clients in worker processes: the numbers of this process, errors with their cause, nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_federation import federation, records, rule, run, small_model
from torch import nn

from fedmrn.data.augmentation import augment
from fedmrn.errors import ConfigError, EncodeError, WorkerError
from fedmrn.federation.simulation import simulate
from fedmrn.torch import LocalRule, ModelLayout
from fedmrn.wire.frame import Frame

FOREVER = 600.0


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.3), small_model())


def results(workers: int, name: str = "fedmrn", model: nn.Module | None = None, **changes: Any) -> list[Any]:
    model = with_dropout() if model is None else model
    setting = federation(name, **changes)
    state = ModelLayout.of(model).read()
    return list(simulate(setting, model, state, workers=workers))


def local_function() -> Any:
    """A rule that no other process can find."""

    def local(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, **options: Any) -> LocalRule:
        return rule(model, optimizer, broadcast, **options)

    return local


def no_children() -> bool:
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not multiprocessing.active_children()


@pytest.mark.parametrize(("name", "clients"), [("fedmrn", 8), ("topk-ef", 3)])
def test_the_numbers_are_those_of_one_process(name: str, clients: int) -> None:
    """Dropout, augmentation, batch norm's counters and what clients keep from round to round, all of them to the bit;
    eight clients are more than are held at a time."""
    changes = {"augment": partial(augment, fill=0.5), "clients_per_round": clients}
    assert records(results(2, name, **changes)) == records(results(1, name, **changes))
    assert no_children()


def counting(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, **options: Any) -> LocalRule:
    if torch.get_num_threads() != 2:
        raise ConfigError(f"{torch.get_num_threads()} threads")
    return rule(model, optimizer, broadcast, **options)


def test_progress_is_told_by_client_and_threads_are_those_of_this_process() -> None:
    torch.set_num_threads(2)
    model, seen = small_model(), list[int]()
    setting = federation(rounds=2, rule=counting)
    for _ in simulate(setting, model, ModelLayout.of(model).read(), on_client=seen.append, workers=2):
        pass
    assert seen == [1, 2, 3, 4, 1, 2, 3, 4]


def test_an_error_in_a_worker_is_raised_here_with_its_cause() -> None:
    with pytest.raises(EncodeError, match="training diverged") as caught:
        results(2, lr=1e30)
    assert "encode_update" in str(caught.value.__cause__)  # the traceback in the worker
    assert no_children()


def lost(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, **options: Any) -> LocalRule:
    os._exit(3)


def test_a_worker_that_is_lost_is_told() -> None:
    with pytest.raises(WorkerError, match="ended without an answer"):
        results(2, rule=lost)
    assert no_children()


def test_what_cannot_be_sent_is_told_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="top of a module"):
        results(2, rule=local_function())
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        results(0)
    assert no_children()


def stuck(model: nn.Module, optimizer: torch.optim.Optimizer, broadcast: Frame, **options: Any) -> LocalRule:
    """The clients of the first round answer; those of the second do not."""
    if broadcast.round > 1:
        time.sleep(FOREVER)
    return rule(model, optimizer, broadcast, **options)


def test_an_interrupt_ends_the_workers_in_the_midst_of_a_client() -> None:
    model = small_model()
    rounds = simulate(federation(rule=stuck), model, ModelLayout.of(model).read(), workers=2)
    next(rounds)
    assert len(multiprocessing.active_children()) == 2

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            next(rounds)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert no_children()
    assert time.monotonic() - started < FOREVER / 10


def test_closing_the_iterator_ends_the_workers() -> None:
    model = small_model()
    rounds = simulate(federation(), model, ModelLayout.of(model).read(), workers=2)
    next(rounds)
    rounds.close()
    assert no_children()


OWNER = """
import multiprocessing, test_workers as t
if __name__ == "__main__":
    model = t.small_model()
    rounds = t.simulate(t.federation(rule=t.stuck), model, t.ModelLayout.of(model).read(), workers=2)
    next(rounds)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    next(rounds)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_workers_end_when_their_owner_is_killed(tmp_path: Path) -> None:
    (tmp_path / "owner.py").write_text(OWNER)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "owner.py"], cwd=tmp_path, env=env, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        workers = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(workers) == 2
        owner.kill()
    deadline = time.monotonic() + 20
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    """A process that has ended and is waited for by nobody counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_worker_is_this_process() -> None:
    assert records(run(federation(rule=local_function()))) == records(run(federation()))
    assert not multiprocessing.active_children()
