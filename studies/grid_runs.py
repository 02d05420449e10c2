"""Federated ridge regression whose clients train from a model on a grid, in plain numpy, many runs at once.

The server keeps w in full precision. Clients train from the public model v = w0 + step * k, k whole numbers, and the
server adds the mean of their updates to w. Runs of one call share the clients, batches, noise and dice of their seed,
so that their differences are those of the grid. Data, client sampling and batches are those of studies/federations.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from federations import BATCH, CLIENTS, L2, SAMPLES, STEPS, TAKE_PART, Problem, Schedule
from numpy.typing import NDArray

F64 = NDArray[np.float64]
WINDOW = 50
"""Rounds between two looks at whether w still moves."""


@dataclass(frozen=True)
class Grid:
    """How a server makes the public model.

    Attributes:
        step: between points of the grid in the first round; 0 for an exact broadcast.
        hysteresis: h; k moves where (w - w0) / step is more than 1/2 + h from it.
        state: "kept" in full precision, "rounded" to the grid after every round, or rounded "at random", unbiased.
        shrinks: "never"; with the "rate" of learning or its "root", to the power of two below; or by half "on stall":
            where the root mean square of w's move over the last 50 rounds is below the step.
    """

    step: float
    hysteresis: float = 0.0
    state: str = "kept"
    shrinks: str = "never"


EXACT = Grid(0.0)


@dataclass(frozen=True)
class Clients:
    """How clients make updates.

    Attributes:
        rate: the learning rate of a round, from 1.
        mask: None for the update itself (FedAvg), "binary" or "signed" for FedMRN with progressive masking.
        room: the Bernoulli noise of a mask is +-room * local steps * rate.
        whole: all clients take part and use gradients of all their samples: no dice, but for those of masks.
    """

    rate: Schedule
    mask: str | None = None
    room: float = 0.0
    whole: bool = False


class _Public:
    """The grids of several runs and seeds; arrays have shape (seeds, features, runs)."""

    def __init__(self, grids: Sequence[Grid], w0: F64, first_rate: float) -> None:
        self.grids, self.w0, self.first_rate = grids, w0, first_rate
        self.step = np.broadcast_to([g.step for g in grids], (len(w0), 1, len(grids))).astype(np.float64)
        self.k, self.seen = np.zeros_like(w0), w0
        self.exact = self._where(lambda g: g.step == 0)
        self.room = 0.5 + np.array([g.hysteresis for g in grids])

    def _where(self, chosen: Callable[[Grid], bool]) -> NDArray[np.bool_]:
        return np.array([chosen(g) for g in self.grids])

    def refine(self, r: int, rate: float, w: F64) -> None:
        """Shrink the steps before round r; k doubles where a step is halved, so that v stays where it is."""
        share = rate / self.first_rate
        power = {"rate": 1.0, "root": 0.5}
        new = self.step.copy()
        for j, grid in enumerate(self.grids):
            if grid.shrinks in power:
                new[:, :, j] = np.exp2(np.floor(np.log2(grid.step * share ** power[grid.shrinks])))
        if r % WINDOW == 0:
            moved = np.sqrt(np.square(w - self.seen).mean(1, keepdims=True))
            halved = self._where(lambda g: g.shrinks == "on stall") & (moved < self.step)
            new, self.seen = np.where(halved, self.step / 2, new), w
        self.k *= np.divide(self.step, new, out=np.ones_like(new), where=new > 0)
        self.step = new

    def of(self, w: F64) -> F64:
        """Return the public models of states."""
        x = self._whole(w)
        self.k = np.where(np.abs(x - self.k) > self.room, np.rint(x), self.k)
        return np.where(self.exact, w, self.w0 + self.step * self.k)

    def kept(self, w: F64, dice: F64) -> F64:
        """Return what servers keep of their states; `dice` in [0, 1) are for those that round at random."""
        x = self._whole(w)
        w = np.where(self._where(lambda g: g.state == "rounded"), self.w0 + self.step * np.rint(x), w)
        return np.where(self._where(lambda g: g.state == "at random"), self.w0 + self.step * np.floor(x + dice), w)

    def _whole(self, w: F64) -> F64:
        return np.divide(w - self.w0, self.step, out=np.zeros_like(w), where=self.step > 0)


def start(problem: Problem, seed: int) -> F64:
    """Return w0, the origin of the grid: within half a unit of the problem's start, so that grids differ by seed."""
    return problem.start + np.random.default_rng([9, seed]).uniform(-0.5, 0.5, problem.start.size)


