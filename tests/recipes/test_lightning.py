"""Lightning's own Trainer, in automatic and in manual optimisation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes import federate, images, loader_of, run_block, small_net, wrong

lightning = pytest.importorskip("lightning", reason="Lightning is not installed: pip install 'fedmrn[dev]'")

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # of torch, when Lightning 2.6 asks it
]
OPTIONS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Net(lightning.LightningModule):
    """A module as its users write it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = small_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


@pytest.mark.parametrize("heading", ["Lightning, automatic optimisation", "Lightning, manual optimisation"])
def test_it_runs_two_rounds_and_learns(heading: str, tmp_path: Any) -> None:
    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        data = images(96, 10 + k)
        options = {**OPTIONS, "default_root_dir": tmp_path, "log_every_n_steps": 1}
        space = run_block(
            heading,
            {
                "lightning": lightning,
                "Net": Net,
                "broadcast": broadcast,
                "data": data,
                "loader": loader_of(data),
                "epochs": 4,
                "options": options,
            },
        )
        assert space["client"].fedmrn.taken == space["client"].fedmrn.steps == 4 * 6
        frame: bytes = space["frame"].to_bytes()
        return frame

    scores, _ = federate(Net, client, lambda model: wrong(model, images(300, 5)))
    assert scores[2] < scores[1] < scores[0]
    assert scores[2] < 0.5 * scores[0]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_lightning_saves_a_checkpoint_with_the_inner_optimisers_state(tmp_path: Any) -> None:
    def client(model: nn.Module, broadcast: bytes, k: int) -> bytes:
        data = images(96, 10 + k)
        options = {**OPTIONS, "default_root_dir": tmp_path / str(k), "enable_checkpointing": True}
        names = {"lightning": lightning, "Net": Net, "broadcast": broadcast, "data": data, "loader": loader_of(data)}
        space = run_block(
            "Lightning, automatic optimisation", {**names, "epochs": 1, "options": {**options, "log_every_n_steps": 1}}
        )
        (file,) = (tmp_path / str(k)).rglob("*.ckpt")
        saved = torch.load(file, weights_only=False)
        assert int(saved["optimizer_states"][0]["state"][0]["step"]) == 6
        file.unlink()
        frame: bytes = space["frame"].to_bytes()
        return frame

    scores, _ = federate(Net, client, lambda model: wrong(model, images(300, 5)), rounds=1)
    assert scores[1] < scores[0]
