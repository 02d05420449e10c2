"""THE training loop and evaluation: every method's clients run this code."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.torch.fast.graphs import StepGraphs
from fedmrn.torch.objectives import CLASSES, Loss, Objective
from fedmrn.torch.rules.base import LocalRule
from fedmrn.wire.frame import Frame

Augment = Callable[[Tensor, Stream, int], Tensor]
"""(batch, randomness, index of its first element in the epoch) -> batch."""


@dataclass(frozen=True)
class LocalData:
    """A client's samples and how it goes through them.

    Attributes:
        x: inputs, the first axis being samples.
        y: targets.
        epochs: E, local epochs.
        batch_size: B; the last batch of an epoch may be smaller.
        key: 64-bit key of the order of samples and of augmentation.
        augment: applied to each batch.
        channels_last: give batches of images channels-last strides, which is faster on a CPU; for models that do not
            call `view` on what they get.
        bfloat16: run forward and loss under torch's bfloat16 autocast; parameters, gradients and the optimiser stay
            float32. It is faster on processors with bfloat16 arithmetic, and slower on others.

    Raises:
        ConfigError: without samples, with another number of targets, or less than one epoch or one sample a batch.
    """

    x: Tensor
    y: Tensor
    epochs: int
    batch_size: int
    key: int
    augment: Augment | None = None
    channels_last: bool = False
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if len(self.x) < 1 or self.epochs < 1 or self.batch_size < 1:
            raise ConfigError("a client needs at least one sample, one local epoch and one sample a batch")
        if len(self.x) != len(self.y):
            raise ConfigError(f"a client has {len(self.x)} samples and {len(self.y)} targets")

    @property
    def batches(self) -> int:
        """Batches an epoch."""
        return -(-len(self.x) // self.batch_size)

    @property
    def steps(self) -> int:
        """S = E * batches."""
        return self.epochs * self.batches


def train(
    model: nn.Module,
    rule: LocalRule,
    data: LocalData,
    loss: Loss = F.cross_entropy,
    *,
    graphs: StepGraphs | None = None,
) -> float:
    """Train one client for data.steps steps; return the mean loss of its last epoch.

    The same model, broadcast, data and keys give the same result, but for the arithmetic of the framework itself,
    which may depend on its number of threads.

    Args:
        model: any module, on the rule's device; the samples are moved there once.
        rule: attached to the model.
        data: the client's samples.
        loss: of a batch's outputs and targets; a mean over the batch.
        graphs: capture steps of plain SGD and replay them, for this client and the next ones that it is passed for;
            other rules and optimisers are trained as without.
    """
    model.train()
    device = rule.view.device
    samples, targets = data.x.to(device), data.y.to(device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    if graphs is not None:
        rule.place(graphs.kept)
        total = graphs.kept.setdefault("total", total)

    def learn(x: Tensor, y: Tensor) -> None:
        rule.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=data.bfloat16):
            value = loss(model(x), y)
        value.backward()
        total.add_(value.detach().double() * len(y))

    def learn_and_move(x: Tensor, y: Tensor) -> None:
        learn(x, y)
        rule.device_step()

    for epoch in range(data.epochs):
        order = torch.from_numpy(Stream(data.key, domain(Purpose.SHUFFLE, epoch)).permutation(len(data.x))).to(device)
        changes = Stream(data.key, domain(Purpose.AUGMENT, epoch))
        total.zero_()
        for start in range(0, len(order), data.batch_size):
            chosen = order[start : start + data.batch_size]
            x, y = samples[chosen], targets[chosen]
            if data.augment is not None:
                x = data.augment(x, changes, start)
            if data.channels_last:
                x = channels_last(x)
            moves = None if graphs is None else rule.captured()
            if graphs is None or moves is None:
                learn(x, y)
                rule.step()
                continue
            rule.advance()
            tensors = tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
            graphs.run(learn_and_move, (model, loss, data.bfloat16, tensors, moves), x, y)
    return total.item() / len(data.x)


def train_client(
    model: nn.Module,
    rule: LocalRule,
    data: LocalData,
    *,
    weight: int | None = None,
    loss: Loss = F.cross_entropy,
    graphs: StepGraphs | None = None,
) -> tuple[Frame, float]:
    """Train, and return the update frame (weight: by default the number of samples) and the last epoch's mean loss."""
    mean = train(model, rule, data, loss, graphs=graphs)
    return rule.finish(weight=len(data.x) if weight is None else weight), mean


@torch.no_grad()
def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int | None = None,
    objective: Objective = CLASSES,
    layout: Callable[[Tensor], Tensor] = lambda batch: batch,
) -> tuple[float, float]:
    """Return (score in [0, 1], mean loss) of a model over all of x, in evaluation mode; by default of a classifier.

    The objective says how many samples make a batch, unless `batch_size` does. `layout` is applied to each batch;
    `channels_last` for a convolutional model. Samples are on the model's device.
    """
    model.eval()
    counts = torch.zeros((), dtype=torch.int64, device=x.device)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    size = batch_size or objective.batch
    for start in range(0, len(x), size):
        out = model(layout(x[start : start + size]))
        target = y[start : start + size]
        counts = counts + objective.count(out, target)
        total += objective.loss(out, target).double() * len(target)
    return objective.value(counts), total.item() / len(x)


def channels_last(x: Tensor) -> Tensor:
    """Return a batch of images with its channels last in memory (faster convolutions on a CPU); others as they are.

    The strides are set outright: for one channel torch takes either layout for the other and would copy nothing.
    """
    if x.dim() != 4:
        return x
    _, c, h, w = x.shape
    return x.contiguous(memory_format=torch.channels_last).as_strided(x.shape, (c * h * w, 1, c * w, c))
