"""huggingface_example: A Flower / Hugging Face app."""

import csv
import re
import zlib
from functools import lru_cache
from pathlib import Path

import torch
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

INTENTS = 10
WORDS, LENGTH = 4096, 16


def tokenize(text: str):
    """Ids of a text's words by a hash of 12 bits; 0 pads, 1 begins."""
    words = re.findall(r"[a-z']+", text.lower())[: LENGTH - 1]
    ids = [1, *(2 + zlib.crc32(word.encode()) % (WORDS - 2) for word in words)]
    return ids + [0] * (LENGTH - len(ids))


@lru_cache
def load_split(data_dir: str, split: str):
    """Banking77's first ten intents, as a list of what the model takes."""
    with Path(data_dir, f"{split}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["category"] for row in rows})[:INTENTS]
    found = []
    for row in rows:
        if row["category"] in names:
            ids = torch.tensor(tokenize(row["text"]))
            label = torch.tensor(names.index(row["category"]))
            found.append({"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": label})
    return found


def load_data(partition_id: int, num_partitions: int, data_dir: str):
    """Load Banking77 data (training and eval)"""
    rows = load_split(data_dir, "train")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(42)).tolist()
    own = [rows[i] for i in order[partition_id::num_partitions]]
    split = len(own) * 4 // 5
    return DataLoader(own[:split], shuffle=True, batch_size=16), DataLoader(own[split:], batch_size=64)


def load_centralized_dataset(data_dir: str):
    """Load test set and return dataloader."""
    return DataLoader(load_split(data_dir, "test"), batch_size=64)


def get_model():
    """A BERT of two layers, from scratch."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=LENGTH,
            num_labels=INTENTS,
        )
    )


def train(net, trainloader, epochs, lr, device):
    optimizer = AdamW(net.parameters(), lr=lr)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for batch in trainloader:
            batch = {k: v.to(device) for k, v in batch.items()}
            outputs = net(**batch)
            loss = outputs.loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader, device) -> tuple[float, float]:
    loss, correct = 0.0, 0
    net.eval()
    for batch in testloader:
        batch = {k: v.to(device) for k, v in batch.items()}
        with torch.no_grad():
            outputs = net(**batch)
        loss += outputs.loss.item()
        correct += (outputs.logits.argmax(-1) == batch["labels"]).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
