"""The entropy of a mask's bits given what both sides know, measured on one more client of a finished run.

    python studies/contexts.py runs/fmnist-iid/fedmrn-seed1 --data-dir data

The run's next round is done in full, for the last global step; then one client of the round after it trains, and its
mask is looked at: the empirical entropy of its bits given several contexts, the table that each would have to send
(a byte a context), the information in the mask, and the real bodies of the codecs that shorten masks.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from runs import WatchedClients, server_of, take_up

from fedmrn.codecs import CodedMask, EncodeKeys, MaskedNoise, RandomCode, ShorterMask
from fedmrn.errors import UsageError
from fedmrn.federation.simulation import simulate
from fedmrn.numerics.masking import probability
from fedmrn.wire.layout import Group, Layout

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]


def entropy(p: Reals) -> Reals:
    """Return the entropy of a coin in bits; 0 for one that is certain."""
    inside = np.clip(p, 1e-300, 1)
    other = np.clip(1 - p, 1e-300, 1)
    return -(p * np.log2(inside) + (1 - p) * np.log2(other))


def given(mask: NDArray[np.bool_], *features: Ints) -> tuple[float, int]:
    """Return the entropy of a bit given all features, in bits an element, and how many combinations of them occur."""
    context = np.zeros(mask.size, np.int64)
    for feature in features:
        context = context * (int(feature.max()) + 1) + feature
    _, context = np.unique(context, return_inverse=True)
    totals = np.bincount(context)
    return float((totals * entropy(np.bincount(context, mask) / totals)).sum() / mask.size), totals.size


def places(layout: Layout) -> dict[str, Ints]:
    """For each coded element: its tensor, output and input channel, and place in the kernel."""
    found: dict[str, list[Ints]] = {name: [] for name in ("tensor", "out", "in", "kernel")}
    for i, tensor in enumerate(t for t in layout.tensors if t.group is Group.CODED):
        at = np.indices(tensor.shape).reshape(len(tensor.shape), -1)
        nothing = np.zeros(tensor.size, np.int64)
        found["tensor"].append(nothing + i)
        found["out"].append(at[0])
        found["in"].append(at[1] if len(at) > 1 else nothing)
        found["kernel"].append(at[2] * tensor.shape[3] + at[3] if len(at) == 4 else nothing)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def quarters(x: NDArray[np.float32]) -> Ints:
    """Which quarter of the magnitudes each element is in."""
    size = np.abs(x)
    return np.searchsorted(np.quantile(size, [0.25, 0.5, 0.75]), size)


def agrees(noise: NDArray[np.float32], x: NDArray[np.float32]) -> Ints:
    """0, 1 or 2: x points against the noise, is zero, or points with it."""
    return (np.sign(noise) * np.sign(x)).astype(np.int64) + 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder of fedmrn or fedmrn-s")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    try:
        run = take_up(arguments.run, arguments.data_dir)
    except UsageError as error:
        parser.error(str(error))
    codec = run.codec
    if not isinstance(codec, MaskedNoise | ShorterMask):
        parser.error(f"{run.method} sends no mask over noise of one scale")
    federation, number = replace(run.prepared.federation, rounds=run.round + 1), run.round + 2
    console = Console()
    console.print(f"{arguments.run}: round {number - 1} in full, then a client of round {number} ...", soft_wrap=True)
    (result,) = simulate(federation, run.prepared.model, run.state, first=number - 1)
    client = federation.sampled(number)[0]
    broadcast = server_of(federation, run.layout, result.state).begin(number, [client]).broadcast(client)
    u, frame = WatchedClients(federation, run.prepared.model)(client, broadcast)
    keys = EncodeKeys(frame.noise_key, 1, run.layout.sizes(Group.CODED))
    report(console, u, codec.masked, keys, run.layout, result.state, run.state)


def report(
    console: Console,
    u: NDArray[np.float32],
    inner: MaskedNoise,
    keys: EncodeKeys,
    layout: Layout,
    state: NDArray[np.float32],
    before: NDArray[np.float32],
) -> None:
    """Print what each context gives."""
    d = u.size
    n = inner.noise.chunk(keys.noise, 0, d)
    mask = inner.decode(inner.encode(u, keys), d, keys.noise) == n
    w, step = state[:d], state[:d] - before[:d]
    at = places(layout)
    tensor, bucket = at["tensor"], np.minimum((np.abs(n) / inner.noise.bound * 16).astype(np.int64), 15)
    neighbours = [np.where(np.roll(mask, k), agrees(n, np.roll(n, k)), 1) for k in (1, 9)]
    column = tensor * (int(at["out"].max()) + 1) + at["out"]
    columns = np.bincount(column, mask) / np.maximum(np.bincount(column), 1)
    density = np.minimum((columns * 16).astype(np.int64), 15)[column]
    rows = {
        "tensor": (tensor,),
        "tensor, |n|": (tensor, bucket),
        "... and place in the kernel": (tensor, bucket, at["kernel"]),
        "... and output channel": (tensor, bucket, at["out"]),
        "... and input channel": (tensor, bucket, at["in"]),
        "... and density of the channel": (tensor, bucket, density),
        "... and sign, size of the weight": (tensor, bucket, agrees(n, w), quarters(w)),
        "... and sign, size of the last step": (tensor, bucket, agrees(n, step), quarters(step)),
        "... and the element before": (tensor, bucket, neighbours[0]),
        "... and those one, nine before": (tensor, bucket, *neighbours),
    }
    out = Table("known of an element", "entropy", "contexts", "their table", "together", title="bits an element")
    out.columns[0].no_wrap = True
    for name, features in rows.items():
        bits, contexts = given(mask, *features)
        out.add_row(name, f"{bits:.4f}", str(contexts), f"{8 * contexts / d:.4f}", f"{bits + 8 * contexts / d:.4f}")
    console.print(out)
    p = probability(u, n, inner.mask).astype(np.float64)
    context = tensor * 16 + bucket
    prior = (np.bincount(context, p) / np.maximum(np.bincount(context), 1))[context]
    own = float(entropy(p).mean())
    information = float(entropy(prior).mean()) - own
    console.print(f"density {mask.mean():.4f}, sampling entropy {own:.4f}, information {information:.4f} (tensor, |n|)")
    lower = np.zeros_like(n) if inner.mask == 0 else -n
    ideal = float(((n - lower).astype(np.float64) ** 2 * p * (1 - p)).sum())
    target = lower + p * (n - lower)
    for shorter in (CodedMask(inner), RandomCode(inner)):
        body = shorter.encode(u, keys)
        values = shorter.decode(body, d, keys.noise)
        error = float(((values - target) ** 2).sum()) / ideal
        slope = float(values @ u) / float(target @ u)
        console.print(
            f"{shorter.name}: {len(body)} bytes, {8 * len(body) / d:.4f} bits; error {error:.3f}, slope {slope:.4f}"
        )
        edges = [-1.0, 0.0, *np.linspace(0.1, 0.9, 9), 1 - 1e-9, 1.0]
        group = np.digitize(p, edges, right=True)
        means = (f"{p[group == g].mean():.2f} {(values == n)[group == g].mean():.3f}" for g in np.unique(group))
        console.print("  p, and how often the bit is 1: " + ", ".join(means), soft_wrap=True)


if __name__ == "__main__":
    main()
