"""From an experiment to what runs: the data read and shared out, the model built."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.data import Dataset, PartitionSpec, augment, by_role, find_source, load_source, partition, subset
from fedmrn.errors import ConfigError
from fedmrn.experiments.config import DataConfig, Experiment
from fedmrn.federation.engine import Federation
from fedmrn.methods import method
from fedmrn.models.catalogue import build_model
from fedmrn.torch import RULES, attach
from fedmrn.torch.objectives import OBJECTIVES


@dataclass(frozen=True)
class Prepared:
    """An experiment with its data and model built."""

    dataset: Dataset
    federation: Federation
    model: nn.Module


def prepare(experiment: Experiment, data_dir: Path) -> Prepared:
    """Load the data, share it out, build the model.

    Raises:
        UsageError: data that is missing or damaged, a setting that does not fit it.
    """
    data, options = experiment.data, experiment.options
    row, source, device = method(experiment.method), find_source(data.name), find_device(experiment.train.device)
    model = build_model(
        experiment.model.name,
        shape=source.shape,
        classes=source.classes,
        seed=experiment.seed,
        init_std=experiment.model.init_std or None,
        task=source.task,
    ).to(device)
    dataset = load_source(source, data_dir).with_tests(data.max_test)
    own: dict[str, Any] = {
        name: options.specific[name] for name in RULES[row.local].options if name in options.specific
    }
    federation = Federation(
        scheme=experiment.scheme(),
        rule=partial(attach, **own),
        optimizer=options.optimizer,
        train_x=dataset.normalised_train(),
        train_y=dataset.train_y,
        parts=share_out(dataset, data, experiment.seed),
        test_x=dataset.normalised_test(),
        test_y=dataset.test_y,
        rounds=experiment.train.rounds,
        clients_per_round=experiment.train.clients_per_round,
        local_epochs=experiment.train.local_epochs,
        batch_size=experiment.train.batch_size,
        lr=options.lr,
        seed=experiment.seed,
        by_batches=experiment.train.weight_by == "batches",
        augment=partial(augment, fill=dataset.black()) if dataset.augment else None,
        bfloat16=experiment.train.autocast == "bfloat16",
        graphs=experiment.train.graphs,
        objective=OBJECTIVES[source.task],
    )
    return Prepared(dataset, federation, model)


def share_out(dataset: Dataset, data: DataConfig, seed: int) -> list[NDArray[np.int64]]:
    """Return the indices of each client's training samples.

    Raises:
        ConfigError: the data set cannot be shared so.
    """
    if data.partition == "roles":
        parts = by_role(dataset.roles, data.clients, data.min_size, seed)
    else:
        spec = PartitionSpec(data.partition, data.alpha, data.min_size, data.share)
        parts = partition(dataset.labels(), spec, data.clients, seed)
    return [subset(part, data.max_samples, seed, client) for client, part in enumerate(parts)]


def find_device(name: str) -> torch.device:
    """Return the device of `train.device`: cpu, cuda, or with auto CUDA where torch finds it.

    Raises:
        ConfigError: it is cuda and torch finds none.
    """
    cuda = torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise ConfigError(
            f'train.device = "cuda", but torch {torch.__version__} finds no CUDA device here; "auto" takes the CPU then'
        )
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")
