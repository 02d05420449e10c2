"""The layouts of the vectors."""

from fedmrn.wire.layout import Group, Layout, TensorSpec

CODED, DENSE, STATS, VARIANCE = Group

LAYOUTS = {
    # More than two blocks of the generator's 1,024, no multiple of 8; a tensor without elements, one without
    # dimensions, and a name beyond ASCII.
    "small": Layout.of(
        [
            TensorSpec("conv.weight", (6, 3, 5, 5), CODED),
            TensorSpec("norm.weight", (9,), DENSE),
            TensorSpec("norm.bias", (9,), DENSE),
            TensorSpec("norm.running_mean", (9,), STATS),
            TensorSpec("norm.running_var", (9,), VARIANCE),
            TensorSpec("nothing", (0, 7), CODED),
            TensorSpec("größe.weight", (32, 52), CODED),
            TensorSpec("größe.bias", (32,), CODED),
            TensorSpec("temperature", (), CODED),
        ]
    ),
    # Every group, and enough for contexts, blocks and an odd last byte.
    "plain": Layout.of(
        [
            TensorSpec("0.weight", (4, 3, 3, 3), CODED),
            TensorSpec("1.weight", (4,), DENSE),
            TensorSpec("1.bias", (4,), DENSE),
            TensorSpec("1.running_mean", (4,), STATS),
            TensorSpec("1.running_var", (4,), VARIANCE),
            TensorSpec("2.weight", (7, 36), CODED),
            TensorSpec("2.bias", (7,), CODED),
        ]
    ),
    # A model that has coded tensors alone.
    "lean": Layout.of([TensorSpec("0.weight", (9, 14), CODED), TensorSpec("0.bias", (9,), CODED)]),
    # What travels of a model whose output layer is its embedding (tied), and whose positions are frozen.
    "tied": Layout.of(
        [
            TensorSpec("embed.weight", (50, 12), CODED),
            TensorSpec("mix.weight", (12, 12), CODED),
            TensorSpec("mix.bias", (12,), CODED),
            TensorSpec("norm.weight", (12,), DENSE),
            TensorSpec("norm.bias", (12,), DENSE),
        ]
    ),
    # Several blocks of codecs 6 and 11.
    "medium": Layout.of([TensorSpec("a", (65_536,), CODED), TensorSpec("b", (4_464,), CODED)]),
    # Several blocks of codecs 14 and 15 (2^19), and segments of codec 9 (2^20).
    "long": Layout.of([TensorSpec("a", (525, 1000), CODED)]),
    "longer": Layout.of([TensorSpec("a", (1050, 1000), CODED)]),
    # For frames that are refused: every group, and as little as can be.
    "tiny": Layout.of(
        [
            TensorSpec("a", (3, 5), CODED),
            TensorSpec("b", (4,), CODED),
            TensorSpec("norm.weight", (3,), DENSE),
            TensorSpec("norm.bias", (3,), DENSE),
            TensorSpec("norm.running_mean", (3,), STATS),
            TensorSpec("norm.running_var", (3,), VARIANCE),
        ]
    ),
}
