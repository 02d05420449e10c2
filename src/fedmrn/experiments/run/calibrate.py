"""The model that a run is left with, calibrated from its clients' training data: a file beside the checkpoint.

`train.calibrate` has the clients of a run do so, and counts what that takes. Here the data is at hand: nothing travels.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fedmrn.codecs import EncodeKeys
from fedmrn.errors import ConfigError
from fedmrn.experiments.run.data_file import check_data
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.prepare import prepare
from fedmrn.files import locked, write_atomic
from fedmrn.methods import method
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain
from fedmrn.server import Server
from fedmrn.text import printable
from fedmrn.torch import ModelLayout, calibrate, evaluate
from fedmrn.torch.loop import channels_last
from fedmrn.wire.messages import model_frame
from fedmrn.wire.statistics import of_statistics

FILE = "calibrated.bin"
"""The frame of the calibrated model in a run folder; `fedmrn.torch.load_model` reads it."""
_BATCH = 500


@dataclass(frozen=True, kw_only=True)
class KeptModel:
    """What calibrating a run's model did.

    Attributes:
        round: that it is the model after.
        samples: that it was calibrated on.
        before, after: accuracy (or what the data set's score is) on the test samples, in [0, 1].
        path: of the file that was written.
    """

    round: int
    samples: int
    before: float
    after: float
    path: Path


def calibrate_run(
    folder: Path,
    *,
    data_dir: Path,
    samples: int,
    wait: Callable[[str], AbstractContextManager[None]],
    trust: bool = False,
) -> KeptModel:
    """Calibrate the model of a run on training samples of its clients, and write it to `calibrated.bin`.

    Of a method whose state stands for several models (FedPM) it is the first of them.

    Args:
        folder: of a run, with a checkpoint.
        data_dir: where data files lie.
        samples: how many at most; drawn from those of all clients, by the run's seed.
        wait: entered with a text while something takes seconds.
        trust: whether code that the folder's configuration names may be run.

    Raises:
        RunError: the folder holds no run or no checkpoint, is in use, or is of other data than are there now.
        ConfigError: the model has no running statistics, or code would have to be run.
        UsageError: data that is missing or damaged.
        EncodeError: the statistics are not finite.
    """
    experiment = read_experiment(folder)
    if experiment.code and not trust:
        names = " and ".join(printable(name) for name in experiment.code)
        raise ConfigError(
            f"{folder} names code, {names} in {printable(experiment.folder, 500)}, which would be run: add --trust if "
            "it is yours"
        )
    with wait(f"reading {experiment.data.name}"):
        prepared = prepare(experiment, data_dir)
    federation, model = prepared.federation, prepared.model
    view = ModelLayout.of(model)
    layout, scheme = view.layout, federation.scheme
    if not of_statistics(layout).size:
        raise ConfigError(f"{experiment.model.name} has no batch norm: there are no statistics to calibrate")
    with locked(folder):
        check_data(folder, prepared.dataset)
        server = Server.load(folder, layout, scheme)
        view.write(next(iter(server.models(server.round))))
        quick = channels_last if federation.training.channels_last and view.device.type == "cpu" else None
        own = np.concatenate(federation.parts)
        stream = Stream(derive_key(experiment.seed, "calibration"), domain(Purpose.SHUFFLE))
        chosen = torch.from_numpy(own[stream.permutation(len(own))[:samples]])
        inputs = (federation.train_x[part] for part in chosen.tensor_split(-(-len(chosen) // _BATCH)))
        test = partial(evaluate, layout=quick) if quick else evaluate
        on_device = federation.tested_on(view.device)
        with wait("testing"):
            before, _ = test(model, on_device.test_x, on_device.test_y, objective=federation.objective)
        with wait(f"calibrating on {len(chosen):,} samples"):
            calibrate(model, map(quick, inputs) if quick else inputs)
        with wait("testing"):
            after, _ = test(model, on_device.test_x, on_device.test_y, objective=federation.objective)
        frame = model_frame(
            layout,
            view.read(),
            method=method(experiment.method).id,
            round=server.round,
            codecs={},
            keys=EncodeKeys(0, 0),
        )
        write_atomic(folder / FILE, frame.to_bytes())
    return KeptModel(round=server.round, samples=len(chosen), before=before, after=after, path=folder / FILE)
