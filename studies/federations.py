"""Small federations whose optimum is known, run by the library's own server, frames, codecs and clients.

Each loss is a mean over clients that differ. Strongly convex: ridge regression and logistic regression with an L2 term;
their optimum is found by Newton's method in float64 (for ridge one step of it, the closed form). Not convex: logistic
regression with the bounded penalty w^2 / (1 + w^2).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.codecs import Codec, MaskedNoise
from fedmrn.methods import method
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import derive_key
from fedmrn.server import Server
from fedmrn.server.rules import ServerRule
from fedmrn.torch import ModelLayout, attach
from fedmrn.wire.frame import Limits

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
CLIENTS, TAKE_PART, SAMPLES, BATCH, STEPS = 20, 4, 64, 8, 3
FEATURES = 16
L2 = 0.1
# Every client counts alike, and values stay small: the sum's resolution is far below what is measured.
LIMITS = Limits(max_weight=1, max_value=256.0)


@dataclass(frozen=True)
class Problem:
    """A loss and the clients' samples.

    Attributes:
        name: of the loss.
        x: float32, shape (clients, samples, features).
        y: float32, shape (clients, samples).
        build: makes the model, its weights of the flat vector at their start.
        fit: (outputs, targets) -> the mean loss of a batch, without the penalty.
        start: the flat vector that a run starts from.
        penalty: of one tensor of weights.
    """

    name: str
    x: Tensor
    y: Tensor
    build: Callable[[], nn.Module]
    fit: Callable[[Tensor, Tensor], Tensor]
    start: F32
    penalty: Callable[[Tensor], Tensor] | None = None

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, as a client minimises it."""
        value = self.fit(model(x).squeeze(-1), y)
        return value if self.penalty is None else value + sum(self.penalty(p) for p in model.parameters())

    def value_and_gradient(self, w: F32 | F64) -> tuple[float, F64]:
        """Return the loss of all clients together and its gradient, in float64."""
        model = self._exact
        at = 0
        for p in model.parameters():
            p.data = torch.from_numpy(np.asarray(w[at : at + p.numel()], np.float64).reshape(p.shape))
            at += p.numel()
        loss = self.loss(model, self.x.double().flatten(0, 1), self.y.double().flatten())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return loss.item(), torch.cat([g.reshape(-1) for g in gradients]).numpy()

    @cached_property
    def _exact(self) -> nn.Module:
        return self.build().double()

    @cached_property
    def optimum(self) -> tuple[F64, float]:
        """The minimum of a strongly convex loss, and its value: Newton's method until the gradient is rounding."""
        w = np.zeros(self.start.size)
        for _ in range(50):
            _, gradient = self.value_and_gradient(w)
            w -= np.linalg.solve(self.hessian(w), gradient)
        value, gradient = self.value_and_gradient(w)
        if np.abs(gradient).max() > 1e-13:
            raise ArithmeticError(f"{self.name}: Newton's method left a gradient of {np.abs(gradient).max():g}")
        return w, value

    def hessian(self, w: F64) -> F64:
        """Return the matrix of second derivatives of the loss of all clients together, for a linear model."""
        x, y = self.x.double().flatten(0, 1), self.y.double().flatten()

        def loss(v: Tensor) -> Tensor:
            return self.fit(x @ v, y) + (self.penalty(v) if self.penalty else 0)

        found: Tensor = torch.autograd.functional.hessian(loss, torch.from_numpy(w))
        return found.numpy()


def _inputs(generator: np.random.Generator) -> F64:
    """Features of unequal spread, so that the condition number is not one."""
    spread = np.linspace(1.0, 0.5, FEATURES)
    return generator.normal(size=(CLIENTS, SAMPLES, FEATURES)) * spread


def _tensor(values: F64) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def _linear() -> nn.Module:
    return nn.Linear(FEATURES, 1, bias=False)


def _l2(w: Tensor) -> Tensor:
    return L2 / 2 * (w * w).sum()


def _bounded(w: Tensor) -> Tensor:
    """A bounded penalty, not convex beyond |w| = 1 / sqrt(3)."""
    return L2 * (w * w / (1 + w * w)).sum()


def _half_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets) / 2


def ridge(seed: int = 0) -> Problem:
    """Linear regression; each client has weights of its own behind its targets."""
    generator = np.random.default_rng([1, seed])
    x = _inputs(generator)
    own = generator.normal(size=FEATURES) + 0.5 * generator.normal(size=(CLIENTS, FEATURES))
    y = np.einsum("ksf,kf->ks", x, own) + 0.5 * generator.normal(size=(CLIENTS, SAMPLES))
    return Problem("ridge", _tensor(x), _tensor(y), _linear, _half_squares, np.zeros(FEATURES, np.float32), _l2)


