"""What any optimiser must do through a mask, to be inherited by one line: a name and a factory.

    CASES = {"adamw": Case(lambda p: torch.optim.AdamW(p, lr=0.01))}

A factory takes the parameters as a list, and returns one optimiser or a list of them. The oracle is plain training: the
same loop, with the optimiser itself in place of the wrapper.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.methods import method
from fedmrn.methods.method import Options
from fedmrn.server import Server
from fedmrn.torch import LocalRule, ModelLayout, attach

Loss = Callable[[], Tensor]
Optimisers = Sequence[torch.optim.Optimizer]
Drive = Callable[[Optimisers, Loss], float]
"""(optimisers or their wrappers, loss) -> the loss of one step that it takes."""

CLASSES, WORDS, SEEN, LENGTH = 3, 40, 24, 6
NO_MASKS: Options = {"scale": 2.0**15, "noise": "bernoulli"}
"""Options of fedmrn-s under which nothing is clipped; with `NEVER` steps, and no element is masked."""
NEVER = 10**12


class Reader(nn.Module):
    """Embedding, layer norm, two matrices with biases. Words from `SEEN` on are in no batch."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.norm(self.embedding(words).mean(1)))))


def reader(width: int = 8, seed: int = 1) -> Reader:
    """A model of a seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(width)


def sentences(n: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """n sentences and their classes: each class has eight words of its own, and four words of six are of them."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES, (n,), generator=generator)
    own = y[:, None] * 8 + torch.randint(0, 8, (n, LENGTH), generator=generator)
    noise = torch.randint(0, SEEN, (n, LENGTH), generator=generator)
    return torch.where(torch.arange(LENGTH) < 4, own, noise), y


def one_step(optimisers: Optimisers, loss: Loss) -> float:
    """The loop that everybody writes."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    value = loss()
    value.backward()
    for optimiser in optimisers:
        optimiser.step()
    return value.item()


def by_closure(optimisers: Optimisers, loss: Loss) -> float:
    """One optimiser that calls the loss itself."""
    (optimiser,) = optimisers

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    value: Any = optimiser.step(closure)  # type: ignore[arg-type]
    return value.item()


def uphill(optimisers: Optimisers, loss: Loss) -> float:
    """The loop of one who maximises."""
    return one_step(optimisers, lambda: -loss())


def sharp_by_closure(optimisers: Optimisers, loss: Loss) -> float:
    """SAM in one call: gradients here, and once more inside."""
    (optimiser,) = optimisers

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    value = closure()
    optimiser.step(closure)  # type: ignore[arg-type]
    return value.item()


def sharp_by_two_calls(optimisers: Optimisers, loss: Loss) -> float:
    """SAM in two calls: up the hill, gradients there, and back."""
    (optimiser,) = optimisers
    value = loss()
    value.backward()
    optimiser.first_step(zero_grad=True)  # type: ignore[attr-defined]
    loss().backward()
    optimiser.second_step(zero_grad=True)  # type: ignore[attr-defined]
    return value.item()


@dataclass(frozen=True, kw_only=True)
class Case:
    """An optimiser under test.

    Attributes:
        make: parameters -> one optimiser, or several over parts of them.
        drive: how one step is taken.
        modes: whether it has `train()` and `eval()`, called around training as schedulefree wants.
        same: the name of another case that takes the same path by other loops of torch; it is not asked to learn too.
        scales: methods and options that it learns through.
    """

    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer | list[torch.optim.Optimizer]]
    drive: Drive = one_step
    modes: bool = False
    same: str = ""
    scales: tuple[tuple[str, Options], ...] = (("fedmrn", {"scale": "auto"}), ("fedmrn-s", {"scale": "auto"}))

    def optimisers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Return the optimisers of a model, always as a list."""
        made = self.make(list(model.parameters()))
        return list(made) if isinstance(made, list) else [made]


@dataclass(frozen=True)
class Path:
    """What one training left: losses of the steps, and the model's values after each step (and after `eval()`)."""

    losses: list[float]
    weights: list[dict[str, Tensor]]


