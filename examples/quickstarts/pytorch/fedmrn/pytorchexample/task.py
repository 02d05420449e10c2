"""pytorchexample: A Flower / PyTorch app."""

import gzip
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from fedmrn.flower.client import attach


class Net(nn.Module):
    """Model (simple CNN adapted from 'PyTorch: A 60 Minute Blitz')"""

    def __init__(self):
        super(Net, self).__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 4 * 4, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 4 * 4)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


@lru_cache
def load_split(data_dir: str, split: str):
    """Fashion-MNIST from its four files: images, uint8, and labels; read once."""
    images = gzip.decompress(Path(data_dir, f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(Path(data_dir, f"{split}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    y = np.frombuffer(labels, np.uint8, offset=8)
    return x, y


def apply_transforms(x, y):
    """Images in [-1, 1] and labels."""
    return TensorDataset(torch.from_numpy(x.astype(np.float32) / 127.5 - 1), torch.from_numpy(y.astype(np.int64)))


def load_data(partition_id: int, num_partitions: int, batch_size: int, data_dir: str):
    """Load partition Fashion-MNIST data: 2,000 images a node, a fifth of them for validation."""
    x, y = load_split(data_dir, "train")
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(42))
    own = order[partition_id * 2000 : (partition_id + 1) * 2000].numpy()
    trainset, testset = (apply_transforms(x[part], y[part]) for part in (own[:1600], own[1600:]))
    return DataLoader(trainset, batch_size=batch_size, shuffle=True), DataLoader(testset, batch_size=batch_size)


def load_centralized_dataset(data_dir: str):
    """Load the first 2,000 images of the test set and return dataloader."""
    x, y = load_split(data_dir, "t10k")
    return DataLoader(apply_transforms(x[:2000], y[:2000]), batch_size=128)


def train(net, trainloader, epochs, lr, device, msg, context):
    """Train the model on the training set."""
    net.to(device)  # move model to GPU if available
    criterion = torch.nn.CrossEntropyLoss().to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    optimizer = attach(net, optimizer, msg, context, steps=epochs * len(trainloader))
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            images = images.to(device)
            labels = labels.to(device)
            optimizer.zero_grad()
            loss = criterion(net(images), labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    avg_trainloss = running_loss / (epochs * len(trainloader))
    return avg_trainloss, optimizer


def test(net, testloader, device):
    """Validate the model on the test set."""
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss()
    correct, loss = 0, 0.0
    net.eval()
    with torch.no_grad():
        for images, labels in testloader:
            images = images.to(device)
            labels = labels.to(device)
            outputs = net(images)
            loss += criterion(outputs, labels).item()
            correct += (torch.max(outputs.data, 1)[1] == labels).sum().item()
    accuracy = correct / len(testloader.dataset)
    loss = loss / len(testloader)
    return loss, accuracy
