"""On a CUDA device: training steps, whole rounds of the presets, and the fold that the device's clients are folded by.

`step`: a client's steps by `fedmrn.torch.loop`, the samples on the device. Each call waits for the device at its end.
  plain, fedmrn, fedmrn-s    plain SGD and training through masks, steps captured once and replayed
  ..., eager                 the same, each kernel launched by itself
`round`: the engine with the model, batch size, clients and local epochs of a preset, on synthetic samples of its data's
shape and number. `fold`: aggregation is the server's, on its processor: the smaller case of the part `fold`.

Without CUDA nothing is measured.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import median

import folds
import numpy as np
import steps
import torch
from harness import Agreement, Benchmark, Goal, Planned, of_one_scale

from fedmrn.data import Source, find_source
from fedmrn.experiments.settings import load_setting, presets
from fedmrn.federation.setting import Federation
from fedmrn.federation.simulation import simulate
from fedmrn.methods import METHODS
from fedmrn.models.catalogue import build_model
from fedmrn.server import Server
from fedmrn.torch import LocalData, ModelLayout, Training, attach, train
from fedmrn.torch.fast.graphs import CudaGraphs, StepGraphs

PRESETS = ("fmnist-iid", "cifar10-iid")
STEPS = 50


class Trainer:
    """Trains one client of a method, again and again; a call is an epoch of so many steps."""

    def __init__(self, method: str, setting: steps.Setting, device: str, count: int, graphs: bool) -> None:
        self.model = setting.build().to(device)
        generator = torch.Generator().manual_seed(1)
        batch, *shape = setting.shape
        x = torch.randn((count * batch, *shape), generator=generator).to(device)
        y = torch.randint(0, 10, (count * batch,), generator=generator).to(device)
        self.data, self.training = LocalData(x, y, key=1), Training(batch_size=batch)
        view = ModelLayout.of(self.model)
        broadcast = (
            Server(
                view.layout,
                METHODS[method].scheme(of_one_scale(METHODS[method])),
                view.read(),
                steps.SECRET,
                run=bytes(16),
            )
            .begin(1, [0])
            .broadcast(0)
        )
        optimizer = torch.optim.SGD(self.model.parameters(), lr=steps.LR)
        planned = count * (setting.repetitions + 2)
        self.rule = attach(self.model, optimizer, broadcast, accept="any", steps=planned, sampling_key=1)
        self.graphs = StepGraphs(CudaGraphs(view.device)) if graphs else None

    def __call__(self) -> float:
        """Train for an epoch."""
        return train(self.model, self.rule, self.data, self.training, graphs=self.graphs)

    def first(self) -> float:
        """Return the loss of a first step."""
        size = self.training.batch_size
        one = replace(self.data, x=self.data.x[:size], y=self.data.y[:size])
        return train(self.model, self.rule, one, self.training, graphs=self.graphs)


def step(setting: steps.Setting, device: str, count: int) -> Benchmark:
    """Build the benchmark of a model's step; without CUDA, of the eager ways only."""
    ways = {"plain": "fedavg", "fedmrn": "fedmrn", "fedmrn-s": "fedmrn-s"}
    cases = {f"{way}, eager": Trainer(method, setting, device, count, False) for way, method in ways.items()}
    if device != "cpu":
        cases |= {way: Trainer(method, setting, device, count, True) for way, method in ways.items()}

    def check() -> dict[str, Agreement]:
        """With u = 0 no binary mask takes anything: the first loss is that of the plain model."""
        first = {case: trainer.first() for case, trainer in cases.items()}
        return {c: Agreement(abs(first[c] - first["plain, eager"]), 0.0) for c in first if "-s" not in c}

    goals = [Goal("fedmrn, eager", 1.05, "plain, eager"), Goal("fedmrn-s, eager", 1.05, "plain, eager")]
    goals += [Goal(way, 1.05, "plain") for way in ("fedmrn", "fedmrn-s") if way in cases]
    baselines = tuple(case for case in ("plain", "plain, eager") if case in cases)
    return Benchmark(
        f"step on {device}, {setting.name}", count, cases, baselines, check, unit="ms a step", goals=tuple(goals)
    )


class Rounds:
    """Rounds of a preset, one a call; how long each took is kept."""

    def __init__(self, preset: str, method: str, device: str, changes: tuple[str, ...]) -> None:
        setting = load_setting(preset, changes)
        source, options = find_source(setting.data.name), setting.experiment(method, 1).options
        if not isinstance(source, Source):
            raise TypeError(f"{preset}: the number of samples of {source.name} is not known before they are read")
        generator = torch.Generator().manual_seed(1)
        x = torch.randn((source.train, *source.shape), generator=generator)
        y = torch.randint(0, source.classes, (source.train,), generator=generator)
        model = build_model(
            setting.model.name,
            shape=source.shape,
            classes=source.classes,
            seed=1,
            init_std=setting.model.init_std or None,
        ).to(device)
        federation = Federation(
            scheme=METHODS[method].scheme(options.specific),
            train_x=x,
            train_y=y,
            parts=np.array_split(np.arange(source.train), setting.data.clients),
            test_x=x[: source.test],
            test_y=y[: source.test],
            rounds=1_000_000,
            clients_per_round=setting.train.clients_per_round,
            seed=1,
            training=Training(
                local_epochs=setting.train.local_epochs,
                batch_size=setting.train.batch_size,
                lr=options.lr,
                by_batches=setting.train.weight_by == "batches",
                channels_last=True,
            ),
        )
        view = ModelLayout.of(model)
        state = Server.initial(view.layout, federation.scheme, view.read())
        self.rounds, self.seconds = simulate(federation, model, state), list[float]()

    def __call__(self) -> float:
        """Run the next round; return its loss."""
        result = next(self.rounds)
        self.seconds.append(result.seconds)
        return result.train_loss


def rounds(preset: str, device: str, changes: tuple[str, ...] = ()) -> Benchmark:
    """Build the benchmark of a preset's rounds."""
    cases = {method: Rounds(preset, method, device, changes) for method in ("fedmrn", "fedmrn-s", "fedavg")}

    def check() -> dict[str, Agreement]:
        """Labels are random: nothing can be learnt but by heart. The first round's loss is finite, no more is asked."""
        return {case: Agreement(0.0 if np.isfinite(run()) else np.inf, 0.0) for case, run in cases.items()}

    return Benchmark(
        f"round on {device}, {preset}",
        1,
        cases,
        ("fedavg",),
        check,
        unit="ms a round",
        facts=lambda: {f"{case}, rounds a second": f"{1 / median(run.seconds[1:]):.3g}" for case, run in cases.items()},
    )


def plan(quick: bool, device: str = "cuda") -> Iterator[Planned]:
    """Yield a benchmark a model, one a preset that there is, and the fold; nothing where there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        return
    if quick:
        yield partial(step, steps.QUICK[0], device, 4), 2
        yield partial(rounds, "digits", device, ("train.clients_per_round=2",)), 2
        return
    for setting in steps.FULL:
        yield partial(step, setting, device, STEPS), setting.repetitions
    for preset in PRESETS:
        if preset in presets():
            yield partial(rounds, preset, device), 5
    yield partial(folds.fold, 389_920), 21
