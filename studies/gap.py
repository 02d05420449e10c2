"""What a FedMRN client loses on the way from its update u to the mask, and what that does to a round's model.

    python studies/gap.py runs/fmnist-labels/fedmrn-seed1 --data-dir data

From the checkpoint of a run of `fedmrn` (or `fedmrn-s`), the clients of the next rounds train as that run says. For
each client: how much of u the code cannot express, by cause, as shares of ||u||^2 over the coded elements:

    frozen      the sign of u is not that of its noise (binary masks only)
    saturated   |u| is above |n|
    sampling    E||n m - clip(u)||^2, what the dice of the mask add, over ||clip(u)||^2

Then the accuracy of the model that the server would make of the mean of: the masks as sent, clip(u) without dice, and
u itself; and of FedAvg's clients from the same state, at each of `--fedavg-lr`. All start from one state, and no round
builds on another.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from fedmrn.codecs import MaskedNoise, OwnScale
from fedmrn.experiments.run.checkpoint import restore
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.run.prepare import Prepared, prepare
from fedmrn.experiments.run.record import read_records
from fedmrn.federation.client import Client
from fedmrn.federation.conduct import Conduct
from fedmrn.federation.in_process import InProcess
from fedmrn.federation.simulation import secret_of
from fedmrn.methods import method
from fedmrn.numerics.masking import MaskType
from fedmrn.server import Server
from fedmrn.server.optimizer import Scaled
from fedmrn.torch import ModelLayout, attach, evaluate
from fedmrn.wire.layout import Group


@dataclass
class Sent:
    """A client's update u, and what of it the code can say, over the coded elements."""

    u: Any
    clipped: Any
    masked: Any
    weight: int
    shares: dict[str, float]


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def clip(u: Any, noise: Any, mask: MaskType) -> Any:
    """Return the mean of the masked noise over the dice."""
    ratio = np.clip(u / noise, 0 if mask is MaskType.BINARY else -1, 1)
    return (ratio * noise).astype(np.float32)


def sent(u: Any, noise: Any, masked: Any, mask: MaskType, weight: int) -> Sent:
    """Return what a client sent, with the shares of u that it lost."""
    clipped, whole = clip(u, noise, mask), float(np.square(u, dtype=np.float64).sum())
    against = (u * noise < 0) if mask is MaskType.BINARY else np.zeros(u.shape, bool)
    beyond = ~against & (np.abs(u) > np.abs(noise))
    lost = np.square(u - clipped, dtype=np.float64)
    inside = max(float(np.square(clipped, dtype=np.float64).sum()), 1e-30)
    shares = {
        "frozen elements": float(against.mean()),
        "frozen energy": float(lost[against].sum()) / whole,
        "saturated elements": float(beyond.mean()),
        "saturated energy": float(lost[beyond].sum()) / whole,
        "sampling error": float(np.square(masked - clipped, dtype=np.float64).sum()) / inside,
        "rms u / scale": float(np.sqrt(whole / u.size)),
    }
    return Sent(u, clipped, masked, weight, shares)


def mean(values: Sequence[tuple[Any, int]]) -> Any:
    """Return the weighted mean of vectors."""
    total = sum(weight for _, weight in values)
    return sum(v.astype(np.float64) * (weight / total) for v, weight in values).astype(np.float32)


def round_of(prepared: Prepared, state: Any, number: int) -> tuple[Any, list[Sent]]:
    """Train a round's clients; return the server's new state, and what the masked ones sent."""
    federation, view = prepared.federation, ModelLayout.of(prepared.model)
    server = Server(view.layout, federation.scheme, state.copy(), secret_of(federation.seed))
    chosen = federation.sampled(number)
    conduct = Conduct(server.begin(number, chosen), view.layout.trainable)
    span, found = view.layout.span(Group.CODED), []

    def watched(*args: Any, **options: Any) -> Any:
        rule = federation.rule(*args, **options)
        finish = rule.finish

        def watch(*, weight: int) -> Any:
            codec = federation.scheme.codecs[Group.CODED]
            if isinstance(codec, MaskedNoise):
                u, noise = rule._u.numpy()[span].copy(), rule._noise.numpy()[span].copy()
                frame = finish(weight=weight)
                masked = codec.decode(frame.sections[0].body, u.size, frame.noise_key)
                found.append(sent(u, noise, masked, codec.mask, weight))
                found[-1].shares["rms u / scale"] /= codec.noise.scale
                return frame
            return finish(weight=weight)

        rule.finish = watch
        return rule

    client = Client(prepared.model, federation.training, seed=federation.seed, rule=watched)
    for reply in InProcess(client, federation.samples).ask(map(conduct.train, chosen)):
        conduct.take(reply)
    return conduct.finish(), found


def accuracy(prepared: Prepared, values: Any) -> float:
    """Return the accuracy of a model on the test images, in percent."""
    ModelLayout.of(prepared.model).write(values)
    setting = prepared.federation
    return 100 * evaluate(prepared.model, setting.test_x, setting.test_y, objective=setting.objective)[0]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=2, help="client samples to look at")
    parser.add_argument("--fedavg-lr", type=float, nargs="*", default=[0.03])
    args = parser.parse_args()
    torch.set_num_threads(1)
    experiment = read_experiment(args.run)
    prepared = prepare(experiment, args.data_dir)
    scheme = prepared.federation.scheme
    if isinstance(scheme.codecs[Group.CODED], OwnScale):
        parser.error(f'{args.run}: with scale = "auto" each tensor and client has noise of its own scale')
    if scheme.optimizer != Scaled(1.0):
        parser.error(f"{args.run}: what its server carries from round to round is not read here")
    layout = ModelLayout.of(prepared.model).layout
    span = layout.span(Group.CODED)
    done, state, _ = restore(args.run, len(read_records(args.run)), layout)
    if state is None:
        parser.error(f"{args.run} has no checkpoint")
    say(f"{args.run}, after round {done}: {accuracy(prepared, state):.2f} %")
    plain = method("fedavg")
    for number in range(done + 1, done + 1 + args.rounds):
        moved, found = round_of(prepared, state, number)
        for name in found[0].shares:
            values = [f.shares[name] for f in found]
            say(f"  round {number}: {name:20} {fmean(values):.4f}   ({min(values):.4f} to {max(values):.4f})")
        rows = {"masks": moved}
        for name, pick in (("clip(u)", lambda f: f.clipped), ("u", lambda f: f.u)):
            rows[name] = moved.copy()
            rows[name][span] = state[span] + mean([(pick(f), f.weight) for f in found])
        masks, wished = (
            mean([(v, f.weight) for f, v in zip(found, vs, strict=True)])
            for vs in ([f.masked for f in found], [f.clipped for f in found])
        )
        say(
            f"  round {number}: sampling error of the mean over clients "
            f"{np.square(masks - wished).sum() / np.square(wished).sum():.4f}"
        )
        for lr in args.fedavg_lr:
            training = replace(prepared.federation.training, lr=lr)
            free = replace(prepared.federation, scheme=plain.scheme(), rule=attach, training=training)
            rows[f"FedAvg, lr {lr:g}"], _ = round_of(replace(prepared, federation=free), state, number)
        reference = list(rows.values())[-1][span] - state[span]
        for name, values in rows.items():
            step = values[span] - state[span]
            cosine = float(step @ reference / (np.linalg.norm(step) * np.linalg.norm(reference)))
            say(
                f"  round {number}: {name:20} {accuracy(prepared, values):.2f} %, |step| {np.linalg.norm(step):.3f}, "
                f"cosine with the last row {cosine:.3f}"
            )


if __name__ == "__main__":
    main()
