"""Whole rounds of the Fashion-MNIST preset, on synthetic images of its shape, against the published layers and trainer.

The preset's model, rates, batch size and samples a client (600); fewer clients and local epochs a round than the preset
has, which changes no ratio to our favour, since what a client does once a round weighs more. Everything that a round
consists of is in: broadcast, frames, checks, fold, evaluation (here on 100 images).

`local`, one thread:
  fedmrn, fedavg        fedmrn's engine, in this process
  published             layers and trainer of `published`
  published, plain      its trainer with plain layers: FedAvg

`workers`, all cores:
  1 process             fedmrn's engine with one thread
  1 process, all cores  with a thread a core
  a worker a core       train.workers: processes of one thread each
  published, all cores  layers and trainer of `published` with a thread a core
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from math import log
from typing import TypeVar

import numpy as np
import torch
from harness import Agreement, Benchmark, Case, Goal, Planned
from published import Images, Round, transform

from fedmrn.experiments.settings import load_setting
from fedmrn.federation.setting import Federation
from fedmrn.federation.simulation import RoundResult, simulate
from fedmrn.methods import METHODS
from fedmrn.models.catalogue import build_model
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, Training

T = TypeVar("T")
CORES = os.cpu_count() or 1
MEAN, STD = 0.2860, 0.3530
PRESET = load_setting("fmnist-iid")


class Clients:
    """Synthetic data of some clients: a pattern a class in noise, 28 x 28 bytes."""

    def __init__(self, count: int, samples: int) -> None:
        generator = np.random.default_rng(1)
        patterns = generator.integers(0, 200, (10, 28, 28))
        self.labels = generator.integers(0, 10, count * samples + 100)
        noise = generator.integers(0, 56, (self.labels.size, 28, 28))
        self.images = (patterns[self.labels] + noise).astype(np.uint8)
        self.parts = [np.arange(i * samples, (i + 1) * samples) for i in range(count)]

    def federation(self, method: str, epochs: int) -> Federation:
        """Return the preset's federation over this data, with all clients in each round."""
        options = PRESET.experiment(method, 1).options
        x = ((torch.from_numpy(self.images).float() / 255 - MEAN) / STD).unsqueeze(1)
        y = torch.from_numpy(self.labels)
        return Federation(
            scheme=METHODS[method].scheme(options.specific),
            train_x=x,
            train_y=y,
            parts=self.parts,
            test_x=x[-100:],
            test_y=y[-100:],
            rounds=1_000_000,
            clients_per_round=len(self.parts),
            seed=1,
            training=Training(
                local_epochs=epochs,
                batch_size=PRESET.train.batch_size,
                lr=options.lr,
                by_batches=True,
                channels_last=True,
            ),
        )

    def published(self, method: str, epochs: int) -> Round:
        """Return a round of the published layers and trainer over this data."""
        options = PRESET.experiment(method, 1).options
        return Round(
            build,
            [Images(self.images[p], self.labels[p], transform(MEAN, STD)) for p in self.parts],
            epochs=epochs,
            batch_size=PRESET.train.batch_size,
            lr=options.lr,
            scale=float(options.specific["scale"]) if "scale" in options.specific else None,
        )

    def steps(self, epochs: int) -> int:
        """Return the steps of a round, all clients together."""
        return epochs * sum(-(-len(p) // PRESET.train.batch_size) for p in self.parts)


def build() -> torch.nn.Module:
    """Return the preset's model as it is initialised."""
    return build_model("cnn4", shape=(1, 28, 28), classes=10, seed=1, init_std=PRESET.model.init_std)


class Engine:
    """Runs the rounds of a federation in this process, one a call."""

    def __init__(self, federation: Federation, threads: int = 1, workers: int = 1) -> None:
        model, self.threads = build(), threads
        view = ModelLayout.of(model)
        state = Server.initial(view.layout, federation.scheme, view.read())
        self.rounds = simulate(federation, model, state, workers=workers)

    def __call__(self) -> RoundResult:
        """Run the next round."""
        return with_threads(self.threads, lambda: next(self.rounds))


def with_threads(threads: int, call: Callable[[], T]) -> T:
    """Call with so many threads of the framework, and put back what there was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


def _learnt(*losses: float) -> Agreement:
    """Two random processes agree in law only: each must have learnt, its loss be below that of a guess."""
    return Agreement(max(losses) / log(10), 1.0)


def local(clients: int, samples: int, epochs: int) -> Benchmark:
    """Build the benchmark on one thread."""
    data = Clients(clients, samples)
    engines = {method: Engine(data.federation(method, epochs)) for method in ("fedmrn", "fedavg")}
    rounds = {"published": data.published("fedmrn", epochs), "published, plain": data.published("fedavg", epochs)}

    def check() -> dict[str, Agreement]:
        found = {case: _learnt(engine().train_loss) for case, engine in engines.items()}
        return {**found, **{case: _learnt(round_()) for case, round_ in rounds.items()}}

    steps = data.steps(epochs)
    return Benchmark(
        f"round, Fashion-MNIST preset, {clients} clients, {epochs} local epochs",
        steps,
        {**engines, **rounds},
        ("published", "published, plain", "fedavg"),
        check,
        unit="ms a step",
        goals=(Goal("fedmrn", 0.5, "published"),),
        facts=lambda: {"steps a round": str(steps)},
    )


def parallel(clients: int, samples: int, epochs: int) -> Benchmark:
    """Build the benchmark of workers."""
    data = Clients(clients, samples)
    federation, published = data.federation("fedmrn", epochs), data.published("fedmrn", epochs)
    many = f"{CORES} workers, a thread each"
    engines = {
        "1 process": Engine(federation),
        "1 process, all cores": Engine(federation, CORES),
        many: Engine(federation, workers=CORES),
    }
    cases: dict[str, Case] = {
        **engines,
        "published, all cores": lambda: with_threads(CORES, published),
    }

    def check() -> dict[str, Agreement]:
        """Workers give the numbers of one process, to the bit."""
        one, other = engines["1 process"](), engines[many]()
        cases["published, all cores"](), engines["1 process, all cores"]()
        return {many: Agreement(float(np.abs(one.state - other.state).max()), 0.0)}

    steps = data.steps(epochs)
    return Benchmark(
        f"round in processes, Fashion-MNIST preset, {clients} clients, {epochs} local epochs",
        steps,
        cases,
        ("1 process, all cores", "1 process", "published, all cores"),
        check,
        unit="ms a step",
        goals=(Goal(many, 1.0, "1 process, all cores"), Goal(many, 0.5, "published, all cores")),
        facts=lambda: {"steps a round": str(steps)},
    )


def plan(quick: bool) -> Iterator[Planned]:
    """Yield the benchmark on one thread."""
    yield (partial(local, 1, 64, 2), 2) if quick else (partial(local, 1, 600, 1), 5)


def plan_workers(quick: bool) -> Iterator[Planned]:
    """Yield the benchmark of workers."""
    yield (partial(parallel, 2, 64, 1), 2) if quick else (partial(parallel, CORES, 600, 1), 5)
