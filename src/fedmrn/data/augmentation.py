"""Random crop and horizontal flip of a whole batch at once, from a stream of random words.

One word an image decides everything: it is scaled to one of 2 * (2 * padding + 1)^2 equally likely outcomes
(top, left, flip). Image i takes word i of the stream, so the same image of the same step is cut in the same
way however a batch is split, and any step can be repeated alone.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmrn.numerics.rng import Stream

_PAD = 4


def offsets(
    words: NDArray[np.uint32], padding: int = _PAD
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the crop and flip that each random word stands for: top and left (0 to 2 * padding), flip or not.

    The map floor(word * outcomes / 2^32) is uniform up to a relative 2^-32 * outcomes (4e-8 for padding 4).
    """
    places = 2 * padding + 1
    pick = (words.astype(np.uint64) * np.uint64(2 * places * places) >> np.uint64(32)).astype(np.int64)
    return pick // 2 // places, pick // 2 % places, pick % 2 == 1


def augment(batch: Tensor, stream: Stream, start: int, *, fill: Tensor | float = 0.0, padding: int = _PAD) -> Tensor:
    """Pad each image on all sides, cut a window of the old size at a random place, and flip half of them.

    Source: the setting of the published CIFAR experiments (padding 4, flip with probability 1/2).

    Args:
        batch: images, float32, shape (n, channels, height, width), on any device; not changed.
        stream: where the random words come from.
        start: the index of the batch's first image in the stream; image i uses word start + i.
        fill: what padding is made of, a number or a tensor that broadcasts to (channels, height, width). For
            images that are normalised already this is the data set's `black()`.
        padding: pixels added to each side, 0 or more.

    Returns:
        A new tensor of the batch's shape, type and device.

    Raises:
        ValueError: if the batch is not of four dimensions, or `start` or `padding` is negative.
    """
    if batch.ndim != 4 or padding < 0:
        raise ValueError(f"augment needs images (n, c, h, w) and padding >= 0, got {tuple(batch.shape)}, {padding}")
    count, channels, height, width = batch.shape
    top, left, flip = offsets(stream.words(start, start + count), padding)
    column = np.arange(width)
    columns = left[:, None] + np.where(flip[:, None], column[::-1], column)
    rows = top[:, None] + np.arange(height)
    pixels = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).reshape(count, 1, height * width)

    padded = batch.new_empty(count, channels, height + 2 * padding, width + 2 * padding)
    padded[:] = torch.as_tensor(fill, dtype=batch.dtype, device=batch.device)
    padded[:, :, padding : padding + height, padding : padding + width] = batch
    index = torch.from_numpy(pixels).to(batch.device).expand(count, channels, height * width)
    return padded.flatten(2).gather(2, index).view(batch.shape)
