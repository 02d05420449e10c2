"""From an experiment to what runs: the data read and shared out, the model built."""

import math
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedmrn.data import Dataset, PartitionSpec, Task, augment, by_role, find_source, load_source, partition, subset
from fedmrn.data.own import Wanted, load_own
from fedmrn.errors import ConfigError, DataError
from fedmrn.experiments.config import DataConfig, Experiment, TrainConfig
from fedmrn.extras import explained
from fedmrn.federation.setting import Federation
from fedmrn.models.catalogue import build_model
from fedmrn.models.own import check_outputs
from fedmrn.torch import Training
from fedmrn.torch.objectives import OBJECTIVES

_HELPERS = 0.1  # of clients, where each shares with few neighbours
_TESTED = 1000 * 3 * 32 * 32
"""Numbers in a batch of samples of one's own that is evaluated, at most."""


@dataclass(frozen=True)
class Prepared:
    """An experiment with its data and model built."""

    dataset: Dataset
    federation: Federation
    model: nn.Module


def prepare(experiment: Experiment, data_dir: Path, *, digest: str = "") -> Prepared:
    """Load the data, share it out, build the model; what is a person's own is tried before it is used.

    Args:
        experiment: what is wanted.
        data_dir: where data files lie.
        digest: of the data, where another process has loaded it (`Dataset.digest`); empty if none has.

    Raises:
        UsageError: data that is missing or damaged, a setting that does not fit it, code that raises an error.
    """
    data, options = experiment.data, experiment.options
    device = find_device(experiment.train.device)
    dataset, model = _load(experiment, data_dir)
    dataset, model = dataset.with_tests(data.max_test), model.to(device)
    if digest and dataset.digest() != digest:
        raise DataError(
            f"{data.name}: another process loaded other data: what loads it must return the same each time, so give "
            "its random numbers a seed"
        )
    train_x, objective, like_images = dataset.normalised_train(), OBJECTIVES[dataset.task], True
    if experiment.own:
        folder = Path(experiment.folder).absolute()
        sample = train_x[:2].to(device)
        like_images = check_outputs(model, sample, dataset.classes, experiment.model.name, folder)
        objective = replace(objective, batch=max(1, min(objective.batch, _TESTED // math.prod(dataset.shape))))
    train = experiment.train
    training = Training(
        local_epochs=train.local_epochs,
        batch_size=train.batch_size,
        optimizer=options.optimizer,
        lr=options.lr,
        weight_decay=options.weight_decay,
        loss=objective.loss,
        by_batches=train.weight_by == "batches",
        augment=partial(augment, fill=dataset.black()) if dataset.augment else None,
        channels_last=like_images,
        bfloat16=train.autocast == "bfloat16",
        statistics=train.statistics,
        graphs=train.graphs,
    )
    federation = Federation(
        scheme=experiment.scheme(),
        training=training,
        train_x=train_x,
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
        protect=_protect(train),
    )
    return Prepared(dataset, federation, model)


def _load(experiment: Experiment, data_dir: Path) -> tuple[Dataset, nn.Module]:
    """Return the data set, whole, and a model for it; of a known one the model is built first: it takes no reading."""
    data, folder = experiment.data, Path(experiment.folder).absolute()

    def model(shape: tuple[int, ...], classes: int, task: Task) -> nn.Module:
        return build_model(
            experiment.model.name,
            shape=shape,
            classes=classes,
            seed=experiment.seed,
            init_std=experiment.model.init_std or None,
            task=task,
            folder=folder,
        )

    if not data.source:
        source = find_source(data.name)
        built = model(source.shape, source.classes, source.task)
        return load_source(source, data_dir), built
    dataset = load_own(
        Wanted(
            name=data.name,
            source=data.source,
            folder=folder,
            data_dir=data_dir,
            image_size=data.image_size,
            test_share=data.test_share,
            split_seed=data.split_seed,
        )
    )
    return dataset, model(dataset.shape, dataset.classes, dataset.task)


def _protect(train: TrainConfig) -> Any:
    """Return what sums updates unseen, or None; its libraries are imported only where it is asked for."""
    if train.protect == "none":
        return None
    try:
        secure = import_module("fedmrn.secure")
    except ModuleNotFoundError as error:
        raise explained(error, 'train.protect = "secure-sum"') from error
    colluding = {"all": None, "few": _HELPERS}[train.neighbours]
    return secure.SecureSum(threshold=train.threshold, colluding=colluding)


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
