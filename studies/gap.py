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

import numpy as np
from numpy.typing import NDArray
from runs import F32, WatchedClients, server_of, take_up

from fedmrn.codecs import MaskedNoise, OwnScale
from fedmrn.errors import UsageError
from fedmrn.experiments.run.prepare import Prepared
from fedmrn.federation.client import own_method
from fedmrn.methods import method
from fedmrn.numerics.masking import MaskType
from fedmrn.torch import ModelLayout, evaluate
from fedmrn.wire.frame import Role
from fedmrn.wire.layout import Group


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A client's update u, and what of it the code can say; float32 over the coded elements.

    Attributes:
        u: the update.
        clipped: the mean of the masked noise over the dice, the nearest that masks can say of u.
        masked: the noise times the mask that was sent.
        weight: of the client in the round's mean.
        shares: what was lost of u, by cause.
    """

    u: F32
    clipped: F32
    masked: F32
    weight: int
    shares: dict[str, float]


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def clip(u: F32, noise: F32, mask: MaskType) -> F32:
    """Return the expectation of the masked noise: the update, clipped to what a mask can say."""
    ratio = np.clip(u / noise, 0 if mask is MaskType.BINARY else -1, 1)
    clipped: F32 = (ratio * noise).astype(np.float32)
    return clipped


def energy(values: F32 | NDArray[np.float64]) -> float:
    """Return the squared 2-norm."""
    return float(np.square(values, dtype=np.float64).sum())


def sent(u: F32, masked: F32, codec: MaskedNoise, key: int, weight: int) -> Sent:
    """Return what a client sent under a noise key, with the shares of u that it lost."""
    noise = codec.noise.chunk(key, 0, u.size)
    clipped = clip(u, noise, codec.mask)
    against = (u * noise < 0) if codec.mask is MaskType.BINARY else np.zeros(u.shape, bool)
    beyond = ~against & (np.abs(u) > np.abs(noise))
    lost = u.astype(np.float64) - clipped
    shares = {
        "frozen elements": float(against.mean()),
        "frozen energy": energy(lost[against]) / energy(u),
        "saturated elements": float(beyond.mean()),
        "saturated energy": energy(lost[beyond]) / energy(u),
        "sampling error": energy(masked - clipped) / max(energy(clipped), 1e-30),
        "rms u / scale": (energy(u) / u.size) ** 0.5 / codec.noise.scale,
    }
    return Sent(u=u, clipped=clipped, masked=masked, weight=weight, shares=shares)


def mean(values: Sequence[F32], weights: Sequence[int]) -> F32:
    """Return the weighted mean of vectors."""
    whole: F32 = np.average(np.stack(values), axis=0, weights=weights).astype(np.float32)
    return whole


def round_of(prepared: Prepared, state: F32, number: int) -> tuple[F32, list[Sent]]:
    """Train a round's clients; return the server's new state, and what those sent that mask noise of one scale."""
    federation, layout = prepared.federation, ModelLayout.of(prepared.model).layout
    chosen = federation.sampled(number)
    round_ = server_of(federation, layout, state).begin(number, chosen)
    train, codec, found = WatchedClients(federation, prepared.model), federation.scheme.codecs[Group.CODED], []
    for client in chosen:
        u, frame = train(client, round_.broadcast(client))
        section = frame.select(Role.UPDATE, Group.CODED)
        if isinstance(codec, MaskedNoise) and section is not None:
            masked = codec.decode(section.body, u.size, frame.noise_key)
            found.append(sent(u, masked, codec, frame.noise_key, frame.weight))
        round_.add(client, frame.to_bytes())
    return round_.finish(), found


def accuracy(prepared: Prepared, values: F32) -> float:
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
    try:
        run = take_up(args.run, args.data_dir)
    except UsageError as error:
        parser.error(str(error))
    if isinstance(run.codec, OwnScale):
        parser.error(f'{args.run}: with scale = "auto" each tensor and client has noise of its own scale')
    if not isinstance(run.codec, MaskedNoise):
        parser.error(f"{args.run}: {run.method} sends no mask over noise of one scale, one bit an element")
    prepared, state, span = run.prepared, run.state, run.layout.span(Group.CODED)
    say(f"{args.run}, after round {run.round}: {accuracy(prepared, state):.2f} %")
    plain = method("fedavg")
    for number in range(run.round + 1, run.round + 1 + args.rounds):
        moved, found = round_of(prepared, state, number)
        for name in found[0].shares:
            values = [f.shares[name] for f in found]
            say(f"  round {number}: {name:20} {fmean(values):.4f}   ({min(values):.4f} to {max(values):.4f})")
        weights = [f.weight for f in found]
        masks, clipped, u = (mean(v, weights) for v in zip(*((f.masked, f.clipped, f.u) for f in found), strict=True))
        rows = {"masks": moved}
        for name, step in (("clip(u)", clipped), ("u", u)):
            rows[name] = moved.copy()
            rows[name][span] = state[span] + step
        say(
            f"  round {number}: sampling error of the mean over clients {energy(masks - clipped) / energy(clipped):.4f}"
        )
        for lr in args.fedavg_lr:
            training = replace(prepared.federation.training, lr=lr)
            free = replace(prepared.federation, scheme=plain.scheme(), rule=own_method, training=training)
            rows[f"FedAvg, lr {lr:g}"], _ = round_of(replace(prepared, federation=free), state, number)
        reference = list(rows.values())[-1][span] - state[span]
        for name, model in rows.items():
            step = model[span] - state[span]
            cosine = float(step @ reference / (np.linalg.norm(step) * np.linalg.norm(reference)))
            say(
                f"  round {number}: {name:20} {accuracy(prepared, model):.2f} %, |step| {np.linalg.norm(step):.3f}, "
                f"cosine with the last row {cosine:.3f}"
            )


if __name__ == "__main__":
    main()
