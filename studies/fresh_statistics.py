"""Accuracy by round as the model is handed out, and with batch norm's statistics computed anew from training images.

    python studies/fresh_statistics.py fmnist-iid fedmrn-s --rounds 5 --seed 1 --data-dir data \\
        --set method.lr=0.03 --set method.scale=auto --set method.noise=bernoulli

The second is what the weights are worth: averaged statistics are not those of averaged weights (docs/batch-norm.md).
The images are a sample of the training set, the same for all rounds and methods; training itself is not touched.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from fedmrn.experiments.run.prepare import prepare
from fedmrn.experiments.settings import load_setting
from fedmrn.federation.simulation import simulate
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, calibrate, evaluate

BATCH = 500


def main() -> None:
    """Read the command line and print a line a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", help="a preset, or a file")
    parser.add_argument("method", help="one of `fedmrn methods`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=int, default=20_000, help="training images for the statistics")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    changes = [f"train.rounds={asked.rounds}", "train.threads=1", *asked.changes]
    prepared = prepare(load_setting(asked.setting, changes).experiment(asked.method, asked.seed), asked.data_dir)
    federation, model, view = prepared.federation, prepared.model, ModelLayout.of(prepared.model)
    chosen = np.random.default_rng(0).permutation(len(federation.train_x))[: asked.samples]
    images = federation.train_x[torch.from_numpy(chosen)]
    for result in simulate(federation, model, Server.initial(view.layout, federation.scheme, view.read())):
        view.write(result.shown)
        calibrate(model.train(), images.split(BATCH))
        fresh, _ = evaluate(model, federation.test_x, federation.test_y)
        tested = "not tested" if result.accuracy is None else f"{result.accuracy:.4f}"
        sys.stdout.write(f"round {result.round}: {tested}, with fresh statistics {fresh:.4f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
