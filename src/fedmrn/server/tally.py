"""The tally of observations: what the updates of a round show of each coded tensor, by name."""

from collections.abc import Sequence

from fedmrn.codecs import Observable, Opened
from fedmrn.errors import ConfigError
from fedmrn.server.summed import MaskSum, observed_of
from fedmrn.wire.layout import Group, Layout


class Tally:
    """Sums of what codecs say of each coded tensor; whole numbers, so that the order of clients does not matter.

    Args:
        layout: of the model; tensors without elements are left out.
    """

    def __init__(self, layout: Layout) -> None:
        self._tensors = [t for t in layout.tensors if t.group is Group.CODED and t.size]
        self._slices = [layout.slices[t.name] for t in self._tensors]  # the coded group lies first
        self.sums: dict[Observable, list[int]] = {}

    def add(self, opened: Opened) -> None:
        """Add what an opened section of the coded group says."""
        for observable, numbers in opened.observed(self._slices).items():
            self._put(observable, numbers)

    def add_sum(self, total: MaskSum, opened: Opened) -> None:
        """Add what all updates of a round say, given their sum and a mask of ones over the same noise."""
        for observable, numbers in observed_of(total, opened, self._slices).items():
            self._put(observable, numbers)

    def merge(self, other: "Tally") -> None:
        """Add another part's sums."""
        for observable, numbers in other.sums.items():
            self._put(observable, numbers)

    def _put(self, observable: Observable, numbers: Sequence[int]) -> None:
        before = self.sums.get(observable)
        if before is None:
            before = [0] * len(numbers)
        self.sums[observable] = [a + b for a, b in zip(before, numbers, strict=True)]

    def means(self, clients: int) -> dict[str, dict[str, float]]:
        """Return the mean over so many clients: name of the observable -> name of the tensor -> value.

        Raises:
            ConfigError: two observables have one name.
        """
        found: dict[str, dict[str, float]] = {}
        for observable, numbers in self.sums.items():
            if observable.name in found:
                raise ConfigError(f"two observables are called {observable.name!r}: give one another name")
            each = zip(self._tensors, numbers, strict=True)
            found[observable.name] = {t.name: float(observable.mean(n, t.size, clients)) for t, n in each}
        return {name: means for name, means in found.items() if means}
