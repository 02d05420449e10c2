"""A compact two-branch network for segmentation, in the manner of BiSeNet V2.

    detail      wide and shallow, at 1/8 of the input's size: where edges are
    semantic    narrow and deep, down to 1/32, with the mean of the whole image added: what is there
    aggregation each branch is weighted by a gate made of the other, at either size, and both are added

Source: Yu et al., "BiSeNet V2: bilateral network with guided aggregation for real-time semantic segmentation", IJCV
2021. Fewer channels, no auxiliary heads; convolutions have no biases.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 32
"""Height and width of an image are multiples of this."""
_WIDE, _DEEP, _HEAD = 64, 64, 64


def _conv(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, each: bool = False) -> nn.Sequential:
    """A convolution and batch norm; `each`: by channel (depthwise)."""
    groups = inputs if each else 1
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def _conv_relu(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_conv(inputs, outputs, stride=stride), nn.ReLU())


class _Expand(nn.Module):
    """Gather and expand: 3x3, then by channel on thrice as many, then back; with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 3 * inputs
        self.body = nn.Sequential(
            _conv_relu(inputs, inputs),
            _conv(inputs, wide, 1),
            _conv(wide, wide, stride=stride, each=True),
            _conv(wide, outputs, 1),
        )
        changes = stride > 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(_conv(inputs, inputs, stride=stride, each=True), _conv(inputs, outputs, 1))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class _Context(nn.Module):
    """Add the mean of the whole image. (No batch norm on it: a batch of one image would have none to take.)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(channels, channels, 1, bias=False)
        self.out = _conv_relu(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(x + F.relu(self.mean(x.mean((2, 3), keepdim=True))))
        return out


class _Aggregate(nn.Module):
    """Guided aggregation of detail at 1/8 and semantics at 1/32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.detail_fine = nn.Sequential(_conv(c, c, each=True), nn.Conv2d(c, c, 1, bias=False))
        self.detail_coarse = nn.Sequential(_conv(c, c, stride=2), nn.AvgPool2d(3, 2, 1))
        self.semantic_fine = _conv(c, c)
        self.semantic_coarse = nn.Sequential(_conv(c, c, each=True), nn.Conv2d(c, c, 1, bias=False))
        self.out = _conv(c, c)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        size = detail.shape[2:]
        fine = self.detail_fine(detail) * torch.sigmoid(_scaled(self.semantic_fine(semantic), size))
        coarse = self.detail_coarse(detail) * torch.sigmoid(self.semantic_coarse(semantic))
        out: Tensor = self.out(fine + _scaled(coarse, size))
        return out


def _scaled(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, list(size), mode="bilinear", align_corners=False)


class BilateralNetwork(nn.Module):
    """Segment images with two branches: (n, channels, h, w) to logits (n, classes, h, w); h, w multiples of STRIDE.

    Args:
        channels: of an image.
        classes: that a pixel can have.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.detail = nn.Sequential(
            _conv_relu(channels, 16, stride=2),
            _conv_relu(16, 16),
            _conv_relu(16, 32, stride=2),
            _conv_relu(32, 32),
            _conv_relu(32, _WIDE, stride=2),
            _conv_relu(_WIDE, _WIDE),
        )
        self.semantic = nn.Sequential(
            _conv_relu(channels, 8, stride=2),
            _conv_relu(8, 16, stride=2),
            _Expand(16, 24, 2),
            _Expand(24, 24, 1),
            _Expand(24, 48, 2),
            _Expand(48, 48, 1),
            _Expand(48, _DEEP, 2),
            _Expand(_DEEP, _DEEP, 1),
            _Context(_DEEP),
        )
        self.aggregate = _Aggregate(_WIDE)
        self.head = nn.Sequential(_conv_relu(_WIDE, _HEAD), nn.Conv2d(_HEAD, classes, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of pixels, shape (n, classes, h, w), for images, shape (n, channels, h, w)."""
        return _scaled(self.head(self.aggregate(self.detail(x), self.semantic(x))), x.shape[2:])
