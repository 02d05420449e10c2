"""Runs as a report compares them: runs, variants (runs that differ in the seed only), comparisons (one setting)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import ConfigError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.private import after
from fedmrn.experiments.run.record import WAYS, Record, sizes_on
from fedmrn.text import spans
from fedmrn.wire.layout import Layout


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        path: the folder.
        name: what figures call it: its path below what all runs share.
        experiment: its configuration.
        records: of its whole rounds, at least one of them tested.
        held: who holds what, shape (clients, labels); None for a run from before that was written.
        layout: of the model; None for a run from before that was written.
    """

    path: Path
    name: str
    experiment: Experiment
    records: Sequence[Record]
    held: NDArray[np.int64] | None
    layout: Layout | None = None

    @property
    def finished(self) -> bool:
        """Whether every round is there."""
        return len(self.records) == self.experiment.train.rounds


@dataclass(frozen=True)
class Variant:
    """A method with its options: the runs that differ in nothing but the seed, in the order of their seeds.

    The numbers are of `used`: the finished runs, or all of them if none is; up to the round that all of these have.
    """

    label: str
    runs: tuple[Run, ...]

    @property
    def experiment(self) -> Experiment:
        """The configuration; the seed is the first run's."""
        return self.runs[0].experiment

    @cached_property
    def used(self) -> tuple[Run, ...]:
        """The runs that the numbers are of."""
        return tuple(run for run in self.runs if run.finished) or self.runs

    @cached_property
    def records(self) -> list[Sequence[Record]]:
        """For each run used, the records of the rounds that all of them have."""
        rounds = min(len(run.records) for run in self.used)
        return [run.records[:rounds] for run in self.used]

    @cached_property
    def beyond(self) -> list[Run]:
        """Runs that are not finished and not used, or go on after the round that all have."""
        return [r for r in self.runs if r not in self.used or len(r.records) > len(self.records[0])]

    def observed(self, name: str, most: int = 1000) -> tuple[list[str], NDArray[np.float64]] | None:
        """Return what was observed of the updates under this name (`Record.observed`).

        Args:
            name: of the observation, such as "density".
            most: tensors.

        Returns:
            The names of tensors, and float64 of shape (seeds, tensors, rounds), NaN where a round does not say it;
            None if nothing was observed, or of more tensors.
        """
        tables = [[record.observed.get(name, {}) for record in records] for records in self.records]
        tensors = list(dict.fromkeys(tensor for seed in tables for table in seed for tensor in table))
        if not tensors or len(tensors) > most:
            return None
        values = [[[table.get(tensor, np.nan) for table in seed] for tensor in tensors] for seed in tables]
        return tensors, np.array(values, np.float64)

    @property
    def layout(self) -> Layout | None:
        """The tensors of the model, from the first run that kept them."""
        return next((run.layout for run in self.runs if run.layout is not None), None)

    @property
    def whole(self) -> bool:
        """Whether the numbers are of all rounds."""
        return len(self.records[0]) == self.experiment.train.rounds

    @property
    def progress(self) -> str:
        """The rounds that the numbers are of, such as 30, or 12 of 30."""
        done = f"{len(self.records[0])}"
        return done if self.whole else f"{done} of {self.experiment.train.rounds}"

    @property
    def folders(self) -> str:
        """The names of the folders, seeds taken together: digits/fedmrn-seed1-3."""
        stems = {run.name.removesuffix(str(run.experiment.seed)) for run in self.runs}
        if len(stems) == 1 and all(run.name.endswith(str(run.experiment.seed)) for run in self.runs):
            return stems.pop() + spans(run.experiment.seed for run in self.runs).replace(" ", "")
        return ", ".join(run.name for run in self.runs)

    def notes(self) -> list[str]:
        """Say what is not finished, and what the numbers are of then."""
        late = [run for run in self.runs if not run.finished]
        if not late:
            return [*self._calibrated(), *self._private()]
        stand = ", ".join(f"seed {r.experiment.seed} at round {len(r.records)}" for r in late)
        which = f"seed{'s' * (len(self.used) > 1)} {spans(r.experiment.seed for r in self.used)}"
        rounds = f"up to round {len(self.records[0])}"
        text = f"{self.label}: {stand} of {self.experiment.train.rounds}; its numbers are of {which} {rounds}"
        return [text, *self._calibrated(), *self._private()]

    def _private(self) -> list[str]:
        """Say which epsilon the rounds have where masks are private; nothing where they are not."""
        run = self.used[0]
        if run.layout is None or not run.experiment.scheme().theta:
            return []
        try:
            return [f"{self.label}: {after(run.experiment, run.layout, self.records[0])}"]
        except ConfigError as error:
            return [f"{self.label}: {error}"]

    def _calibrated(self) -> list[str]:
        """Say what calibration of the last model did and took; nothing where it was not calibrated."""
        last = [next(r for r in reversed(records) if r.accuracy is not None) for records in self.records]
        found = [
            (100 * taken.accuracy, 100 * record.accuracy, taken)
            for record in last
            if (taken := record.calibration) is not None and taken.accuracy is not None and record.accuracy is not None
        ]
        if not found:
            return []
        before, after = fmean(b for b, _, _ in found), fmean(a for _, a, _ in found)
        up, down = (fmean(sizes_on(way, calibration).total for _, _, calibration in found) / 1e6 for way in WAYS)
        return [
            f"{self.label}: calibrated, the last model goes from {before:.2f} to {after:.2f} %; that takes {up:.2f} MB "
            f"up and {down:.2f} down, beside the updates"
        ]


@dataclass(frozen=True)
class Comparison:
    """One setting (data, split, model, training): everything in it can be compared.

    Attributes:
        title: what the setting is.
        name: what distinguishes it from the other settings; empty if there is one only.
        variants: what ran in it, in the order of the table of methods.
    """

    title: str
    name: str
    variants: tuple[Variant, ...]

    @property
    def experiment(self) -> Experiment:
        """A configuration with this setting."""
        return self.variants[0].experiment

    @property
    def runs(self) -> list[Run]:
        """The runs of all variants."""
        return [run for variant in self.variants for run in variant.runs]

    def notes(self) -> list[str]:
        """Say of each variant what is not finished."""
        return [note for variant in self.variants for note in variant.notes()]
