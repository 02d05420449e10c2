"""Losses and scores of the tasks, against loops over pixels."""

import math
import pickle
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.data import SCORES, Task, voc
from fedmrn.torch import evaluate
from fedmrn.torch.objectives import IGNORED, OBJECTIVES, pixel_loss

PIXELS = OBJECTIVES["segmentation"]


def maps(n: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits of five classes, and classes of pixels of which 4 never occurs and some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (n, 3, 6), generator=generator).to(torch.uint8)
    y[torch.rand(y.shape, generator=generator) < 0.2] = IGNORED
    return torch.randn(n, 5, 3, 6, generator=generator), y


def test_the_ignored_class_is_that_of_the_files() -> None:
    assert IGNORED == voc.IGNORED


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    out, y = maps()
    terms = []
    for i, row, column in np.ndindex(*y.shape):
        if y[i, row, column] != IGNORED:
            logits = out[i, :, row, column].double()
            terms.append(float(torch.logsumexp(logits, 0) - logits[int(y[i, row, column])]))
    assert float(pixel_loss(out, y)) == pytest.approx(math.fsum(terms) / len(terms), rel=1e-5)


def test_without_a_pixel_that_counts_the_loss_is_zero_and_moves_nothing() -> None:
    out = torch.randn(2, 5, 3, 6, requires_grad=True)
    loss = pixel_loss(out, torch.full((2, 3, 6), IGNORED, dtype=torch.uint8))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0
    assert out.grad is not None
    assert not out.grad.any()


def iou(out: Tensor, y: Tensor) -> float:
    """Mean intersection over union, from the sets of pixels."""
    predicted, found = out.argmax(1), []
    for label in range(out.shape[1]):
        mine = {i for i in np.ndindex(*y.shape) if y[i] != IGNORED and predicted[i] == label}
        true = {i for i in np.ndindex(*y.shape) if y[i] == label}
        if mine | true:
            found.append(len(mine & true) / len(mine | true))
    return math.fsum(found) / len(found)


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_mean_iou_is_that_of_all_pixels_together(batch_size: int | None) -> None:
    """Not the mean of the batches' values."""
    out, y = maps()
    score, _ = evaluate(nn.Identity(), out, y, batch_size=batch_size, objective=PIXELS)
    assert score == pytest.approx(iou(out, y), rel=1e-12)


def test_classes_that_occur_nowhere_do_not_count() -> None:
    y = torch.zeros(1, 1, 4, dtype=torch.uint8)
    perfect = F.one_hot(y.long(), 5).permute(0, 3, 1, 2).float()
    assert evaluate(nn.Identity(), perfect, y, objective=PIXELS)[0] == 1
    assert evaluate(nn.Identity(), perfect.flip(1), y, objective=PIXELS)[0] == 0
    assert evaluate(nn.Identity(), perfect, torch.full_like(y, IGNORED), objective=PIXELS)[0] == 0


@pytest.mark.parametrize("task", ["images", "text"])
def test_accuracy_is_the_share_of_right_answers(task: str) -> None:
    x, y = torch.eye(5)[[0, 1, 2, 3, 4, 0, 1]], torch.tensor([0, 1, 2, 0, 0, 0, 2])
    assert evaluate(nn.Identity(), x, y, batch_size=3, objective=OBJECTIVES[task])[0] == 4 / 7


def test_every_task_has_an_objective_and_a_score_with_a_name() -> None:
    assert OBJECTIVES.keys() == SCORES.keys() == set(get_args(Task))


@pytest.mark.parametrize("task", OBJECTIVES)
def test_it_can_be_sent_to_a_worker(task: str) -> None:
    assert pickle.loads(pickle.dumps(OBJECTIVES[task])) == OBJECTIVES[task]  # noqa: S301