Gradients = Callable[[int, F64], F64]
"""(local step, weights of shape (seeds, clients, features, grids)) -> gradients of the clients' losses, same shape."""


def _whole_gradients(problem: Problem) -> Gradients:
    """All clients' gradients of all their samples."""
    x, y = problem.x.double().numpy(), problem.y.double().numpy()[..., None]
    hessians, linear = clients_hessians(problem), np.swapaxes(x, 1, 2) @ y / SAMPLES
    return lambda _, weights: hessians @ weights - linear


def _batch_gradients(problem: Problem, sampling: Sequence[np.random.Generator]) -> Gradients:
    """The gradients of a round's clients at a round's batches, drawn as `federations.run` draws them."""
    xs, ys = problem.x.double().numpy(), problem.y.double().numpy()
    chosen, batches = [], []
    for generator in sampling:
        chosen.append(generator.choice(CLIENTS, TAKE_PART, replace=False))
        batches.append(generator.integers(0, SAMPLES, (TAKE_PART, STEPS, BATCH)))
    at = np.stack(chosen)[:, :, None, None], np.stack(batches)
    x, y = xs[at], ys[at][..., None]

    def gradients(s: int, weights: F64) -> F64:
        x_s, y_s = x[:, :, s], y[:, :, s]
        found: F64 = np.swapaxes(x_s, 2, 3) @ (x_s @ weights - y_s) / BATCH + L2 * weights
        return found

    return gradients


def _updates(clients: Clients, rate: float, gradients: Gradients, v: F64, dice: F64) -> F64:
    """Return what clients hand over, shape (seeds, clients, features, grids), as fedmrn/reference.py makes it.

    `dice` in [0, 1): shape (seeds, 2 + local steps, clients, features, 1), the first for the noise, the last for the
    mask that is sent.
    """
    start = v[:, None].repeat(dice.shape[2], 1)
    u = np.zeros_like(start)
    n = clients.room * STEPS * rate * np.where(dice[:, 0] < 0.5, -1.0, 1.0)
    for s in range(STEPS):
        at = start + (u if clients.mask is None else masked(clients.mask, u, n, dice[:, 1 + s], (s + 1) / STEPS))
        u = u - rate * gradients(s, at)
    return u if clients.mask is None else masked(clients.mask, u, n, dice[:, 1 + STEPS], 1.0)


def masked(mask: str, u: F64, n: F64, r: F64, q: float) -> F64:
    """Return n times a mask where r < q, elsewhere the clipped update."""
    least = -1.0 if mask == "signed" else 0.0
    ratio = np.clip(u / n, least, 1)
    ones = r < q * (ratio - least) / (1 - least)
    return np.where(r < q, n * np.where(ones, 1.0, least), n * ratio)


def run(
    problem: Problem, clients: Clients, grids: Sequence[Grid], rounds: int, seeds: Sequence[int]
) -> Iterator[tuple[F64, F64]]:
    """Yield w and v before the first round, and after each; arrays of shape (seeds, features, grids)."""
    w = np.stack([start(problem, seed) for seed in seeds])[:, :, None].repeat(len(grids), 2)
    public = _Public(grids, w, clients.rate(1))
    sampling = [np.random.default_rng([4, seed]) for seed in seeds]
    dice = [np.random.default_rng([8, seed]) for seed in seeds]
    shape = (STEPS + 3, CLIENTS if clients.whole else TAKE_PART, w.shape[1])
    exact = _whole_gradients(problem)
    v = public.of(w)
    yield w, v
    for r in range(1, rounds + 1):
        gradients = exact if clients.whole else _batch_gradients(problem, sampling)
        drawn = np.stack([generator.random(shape) for generator in dice])[..., None]
        w = public.kept(w + _updates(clients, clients.rate(r), gradients, v, drawn).mean(1), drawn[:, -1, 0])
        public.refine(r + 1, clients.rate(r + 1), w)
        v = public.of(w)
        yield w, v


def gaps(problem: Problem, w: F64) -> F64:
    """Return how far the loss is above its optimum at models of shape (seeds, features, grids)."""
    best = problem.optimum[0]
    root = np.linalg.cholesky(problem.hessian(best)).T
    found: F64 = np.square(root @ (w - best[:, None])).sum(1) / 2
    return found


def clients_hessians(problem: Problem) -> F64:
    """Return the Hessians of the clients' losses, shape (clients, features, features)."""
    x = problem.x.double().numpy()
    found: F64 = np.swapaxes(x, 1, 2) @ x / SAMPLES + L2 * np.eye(x.shape[2])
    return found
