"""What training minimises and what evaluation reports, by task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the mean over a batch."""
IGNORED = 255
"""The class of pixels that neither loss nor score counts."""


@dataclass(frozen=True)
class Objective:
    """A loss, and a score that is counted batch by batch.

    Attributes:
        loss: what training minimises.
        count: (outputs, targets) -> int64 tensor; those of all batches are added.
        value: of that sum: the score, in [0, 1].
        batch: samples that are evaluated at a time.
    """

    loss: Loss
    count: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], float]
    batch: int = 1000


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Right answers, and all."""
    right = (outputs.argmax(1) == targets).sum()
    return torch.stack((right, torch.full_like(right, len(targets))))


def _share(counts: Tensor) -> float:
    right, total = counts.tolist()
    return float(right / total)


def pixel_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross entropy of the pixels that are not IGNORED; 0 if all are.

    Args:
        outputs: float, shape (n, classes, height, width).
        targets: classes of pixels, integers, shape (n, height, width).
    """
    classes = targets.long()
    total = F.cross_entropy(outputs, classes, ignore_index=IGNORED, reduction="sum")
    return total / (classes != IGNORED).sum().clamp(min=1)


def _confusion(outputs: Tensor, targets: Tensor) -> Tensor:
    """Pixels by true and by predicted class, shape (classes, classes)."""
    classes, counted = outputs.shape[1], targets != IGNORED
    cells = targets[counted].long() * classes + outputs.argmax(1)[counted]
    return torch.bincount(cells, minlength=classes**2).view(classes, classes)


def _mean_iou(confusion: Tensor) -> float:
    """Mean, over the classes that occur in targets or predictions, of intersection over union."""
    both = confusion.diagonal()
    either = confusion.sum(0) + confusion.sum(1) - both
    occurs = either > 0
    return float((both[occurs].double() / either[occurs]).mean()) if bool(occurs.any()) else 0.0


CLASSES = Objective(F.cross_entropy, _right, _share)
OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "images": CLASSES,
        "text": CLASSES,
        "sentences": replace(CLASSES, batch=128),
        "segmentation": Objective(pixel_loss, _confusion, _mean_iou, batch=32),
        "samples": CLASSES,
    }
)
"""By task (a key of `fedmrn.data.SCORES`, which names the scores)."""
