import numpy as np
import pytest
import torch

from fedmrn.data import augment
from fedmrn.data.augmentation import offsets
from fedmrn.numerics.rng import Stream

STREAM = Stream(key=0x0123456789ABCDEF, domain=5 << 32)


def slow(image: torch.Tensor, word: int, fill: torch.Tensor, padding: int) -> torch.Tensor:
    """One image, pixel by pixel, from the definition."""
    places = 2 * padding + 1
    pick = word * 2 * places * places >> 32
    flip, place = pick % 2, pick // 2
    top, left = place // places, place % places
    channels, height, width = image.shape
    out = torch.empty_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row = y + top - padding
                column = (width - 1 - x if flip else x) + left - padding
                inside = 0 <= row < height and 0 <= column < width
                out[c, y, x] = image[c, row, column] if inside else fill[c, 0, 0]
    return out


@pytest.mark.parametrize(("shape", "padding"), [((12, 3, 8, 8), 4), ((6, 1, 5, 7), 2), ((4, 2, 3, 3), 0)])
def test_against_the_slow_oracle(shape, padding):
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = batch.clone()
    fill = torch.arange(shape[1], dtype=torch.float32).view(-1, 1, 1) + 10
    found = augment(batch, STREAM, 1000, fill=fill, padding=padding)
    words = STREAM.words(1000, 1000 + shape[0]).tolist()
    for image, result, word in zip(batch, found, words, strict=True):
        assert torch.equal(result, slow(image, word, fill, padding))
    assert torch.equal(batch, before)


def test_default_is_padding_4_with_zeros():
    batch = torch.ones(64, 3, 32, 32)
    assert torch.equal(augment(batch, STREAM, 7), augment(batch, STREAM, 7, fill=0.0, padding=4))
    assert (augment(batch, STREAM, 7) == 0).any()


def test_the_split_into_batches_does_not_matter():
    batch = torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = augment(batch, STREAM, 300)
    pieces = [augment(batch[a:b], STREAM, 300 + a) for a, b in ((0, 1), (1, 30), (30, 50))]
    assert torch.equal(torch.cat(pieces), whole)
    assert not torch.equal(augment(batch, STREAM, 301), whole)
    assert not torch.equal(augment(batch, Stream(STREAM.key, 1), 300), whole)


def test_memory_format_does_not_matter():
    batch = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(augment(batch.to(memory_format=torch.channels_last), STREAM, 0), augment(batch, STREAM, 0))


def test_offsets_of_chosen_words():
    # 162 outcomes: word 0 is the first, the largest word the last; one outcome spans 2^32 / 162 words.
    step = (1 << 32) / 162
    words = np.array([0, int(step) + 1, int(2 * step) + 1, int(18 * step) + 1, (1 << 32) - 1], np.uint32)
    top, left, flip = offsets(words)
    assert top.tolist() == [0, 0, 0, 1, 8]
    assert left.tolist() == [0, 0, 1, 0, 8]
    assert flip.tolist() == [False, True, False, False, True]


def test_outcomes_are_uniform():
    n = 162 * 1000
    top, left, flip = offsets(STREAM.words(0, n))
    counts = np.bincount((top * 9 + left) * 2 + flip, minlength=162)
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    # 161 degrees of freedom: mean 161, standard deviation 17.9; five of them on each side.
    assert 71 < chi2 < 251


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="needs images"):
        augment(torch.zeros(3, 8, 8), STREAM, 0)
    with pytest.raises(ValueError, match="padding"):
        augment(torch.zeros(1, 3, 8, 8), STREAM, 0, padding=-1)
    with pytest.raises(ValueError, match="start"):
        augment(torch.zeros(1, 3, 8, 8), STREAM, -1)


def test_an_empty_batch_stays_empty():
    assert augment(torch.zeros(0, 3, 8, 8), STREAM, 5).shape == (0, 3, 8, 8)
