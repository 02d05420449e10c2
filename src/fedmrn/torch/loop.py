"""How a client trains: one record of settings, the training loop that every method's clients run, and evaluation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError
from fedmrn.methods.optimizers import LOCAL_OPTIMIZERS
from fedmrn.numerics.rng import Purpose, Stream, domain
from fedmrn.text import nearest
from fedmrn.torch.fast.graphs import StepGraphs
from fedmrn.torch.internals import without_compiler
from fedmrn.torch.objectives import CLASSES, Loss, Objective
from fedmrn.torch.rules.base import LocalRule
from fedmrn.wire.frame import Frame

Augment = Callable[[Tensor, Stream, int], Tensor]
"""(batch, randomness, index of its first element in the epoch) -> batch."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a client trains locally; the same for all clients of a federation.

    Attributes:
        local_epochs: E, how often a client goes through its samples.
        batch_size: B; the last batch of an epoch may be smaller.
        optimizer: its name, sgd, adam or adamw.
        lr: the optimizer's learning rate.
        weight_decay: the optimizer's, on all trained parameters.
        loss: of a batch's outputs and targets; a mean over the batch.
        by_batches: weight clients by batches an epoch instead of samples (the published code).
        augment: applied to each batch.
        channels_last: on a CPU, give batches of images channels-last strides, which is faster there; for models that
            do not call `view` on what they get.
        bfloat16: run forward and loss under torch's bfloat16 autocast; parameters, gradients and the optimizer stay
            float32. It is faster on processors with bfloat16 arithmetic, and slower on others.
        statistics: samples that a client forwards once more after training, for the statistics of normalisation layers
            (`LocalRule.refresh_statistics`), at most; 0: none, so that those of training's last batches are sent.
        graphs: on CUDA, capture steps of plain SGD and replay them (`fedmrn.torch.fast.graphs`).

    Raises:
        ConfigError: less than one epoch or one sample a batch, or an optimizer that does not exist.
    """

    local_epochs: int = 1
    batch_size: int = 32
    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 0.0
    loss: Loss = F.cross_entropy
    by_batches: bool = False
    augment: Augment | None = None
    channels_last: bool = False
    bfloat16: bool = False
    statistics: int = 256
    graphs: bool = True

    def __post_init__(self) -> None:
        if self.local_epochs < 1 or self.batch_size < 1:
            raise ConfigError(
                f"a client needs at least one local epoch and one sample a batch, got local_epochs = "
                f"{self.local_epochs} and batch_size = {self.batch_size}"
            )
        if self.statistics < 0:
            raise ConfigError(f"statistics is a number of samples, 0 for none; got {self.statistics}")
        if self.optimizer not in LOCAL_OPTIMIZERS:
            hint = nearest(self.optimizer, LOCAL_OPTIMIZERS)
            raise ConfigError(f"optimizer {self.optimizer!r} does not exist{hint}")

    def batches(self, samples: int) -> int:
        """Return the batches an epoch of a client with so many samples."""
        return -(-samples // self.batch_size)

    def steps(self, samples: int) -> int:
        """Return S = E * batches, the local steps of a client with so many samples."""
        return self.local_epochs * self.batches(samples)

    def weight(self, samples: int) -> int:
        """Return the weight in the mean of a client with so many samples."""
        return self.batches(samples) if self.by_batches else samples

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimizer over a model's trained parameters; its steps are not to be compiled."""
        kind: Callable[..., torch.optim.Optimizer] = without_compiler(
            getattr(torch.optim, LOCAL_OPTIMIZERS[self.optimizer])
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        return kind(trained, lr=self.lr, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class LocalData:
    """One client's samples, and the key of their order.

    Attributes:
        x: inputs, the first axis being samples.
        y: targets.
        key: 64-bit key of the order of samples and of augmentation.

    Raises:
        ConfigError: without samples, or with another number of targets.
    """

    x: Tensor
    y: Tensor
    key: int

    def __post_init__(self) -> None:
        if len(self.x) < 1:
            raise ConfigError("a client needs at least one sample")
        if len(self.x) != len(self.y):
            raise ConfigError(f"a client has {len(self.x)} samples and {len(self.y)} targets")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.x)


def train(
    model: nn.Module,
    rule: LocalRule,
    data: LocalData,
    training: Training,
    *,
    graphs: StepGraphs | None = None,
) -> float:
    """Train one client for training.steps(len(data)) steps; return the mean loss of its last epoch.

    The same model, broadcast, data and keys give the same result, but for the arithmetic of the framework itself,
    which may depend on its number of threads.

    Args:
        model: any module, on the rule's device; the samples are moved there once.
        rule: attached to the model.
        data: the client's samples.
        training: how it trains; `optimizer` and `lr` are not looked at: the rule has its optimizer.
        graphs: capture steps of plain SGD and replay them, for this client and the next ones that it is passed for;
            other rules and optimizers are trained as without.
    """
    model.train()
    device = rule.view.device
    samples, targets = data.x.to(device), data.y.to(device)
    total = torch.zeros((), dtype=torch.float64, device=device)
    if graphs is not None:
        rule.place(graphs.kept)
        total = graphs.kept.setdefault("total", total)
    loss, augment, size = training.loss, training.augment, training.batch_size
    reorder = training.channels_last and device.type == "cpu"

    def learn(x: Tensor, y: Tensor) -> None:
        rule.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bfloat16):
            value = loss(model(x), y)
        value.backward()
        total.add_(value.detach().double() * len(y))

    def learn_and_step(x: Tensor, y: Tensor) -> None:
        learn(x, y)
        rule.device_step()

    for epoch in range(training.local_epochs):
        order = torch.from_numpy(Stream(data.key, domain(Purpose.SHUFFLE, epoch)).permutation(len(data))).to(device)
        changes = Stream(data.key, domain(Purpose.AUGMENT, epoch))
        total.zero_()
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            x, y = samples[chosen], targets[chosen]
            if augment is not None:
                x = augment(x, changes, start)
            if reorder:
                x = channels_last(x)
            captured = None if graphs is None else rule.captured()
            if graphs is None or captured is None:
                learn(x, y)
                rule.step()
                continue
            rule.advance()
            tensors = tuple(t.data_ptr() for t in (*model.parameters(), *model.buffers()))
            graphs.run(learn_and_step, (model, loss, training.bfloat16, tensors, captured), x, y)
    return total.item() / len(data)


