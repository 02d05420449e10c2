"""A BERT of two narrow layers with random weights, in place of the pretrained one."""

import torch
from torch import nn

VOCABULARY = 30_522


def tiny_encoder() -> nn.Module:
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - skipped where it is not installed

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return BertModel(config, add_pooling_layer=False)
