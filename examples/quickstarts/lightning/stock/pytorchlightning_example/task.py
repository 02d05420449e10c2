"""pytorchlightning_example: A Flower / PyTorch Lightning app."""

import gzip
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.adam import Adam
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning").setLevel(logging.WARNING)


class LitAutoEncoder(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(28 * 28, 64),
            nn.ReLU(),
            nn.Linear(64, 3),
        )
        self.decoder = nn.Sequential(
            nn.Linear(3, 64),
            nn.ReLU(),
            nn.Linear(64, 28 * 28),
        )

    def forward(self, x) -> Any:
        embedding = self.encoder(x)
        return embedding

    def configure_optimizers(self) -> Adam:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return optimizer

    def training_step(self, train_batch, batch_idx) -> torch.Tensor:
        x, y = train_batch
        x = x.view(x.size(0), -1)
        z = self.encoder(x)
        x_hat = self.decoder(z)
        loss = F.mse_loss(x_hat, x)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch, batch_idx) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch, stage=None) -> None:
        x, y = batch
        x = x.view(x.size(0), -1)
        z = self.encoder(x)
        x_hat = self.decoder(z)
        loss = F.mse_loss(x_hat, x)
        if stage:
            self.log(f"{stage}_loss", loss, prog_bar=True)


@lru_cache
def load_images(data_dir: str, split: str):
    """Fashion-MNIST from its four files: images, uint8, and labels; read once."""
    images = gzip.decompress(Path(data_dir, f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(Path(data_dir, f"{split}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    y = np.frombuffer(labels, np.uint8, offset=8)
    return x, y


def apply_transforms(x, y):
    """Images in [0, 1] and labels."""
    return TensorDataset(torch.from_numpy(x.astype(np.float32) / 255), torch.from_numpy(y.astype(np.int64)))


def load_data(partition_id: int, num_partitions: int, data_dir: str):
    """Load partition Fashion-MNIST data: 2,000 images a node, a tenth of them for testing."""
    x, y = load_images(data_dir, "train")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(42))
    own = order[partition_id * 2000 : (partition_id + 1) * 2000].numpy()
    trainset, testset = (apply_transforms(x[part], y[part]) for part in (own[:1800], own[1800:]))
    return DataLoader(trainset, batch_size=32, shuffle=True), DataLoader(testset, batch_size=200)


def load_centralized_dataset(data_dir: str):
    """Load the first 2,000 images of the test set and return dataloader."""
    x, y = load_images(data_dir, "t10k")
    return DataLoader(apply_transforms(x[:2000], y[:2000]), batch_size=1000)