def values(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters, copied."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def loss_of(model: nn.Module, data: tuple[Tensor, Tensor], step: int, batch: int) -> Loss:
    """The loss of a step's batch; batches go round the data."""
    x, y = data
    where = (torch.arange(batch) + step * batch) % len(y)
    return lambda: F.cross_entropy(model(x[where]), y[where])


def walk(case: Case, model: nn.Module, optimisers: Optimisers, data: tuple[Tensor, Tensor], steps: int) -> Path:
    """Take steps with an optimiser or its wrapper, and note everything."""
    losses, weights = [], []
    for optimiser in optimisers if case.modes else ():
        optimiser.train()  # type: ignore[attr-defined]
    for step in range(steps):
        losses.append(case.drive(optimisers, loss_of(model, data, step, 16)))
        weights.append(values(model))
    for optimiser in optimisers if case.modes else ():
        optimiser.eval()  # type: ignore[attr-defined]
        weights.append(values(model))
    return Path(losses, weights)


def attached(model: nn.Module, optimisers: Optimisers, broadcast: bytes, steps: int) -> tuple[LocalRule, Optimisers]:
    """Return the rule and what to call in place of the optimisers."""
    if len(optimisers) == 1:
        rule = attach(model, optimisers[0], broadcast, accept="any", steps=steps, sampling_key=3)
        return rule, [rule]
    rule = attach(model, list(optimisers), broadcast, accept="any", steps=steps, sampling_key=3)
    return rule, rule.optimizers


def server_for(model: nn.Module, name: str, options: Options | None) -> Server:
    """A server at the start of a run from this model."""
    view, scheme = ModelLayout.of(model), method(name).scheme(options)
    return Server(
        view.layout, scheme, Server.initial(view.layout, scheme, view.read()), b"a secret of tests", run=bytes(16)
    )


def without_masks(model: nn.Module) -> bytes:
    """A broadcast of this model under which no element is clipped or masked."""
    return server_for(model, "fedmrn-s", NO_MASKS).begin(1, ["a"]).broadcast("a")


def differing(one: Path, other: Path) -> list[str]:
    """What differs in two paths, bit for bit: "loss of step 3", "hidden.bias after step 7"; the first few."""
    found = [f"loss of step {i}" for i, (a, b) in enumerate(zip(one.losses, other.losses, strict=True)) if a != b]
    for i, (a, b) in enumerate(zip(one.weights, other.weights, strict=True)):
        found += [f"{name} after step {i}" for name in a if not torch.equal(a[name], b[name])]
    return found[:6]


def loss_on(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The mean loss on all data."""
    with torch.no_grad():
        return F.cross_entropy(model(data[0]), data[1]).item()


def federated(
    case: Case, model: nn.Module, data: tuple[Tensor, Tensor], name: str, options: Options | None, steps: int
) -> NDArray[np.float32]:
    """Train as the one client of a round; return the server's state after it. The model is what the client keeps."""
    server = server_for(model, name, options)
    round_ = server.begin(1, ["a"])
    optimisers = case.optimisers(model)
    calls = steps * len(optimisers)
    rule, wrapped = attached(model, optimisers, round_.broadcast("a"), calls)
    walk(case, model, wrapped, data, steps)
    round_.add("a", rule.finish(weight=7).to_bytes())
    return round_.finish()


Hold = Callable[[torch.optim.Optimizer], torch.optim.Optimizer]
"""optimiser -> what the loop calls in its place: itself, or its wrapper with masks off."""


def as_plain(loop: Callable[[Any, Hold], None], make: Callable[[], nn.Module] = reader) -> dict[str, Tensor]:
    """Run a loop with masks off, and once more as plain training; compare bit for bit; return the end.

    The loop makes its optimisers over the model that it is given, and passes each through `hold` where `attach` goes.
    """
    ends = []
    for plain in (True, False):
        model = make()
        given = without_masks(model)

        def hold(optimiser: torch.optim.Optimizer, model: nn.Module = model, given: bytes = given) -> LocalRule:
            return attach(model, optimiser, given, accept="any", steps=NEVER, sampling_key=3)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            loop(model, (lambda optimiser: optimiser) if plain else hold)
        ends.append(values(model))
    plainly, masked = ends
    assert [name for name in plainly if not torch.equal(plainly[name], masked[name])] == []
    return plainly
