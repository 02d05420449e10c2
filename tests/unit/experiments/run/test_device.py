"""What `train.device` asks for, and what a machine has."""

from pathlib import Path

import pytest
import torch

from fedmrn.errors import ConfigError
from fedmrn.experiments.run.prepare import find_device, prepare
from fedmrn.experiments.settings import load_setting
from fedmrn.federation.client import captures_steps
from fedmrn.torch import Training


@pytest.mark.parametrize(
    ("asked", "there", "found"),
    [
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
        ("auto", True, "cuda"),
        ("auto", False, "cpu"),
    ],
)
def test_which_device_is_taken(asked: str, there: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    assert find_device(asked) == torch.device(found)


def test_cuda_that_is_not_there_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    experiment = load_setting("fmnist-iid", ["train.device=cuda"]).experiment("fedmrn", 1)
    with pytest.raises(ConfigError, match=r'train\.device = "cuda", but torch .* finds no CUDA device.*"auto"'):
        prepare(experiment, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_device_of_a_preset_is_the_cpu() -> None:
    train = load_setting("digits").train
    assert (train.device, train.graphs) == ("cpu", True)


@pytest.mark.parametrize(
    ("device", "graphs", "captured"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_steps_are_captured_on_cuda_only_and_only_if_asked_for(device: str, graphs: bool, captured: bool) -> None:
    assert captures_steps(Training(graphs=graphs), torch.device(device)) is captured
