"""A tiny BERT made from a configuration, and sentences of token ids for it: nothing is fetched."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

WORDS, LENGTH, CLASSES = 60, 8, 3


class Sentences(Dataset[dict[str, Tensor]]):
    """n sentences as transformers wants them; three words of four are of the class's own twelve."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.y = torch.randint(0, CLASSES, (n,), generator=generator)
        own = 5 + self.y[:, None] * 12 + torch.randint(0, 12, (n, LENGTH), generator=generator)
        other = torch.randint(5, WORDS, (n, LENGTH), generator=generator)
        self.x = torch.where(torch.arange(LENGTH) % 4 < 3, own, other)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.x[index], "labels": self.y[index]}


def tiny_bert(hidden: int = 32) -> nn.Module:
    """BertForSequenceClassification with two small layers and no dropout; needs transformers."""
    from transformers import BertConfig, BertForSequenceClassification  # noqa: PLC0415 - optional

    settings: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=WORDS,
                hidden_size=hidden,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=2 * hidden,
                max_position_embeddings=LENGTH,
                num_labels=CLASSES,
                initializer_range=0.1,
                **settings,
            )
        )


def wrong_text(model: nn.Module, data: Sentences) -> float:
    """The mean loss of a classifier of sentences."""
    model.eval()
    with torch.no_grad():
        return float(model(input_ids=data.x, labels=data.y).loss)
