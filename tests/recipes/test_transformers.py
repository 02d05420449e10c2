"""transformers.Trainer: saving off and on, and resumed from a checkpoint."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_text import Sentences, tiny_bert, wrong_text
from torch import nn

from fedmrn.torch import attach
from recipes import federate, run_block

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'fedmrn[dev]'")
pytest.importorskip("accelerate", reason="accelerate, which the Trainer wants, is not installed")

OPTIONS: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
HEADING = "transformers.Trainer"


def names(model: nn.Module, broadcast: bytes, k: int, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model,
        "broadcast": broadcast,
        "data": Sentences(96, 10 + k),
        "folder": str(folder / str(k)),
        "epochs": 4,
        "options": {**OPTIONS, **options},
        "math": math,
        "Trainer": transformers.Trainer,
        "TrainingArguments": transformers.TrainingArguments,
    }


@pytest.mark.parametrize("saving", [False, True])
def test_it_runs_two_rounds_and_learns(saving: bool, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 10, "save_total_limit": 1} if saving else {}

    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        space = run_block(HEADING, names(model, broadcast, k, tmp_path, options))
        assert space["optimizer"].taken == space["trainer"].state.global_step == 24
        frame: bytes = space["frame"].to_bytes()
        return frame

    scores, _ = federate(tiny_bert, client, lambda model: wrong_text(model, Sentences(300, 5)))
    assert scores[2] < scores[1] < scores[0]
    assert scores[2] < 0.6 * scores[0]
    assert bool(list(tmp_path.rglob("optimizer.pt"))) == saving


def test_resumed_from_a_checkpoint_it_goes_on_from_the_weights_that_were_saved(tmp_path: Path) -> None:
    """The optimiser's state and the masked weights are resumed; the masks' schedule is not."""

    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        options = {"save_strategy": "steps", "save_steps": 12}
        first = run_block(HEADING, names(tiny_bert(), broadcast, k, tmp_path, options))
        at = Path(first["folder"]) / "checkpoint-12"
        optimizer = attach(model, torch.optim.AdamW(model.parameters(), lr=1e-2), broadcast, steps=12)
        arguments = transformers.TrainingArguments(
            first["folder"], num_train_epochs=4, per_device_train_batch_size=16, **OPTIONS
        )
        data = Sentences(96, 10 + k)
        trainer = transformers.Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))
        trainer.train(resume_from_checkpoint=str(at))
        assert optimizer.taken == 12
        assert {int(s["step"]) for s in optimizer.state.values()} == {24}
        return optimizer.finish(weight=len(data)).to_bytes()

    scores, _ = federate(tiny_bert, client, lambda model: wrong_text(model, Sentences(300, 5)), rounds=1)
    assert scores[1] < scores[0]
