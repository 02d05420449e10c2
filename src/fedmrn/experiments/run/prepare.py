"""From an experiment to what runs: the data read and shared out, the model built."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.data import Dataset, PartitionSpec, augment, by_role, find_source, load_source, partition, subset
from fedmrn.errors import ConfigError
from fedmrn.experiments.config import DataConfig, Experiment
from fedmrn.federation.setting import Federation
from fedmrn.models.catalogue import build_model
from fedmrn.torch import Training
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
    source, device = find_source(data.name), find_device(experiment.train.device)
    model = build_model(
        experiment.model.name,
        shape=source.shape,
        classes=source.classes,
        seed=experiment.seed,
        init_std=experiment.model.init_std or None,
        task=source.task,
    ).to(device)
    dataset = load_source(source, data_dir).with_tests(data.max_test)
    train, objective = experiment.train, OBJECTIVES[source.task]
    training = Training(
        local_epochs=train.local_epochs,
        batch_size=train.batch_size,
        optimizer=options.optimizer,
        lr=options.lr,
        weight_decay=options.weight_decay,
        loss=objective.loss,
        by_batches=train.weight_by == "batches",
        augment=partial(augment, fill=dataset.black()) if dataset.augment else None,
        channels_last=True,
        bfloat16=train.autocast == "bfloat16",
        statistics=train.statistics,
        graphs=train.graphs,
    )
    federation = Federation(
        scheme=experiment.scheme(),
        training=training,
        train_x=dataset.normalised_train(),
        train_y=dataset.train_y,
        parts=_share_out(dataset, data, experiment.seed),
        test_x=dataset.normalised_test(),
        test_y=dataset.test_y,
        rounds=train.rounds,
        clients_per_round=train.clients_per_round,
        seed=experiment.seed,
        objective=objective,
        calibrate=train.calibrate,
        test_every=train.test_every,
    )
    return Prepared(dataset, federation, model)


def _share_out(dataset: Dataset, data: DataConfig, seed: int) -> list[NDArray[np.int64]]:
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
