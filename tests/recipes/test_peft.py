"""PEFT's LoRA on a frozen base: float32 and bfloat16 adapters."""

from typing import Any

import pytest
import torch
from tiny_text import Sentences, tiny_bert, wrong_text
from torch import nn
from torch.utils.data import DataLoader

from fedmrn.torch import ModelLayout
from recipes import federate, run_block

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fedmrn[dev]'")
peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install 'fedmrn[dev]'")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of transformers, to PEFT
HIDDEN = 64


def adapted(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
        model: nn.Module = peft.get_peft_model(tiny_bert(HIDDEN), config).to(dtype)
        return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_runs_two_rounds_and_learns(dtype: torch.dtype) -> None:
    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        data = Sentences(96, 10 + k)
        rows = [(data.x[i], data.y[i]) for i in range(len(data))]
        loader: Any = DataLoader(rows, 16, shuffle=True, generator=torch.Generator().manual_seed(3))  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            space = run_block(
                "PEFT: LoRA",
                {
                    "base": tiny_bert(HIDDEN),
                    "get_peft_model": peft.get_peft_model,
                    "LoraConfig": peft.LoraConfig,
                    "dtype": dtype,
                    "broadcast": broadcast,
                    "data": data,
                    "loader": loader,
                    "epochs": 6,
                },
            )
        assert {p.dtype for p in space["model"].parameters()} == {dtype}
        frame: bytes = space["frame"].to_bytes()
        return frame

    model = adapted(dtype)
    view = ModelLayout.of(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert view.layout.size == trained < sum(p.numel() for p in model.parameters()) / 10
    scores, size = federate(lambda: adapted(dtype), client, lambda m: wrong_text(m, Sentences(300, 5)))
    assert scores[2] < scores[1] < scores[0]
    assert scores[2] < 0.7 * scores[0]
    assert size < 4 * trained / 4
