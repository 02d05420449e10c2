"""FedMRN in one file: the algorithm as the paper writes it, in plain PyTorch, dense and unoptimised.

Li et al., "Masked Random Noise for Communication-Efficient Federated Learning", ACM MM 2024, sections 3 and 4,
Algorithm 1. A model is a dict of float tensors. One round:

    server   sends the model w, and a seed to each client
    client   makes the noise n from its seed; its update u is 0 at first. In local step tau of S:
                 p   = clip(u / n, 0, 1), or clip((u / n + 1) / 2, 0, 1) for signed masks
                 SM  = n m, where m is 1 with probability p, otherwise 0 (signed: -1)      stochastic masking
                 PSM = SM with probability q = tau / S, otherwise u clipped to SM's range  progressive masking
                 u  <- u - lr * gradient of the loss at w + PSM                            straight through
             sends one more mask m of u, drawn afresh: one bit a parameter
    server   makes every n again from its seed; w <- w + weighted mean of n m

This is what the library is tested against. It shares the library's random numbers (`fedmrn.numerics`) and nothing else,
so that results can be compared. `python -m fedmrn.reference` trains ten clients on handwritten digits.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain

Tensors = dict[str, Tensor]
Loss = Callable[[Tensors, Tensor, Tensor], Tensor]
"""(weights, inputs, targets) -> the mean loss of a batch, differentiable in the weights."""


@dataclass(frozen=True)
class Masking:
    """How updates are masked: the law of the noise, the kind of mask, and which of the two parts of PSM are used."""

    noise: NoiseSpec
    signed: bool = False
    progressive: bool = True
    stochastic: bool = True


@dataclass(frozen=True)
class MaskUpdate:
    """What a client sends: the noise's seed, masks of 0 and 1 (signed: -1 and 1), and changes of unmasked tensors.

    `weight` is the client's share in the mean, such as its number of samples.
    """

    seed: int
    masks: Tensors
    changes: Tensors
    weight: int


def shaped(flat: NDArray[np.float32], like: Tensors) -> Tensors:
    """Cut a flat vector into tensors with the names, shapes and dtypes of `like`, in its order."""
    parts = torch.split(torch.from_numpy(flat), [t.numel() for t in like.values()])
    return {name: part.view(t.shape).to(t.dtype) for (name, t), part in zip(like.items(), parts, strict=True)}


def seeded_noise(spec: NoiseSpec, seed: int, like: Tensors) -> Tensors:
    """Return the noise n of a 64-bit seed; client and server make the same."""
    return shaped(spec.chunk(seed, 0, sum(t.numel() for t in like.values())), like)


class LocalTraining:
    """A client's round: train u through the mask with plain SGD, then draw the mask that is sent.

    Args:
        w: the model that the server sent. The result has its dtype: float64 to compare with, float32 to imitate.
        masked: names of the tensors whose updates are masked; the others (of batch norm, say) are trained as usual.
        loss: of the model.
        masking: how updates are masked.
        seed: of the noise, from the server.
        key: 64 bits that only the client knows; its masks are drawn from them.
        steps: S.
        lr: the learning rate, of u and of the tensors that are not masked.
    """

    def __init__(
        self,
        w: Tensors,
        masked: Sequence[str],
        loss: Loss,
        masking: Masking,
        *,
        seed: int,
        key: int,
        steps: int,
        lr: float,
    ) -> None:
        self.w, self.loss, self.masking, self.key, self.steps, self.lr = w, loss, masking, key, steps, lr
        self.u = {name: torch.zeros_like(w[name]) for name in masked}
        self.n, self.seed = seeded_noise(masking.noise, seed, self.u), seed
        self.unmasked = {name: value for name, value in w.items() if name not in self.u}

    def uniforms(self, purpose: Purpose, step: int = 0) -> Tensors:
        """Draw r, uniform in [0, 1), for each masked element."""
        drawn = Stream(self.key, domain(purpose, step)).uniform(0, sum(u.numel() for u in self.u.values()))
        return shaped(drawn, self.u)

    def probability(self, name: str) -> Tensor:
        """Return p, the probability with which an element of the mask is 1."""
        ratio = self.u[name] / self.n[name]
        return ((ratio + 1) / 2 if self.masking.signed else ratio).clamp(0, 1)

    def mask(self, name: str, r: Tensor, q: float = 1.0) -> Tensor:
        """Return m for r uniform in [0, q): 1 with probability p, otherwise 0 (signed: -1)."""
        p = self.probability(name)
        ones = r < q * p if self.masking.stochastic else p >= 0.5
        return 2.0 * ones - 1 if self.masking.signed else 1.0 * ones

    def q(self, tau: int) -> float:
        """Return the share of elements that are masked in step tau = 1..S."""
        return tau / self.steps if self.masking.progressive else 1.0

    def masked_update(self, tau: int) -> Tensors:
        """Return PSM(u) for step tau. One draw r decides both: whether to mask (r < q) and to what (r < q p)."""
        q, r, lowest = self.q(tau), self.uniforms(Purpose.TRAIN_MASK, tau), -1 if self.masking.signed else 0
        psm = {}
        for name, n in self.n.items():
            masked = n * self.mask(name, r[name], q)
            clipped = (self.u[name] / n).clamp(lowest, 1) * n
            psm[name] = torch.where(r[name] < q, masked, clipped)
        return psm

    def step(self, psm: Tensors, x: Tensor, y: Tensor) -> None:
        """Take a step of SGD. The gradient at w + PSM(u) is taken for that of u: straight through the mask."""
        at = self.unmasked | {name: self.w[name] + psm[name] for name in self.u}
        leaves = {name: value.detach().requires_grad_() for name, value in at.items()}
        gradients = torch.autograd.grad(self.loss(leaves, x, y), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            moved = self.u if name in self.u else self.unmasked
            moved[name] = moved[name] - self.lr * gradient

    def final_masks(self) -> Tensors:
        """Draw the masks that are sent: SM of u, afresh, and not the masks last trained with."""
        r = self.uniforms(Purpose.FINAL_MASK)
        return {name: self.mask(name, r[name]) for name in self.u}

    def run(self, batches: Iterable[tuple[Tensor, Tensor]], *, weight: int) -> MaskUpdate:
        """Train on S batches and return what the client sends."""
        for tau, (x, y) in enumerate(batches, 1):
            self.step(self.masked_update(tau), x, y)
        changes = {name: value - self.w[name] for name, value in self.unmasked.items()}
        return MaskUpdate(self.seed, self.final_masks(), changes, weight)


def next_model(w: Tensors, updates: Sequence[MaskUpdate], spec: NoiseSpec) -> Tensors:
    """Return the server's next model: w + the weighted mean of the clients' n m, and of their changes."""
    total = sum(update.weight for update in updates)
    result = dict(w)
    for update in updates:
        n = seeded_noise(spec, update.seed, update.masks)
        changes = update.changes | {name: n[name] * m for name, m in update.masks.items()}
        for name, change in changes.items():
            result[name] = result[name] + update.weight / total * change
    return result


def train_on_digits(rounds: int = 6, clients: int = 10, epochs: int = 2, batch: int = 32, lr: float = 0.5) -> None:
    """Train a small network on digits, with binary and with signed masks, and print the accuracy after each round."""
    from sklearn.datasets import load_digits  # a second to import, and only this example needs it

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels)
    test = torch.arange(len(x)) % 4 == 0
    parts = [torch.arange(len(x))[~test][first::clients] for first in range(clients)]

    def outputs(weights: Tensors, inputs: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(inputs, weights["hidden"])), weights["out"])

    def loss(weights: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs(weights, inputs), targets)

    for masking in (Masking(NoiseSpec(Law.UNIFORM, 0.1)), Masking(NoiseSpec(Law.UNIFORM, 0.05), signed=True)):
        torch.manual_seed(1)
        w = {"hidden": torch.randn(64, 64) / 8, "out": torch.randn(10, 64) / 8}
        print(f"{'signed' if masking.signed else 'binary'} masks, {clients} clients, one bit a parameter each round")
        for number in range(1, rounds + 1):
            updates = []
            for client, part in enumerate(parts):
                seed, key = (derive_key(1, purpose, number, client) for purpose in ("noise", "masks"))
                orders = (Stream(key, domain(Purpose.SHUFFLE, e)).permutation(len(part)) for e in range(epochs))
                batches = [part[i] for order in orders for i in torch.split(torch.from_numpy(order), batch)]
                training = LocalTraining(w, list(w), loss, masking, seed=seed, key=key, steps=len(batches), lr=lr)
                updates.append(training.run(((x[i], y[i]) for i in batches), weight=len(part)))
            w = next_model(w, updates, masking.noise)
            accuracy = (outputs(w, x[test]).argmax(1) == y[test]).float().mean()
            print(f"round {number}: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    train_on_digits()
