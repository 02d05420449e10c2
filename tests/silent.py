"""For runs in the tests' own process."""

from contextlib import AbstractContextManager, nullcontext

from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.record import Record


class Silent:
    """A run's progress, told to nobody."""

    def wait(self, text: str) -> AbstractContextManager[None]:
        return nullcontext()

    def start(self, experiment: Experiment, done: int) -> None: ...

    def note(self, text: str) -> None: ...

    def client(self, done: int) -> None: ...

    def round(self, record: Record) -> None: ...

    def warn(self, text: str) -> None: ...
