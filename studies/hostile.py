"""One hostile client of ten on digits: what it does to accuracy when it sends the most that is legal, every round.

    python studies/hostile.py [--seeds 1 2 3] [--rounds 20] [--methods fedavg fedmrn fedmrn-auto]

`signs`: the largest magnitudes that the server takes, with signs at random. `negated`: against what it would have sent
honestly, as large as the server takes. `without`: ten honest clients. Accuracies are means over the last five rounds,
then over seeds. Each run is a line of `studies/results/hostile.jsonl`; those that are there are not run again.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fedmrn.codecs import codec_from
from fedmrn.errors import EncodeError, FrameError
from fedmrn.experiments.run.prepare import prepare
from fedmrn.experiments.settings import load_setting
from fedmrn.federation.simulation import simulate
from fedmrn.federation.transport import Message, Reply, Transport
from fedmrn.server import Server
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout
from fedmrn.wire.messages import encode_update

RESULTS = Path(__file__).parent / "results" / "hostile.jsonl"
ATTACKS = ("without", "signs", "negated")
METHODS = {"fedavg": ("fedavg", {}), "fedmrn": ("fedmrn", {"scale": 0.01}), "fedmrn-auto": ("fedmrn", {})}
LAST, LARGEST = 5, 10_000.0
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Hostile:
    """A transport whose client 0 sends what an attack says in place of its update.

    Attributes:
        inner: to the clients.
        layout: of the model.
        attack: signs or negated.
    """

    inner: Transport
    layout: Layout
    attack: str

    def ask(self, messages: Iterable[Message]) -> Iterator[Reply]:
        """Pass messages on, and change the reply of client 0."""
        sent: dict[int, Frame] = {}

        def seen() -> Iterator[Message]:
            for message in messages:
                if message.client == 0:
                    sent[0] = Frame.from_bytes(message.data)
                yield message

        for reply in self.inner.ask(seen()):
            yield reply if reply.client else replace(reply, data=self._changed(sent[0], Frame.from_bytes(reply.data)))

    def _changed(self, broadcast: Frame, frame: Frame) -> bytes:
        rng = np.random.default_rng(frame.round)
        vector = np.where(rng.random(self.layout.size) < 0.5, 1, -1).astype(np.float32)
        if self.attack == "negated":
            for s in frame.sections:
                where = self.layout.span(s.group)
                vector[where] = -np.sign(codec_from(s.codec, s.params).decode(s.body, s.count, frame.noise_key))
        vector *= np.float32(LARGEST)
        if Group.CODED is not frame.sections[0].group:
            raise ValueError("the first section is of the coded group")
        key = int(rng.integers(1 << 63))
        return encode_update(broadcast, self.layout, vector, weight=frame.weight, sampling_key=key).to_bytes()


def run(name: str, attack: str, seed: int, rounds: int) -> list[float]:
    """Return the accuracy after each round; fewer where training diverges."""
    method, options = METHODS[name]
    changes = [f"train.rounds={rounds}", "train.threads=1", *(f"method.{method}.{k}={v}" for k, v in options.items())]
    prepared = prepare(load_setting("digits", changes).experiment(method, seed), Path())
    federation, view = prepared.federation, ModelLayout.of(prepared.model)
    state = Server.initial(view.layout, federation.scheme, view.read())
    with federation.in_process(prepared.model) as clients:
        transport = clients if attack == "without" else Hostile(clients, view.layout, attack)
        found = []
        with suppress(FrameError, EncodeError):  # an honest client's update is not finite, or beyond all limits
            for result in simulate(federation, prepared.model, state, transport=transport):
                found += [] if result.accuracy is None else [result.accuracy]
        return found


def measure(names: Iterable[str], seeds: Iterable[int], rounds: int) -> list[dict[str, Any]]:
    """Return a record for each run, running those that are not in `RESULTS` yet."""
    RESULTS.parent.mkdir(exist_ok=True)
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    found = []
    for name in names:
        for seed in seeds:
            for attack in ATTACKS:
                key = {"method": name, "attack": attack, "seed": seed, "rounds": rounds}
                known = next((d for d in done if key.items() <= d.items()), None)
                if known is None:
                    sys.stdout.write(f"{name}, {attack}, seed {seed} ...\n")
                    sys.stdout.flush()
                    known = {**key, "accuracy": run(name, attack, seed, rounds)}
                    with RESULTS.open("a") as file:
                        file.write(json.dumps(known) + "\n")
                found.append(known)
    return found


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    given = parser.parse_args()
    found = measure(given.methods, given.seeds, given.rounds)
    table = Table("method", *ATTACKS, title=f"digits, {given.rounds} rounds, seeds {given.seeds}: accuracy in %")
    for name in given.methods:
        cells = []
        for attack in ATTACKS:
            runs: list[list[float]] = [r["accuracy"] for r in found if (r["method"], r["attack"]) == (name, attack)]
            whole = all(len(accuracies) == given.rounds for accuracies in runs)
            cells.append(f"{100 * fmean(fmean(a[-LAST:]) for a in runs):.2f}" if whole else "diverges")
        table.add_row(name, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