def refresh_statistics(model: nn.Module, rule: LocalRule, data: LocalData, training: Training) -> None:
    """Compute the statistics that a client sends anew, from `training.statistics` of its samples at most.

    They are taken as they are, without augmentation: so are those that a model is evaluated on.

    Args:
        model, rule, data, training: as for `train`, after it.

    Raises:
        EncodeError: they are not finite: training diverged.
    """
    if training.statistics:
        device, most = rule.view.device, min(len(data), training.statistics)
        batches = plain_batches(data, training, device, most=most, size=training.batch_size)
        rule.refresh_statistics(batches, forward_of(model, training, device))


def plain_batches(
    data: LocalData, training: Training, device: torch.device, *, most: int, size: int
) -> Iterator[Tensor]:
    """Yield `most` of a client's inputs without augmentation, in an order of their own, in batches of `size` at most.

    Batches are of one size, or differ by one: none has a single sample, which batch norm could not take, unless all do.
    """
    order = Stream(data.key, domain(Purpose.SHUFFLE, training.local_epochs)).permutation(len(data))
    chosen = torch.from_numpy(order[:most]).to(data.x.device)
    for part in chosen.tensor_split(-(-most // size)):
        x = data.x[part].to(device)
        yield channels_last(x) if training.channels_last and device.type == "cpu" else x


def forward_of(model: nn.Module, training: Training, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return what runs a model forward as in training: under autocast, where the training says so."""

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=training.bfloat16):
            out: Tensor = model(x)
        return out

    return forward


def train_client(
    model: nn.Module,
    rule: LocalRule,
    data: LocalData,
    training: Training,
    *,
    weight: int | None = None,
    graphs: StepGraphs | None = None,
) -> tuple[Frame, float]:
    """Train one client, and return its update frame and the mean loss of its last epoch.

    The running statistics that it sends are those of the weights that it sends (`refresh_statistics`).

    Args:
        model, rule, data, training, graphs: as for `train`.
        weight: of the client in the mean; by default what `training.weight` says.

    Raises:
        EncodeError: the update is not finite, or the weight is not positive.
    """
    mean = train(model, rule, data, training, graphs=graphs)
    refresh_statistics(model, rule, data, training)
    return rule.finish(weight=training.weight(len(data)) if weight is None else weight), mean


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
