"""A client in Python, for the federation that node and a page take part in too.

FEDMRN_TOKEN=... python examples/javascript/python_client.py http://127.0.0.1:8000 examples/javascript/digits/0.json
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fedmrn.http.client import HttpClient


def build_model(hidden: int = 32) -> nn.Module:
    """Return a network that `fedmrn/mlp.js` trains too: linear layers with ReLU between them."""
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def read_digits(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the parts of a file of `make_digits.py` by name: images, float32 in 0 to 1, and labels."""
    file = json.loads(path.read_text(encoding="utf-8"))

    def part(images: Sequence[int], labels: Sequence[int]) -> tuple[Tensor, Tensor]:
        pixels = torch.tensor(images, dtype=torch.float32).view(-1, file["pixels"])
        return pixels / file["largest"], torch.tensor(labels)

    return {name: part(**file[name]) for name in ("train", "test")}


def take_part(url: str, token: str, path: Path) -> None:
    """Do what the server wants done, until the run is over."""
    digits = read_digits(path)
    (train_x, train_y), (test_x, test_y) = digits["train"], digits["test"]
    model = build_model()
    with HttpClient(url, token) as client:
        for task in client.tasks():
            if task.kind == "evaluate":
                task.load(model)
                with torch.no_grad():
                    outputs = model(test_x)
                accuracy = (outputs.argmax(1) == test_y).float().mean().item()
                loss = F.cross_entropy(outputs, test_y).item()
                task.report({"accuracy": accuracy, "loss": loss}, weight=len(test_y))
                continue
            epochs, batch_size = task.config["epochs"], task.config["batch_size"]
            loader = DataLoader(TensorDataset(train_x, train_y), batch_size=batch_size, shuffle=True)
            sgd = torch.optim.SGD(model.parameters(), lr=task.config["lr"])
            optimizer = task.attach(model, sgd, steps=epochs * len(loader))
            total = 0.0
            for _ in range(epochs):
                for x, y in loader:
                    optimizer.zero_grad()
                    batch_loss = F.cross_entropy(model(x), y)
                    batch_loss.backward()
                    optimizer.step()
                    total += batch_loss.item()
            task.reply(optimizer, weight=len(train_y), metrics={"train_loss": total / (epochs * len(loader))})


def main() -> None:
    """Parse the command line, and take part."""
    parser = argparse.ArgumentParser(description="Take part in a federation over HTTP; the token is in FEDMRN_TOKEN.")
    parser.add_argument("url")
    parser.add_argument("digits", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    take_part(options.url, os.environ["FEDMRN_TOKEN"], options.digits)


if __name__ == "__main__":
    main()