def logistic(seed: int = 0) -> Problem:
    """Logistic regression; each client has another border between the two classes."""
    generator = np.random.default_rng([2, seed])
    x = _inputs(generator)
    own = 2 * generator.normal(size=FEATURES) + generator.normal(size=(CLIENTS, FEATURES))
    odds = np.einsum("ksf,kf->ks", x, own)
    y = (generator.random(odds.shape) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    fit = F.binary_cross_entropy_with_logits
    return Problem("logistic", _tensor(x), _tensor(y), _linear, fit, np.zeros(FEATURES, np.float32), _l2)


def bounded(seed: int = 0) -> Problem:
    """Logistic regression with a penalty that is not convex, from weights where the whole loss is not."""
    start = np.random.default_rng([5, seed]).choice(np.array([-1, 1], np.float32), FEATURES)
    return replace(logistic(seed), name="bounded", start=start, penalty=_bounded)


Schedule = Callable[[int], float]
"""A round, from 1 -> a rate or a scale."""


@dataclass(frozen=True)
class Scaled(ServerRule):
    """FedAvg's rule; the scale of the noise follows the rounds, and reaches the clients in their templates."""

    scale: Schedule = lambda _: 1.0

    def codec(self, round: int, codec: Codec) -> Codec:
        """Return masked noise of this round's scale; any other codec as it is."""
        if not isinstance(codec, MaskedNoise):
            return codec
        return replace(codec, noise=NoiseSpec(codec.noise.law, self.scale(round)))


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        method: fedavg, fedmrn or fedmrn-s.
        rate: the learning rate of a round.
        scale: of the noise in a round.
        law: of the noise.
        progressive: whether masks come in step by step (PM).
    """

    method: str
    rate: Schedule
    scale: Schedule = lambda _: 1.0
    law: Law = Law.BERNOULLI
    progressive: bool = True


def run(problem: Problem, plan: Plan, rounds: int, seed: int) -> Iterator[F32]:
    """Yield the server's state before the first round, and after each; every update is a frame of bytes."""
    model = problem.build()
    row = method(plan.method)
    scheme = row.scheme({"noise": plan.law.name.lower(), "scale": 1.0} if "noise" in row.options else {})
    terms = {} if plan.progressive else {"progressive": False}
    scheme = replace(scheme, rule=Scaled(plan.scale), terms=terms)
    secret = derive_key(b"secret of a bench", "run", seed).to_bytes(16, "little")  # as written, for the same figures
    server = Server(
        ModelLayout.of(model).layout, scheme, problem.start, secret, run=bytes(16), clipping=None, limits=LIMITS
    )
    generator = np.random.default_rng([4, seed])
    yield server.state
    for r in range(1, rounds + 1):
        clients = generator.choice(CLIENTS, TAKE_PART, replace=False).tolist()
        batches = generator.integers(0, SAMPLES, (TAKE_PART, STEPS, BATCH))
        now = server.begin(r, clients)
        for client, chosen in zip(clients, batches, strict=True):
            sgd = torch.optim.SGD(model.parameters(), lr=plan.rate(r))
            key = derive_key(server.secret, "sampling", r, client)
            local = attach(model, sgd, now.broadcast(client), steps=STEPS, sampling_key=key, accept="any")
            for batch in chosen:
                local.zero_grad()
                problem.loss(model, problem.x[client, batch], problem.y[client, batch]).backward()
                local.step()
            now.add(client, local.finish(weight=1).to_bytes())
        yield now.finish()


def gaps(problem: Problem, states: Iterable[F32]) -> list[float]:
    """Return how far the loss is above its optimum, for each state."""
    least = problem.optimum[1]
    return [problem.value_and_gradient(w)[0] - least for w in states]


def mean_square_gradient(problem: Problem, states: Iterable[F32]) -> float:
    """Return the squared norm of the loss's gradient, the mean over the states but the last."""
    squares = [float(np.square(problem.value_and_gradient(w)[1]).sum()) for w in states]
    return float(np.mean(squares[:-1]))


def floor_of_clipping(problem: Problem, room: float, draws: int = 400) -> float:
    """Return how far above its optimum ridge regression stays with uniform noise, however small the step size.

    The scale is `room` times the local steps times the step size, as in studies/theory.py. For a step size near zero an
    update is minus the sum of gradients at one point, and a mask's mean |u| - |u|^2 / 2a with u's sign (for a binary
    mask, half of it); the point where the mean of all clients' is zero is found by walking along it.
    """
    generator = np.random.default_rng(6)
    w, a = problem.optimum[0].copy(), room * STEPS
    xs, ys = problem.x.double().numpy(), problem.y.double().numpy()
    for _ in range(60):
        moves = np.zeros((CLIENTS, w.size))
        for k, (x, y) in enumerate(zip(xs, ys, strict=True)):
            batch = generator.integers(0, SAMPLES, (draws, STEPS * BATCH))
            u = -np.einsum("ns,nsf->nf", x[batch] @ w - y[batch], x[batch]) / BATCH - STEPS * L2 * w
            size = np.abs(u)
            moves[k] = (np.sign(u) * np.where(size <= a, size - size**2 / (2 * a), a / 2)).mean(0)
        w += 0.2 * moves.mean(0)
    return problem.value_and_gradient(w)[0] - problem.optimum[1]
