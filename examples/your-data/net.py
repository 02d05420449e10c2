"""A model: any torch.nn.Module whose output is a number for each class."""

from torch import Tensor, nn


class Net(nn.Module):
    """Two convolutions and a linear layer.

    Args:
        classes: how many the data have; fedmrn says.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
        )
        self.classifier = nn.Linear(32 * 4, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, shape (n, classes), of images, float32, shape (n, 1, height, width)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
