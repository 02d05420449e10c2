"""The plan of a federation over HTTP: how many rounds, with whom, for how long, and what clients are told."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

from fedmrn.errors import ConfigError
from fedmrn.http.metrics import MOST_BYTES
from fedmrn.numerics.rng import Purpose, Stream, derive_key, domain
from fedmrn.server import Server
from fedmrn.whole import whole

Value = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a federation over HTTP does.

    Attributes:
        rounds: how many.
        clients_per_round: drawn without replacement for each round, from those that asked for work lately.
        wait_for: a round begins once so many clients asked lately; by default `clients_per_round`.
        config: what clients are told with each task, such as {"lr": 0.1}: texts, numbers and truth values.
        deadline: seconds that clients have for a round, or for an evaluation.
        least: updates without which a round does not end; its deadline is put off then.
        give_up_after: deadlines in a row without so many updates, after which the run ends with an error.
        evaluate_every: clients evaluate the model after rounds that are multiples of this, and the last; 0: never.
        evaluators: how many of them; by default all that asked for work lately.
        seed: of the draw of clients, as in a simulation of this seed; by default the server's secret.

    Raises:
        ConfigError: a number is out of range, or the configuration cannot travel.
    """

    rounds: int
    clients_per_round: int
    wait_for: int = 0
    config: Mapping[str, Value] = field(default_factory=dict)
    deadline: float = 3600.0
    least: int = 1
    give_up_after: int = 3
    evaluate_every: int = 0
    evaluators: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "clients_per_round", "least", "give_up_after"):
            whole(getattr(self, name), name)
        for name in ("wait_for", "evaluate_every"):
            whole(getattr(self, name), name, least=0)
        if self.evaluators is not None:
            whole(self.evaluators, "evaluators")
        if not (self.deadline > 0 and isfinite(self.deadline)):
            raise ConfigError(f"deadline is a positive number of seconds, got {self.deadline}")
        if self.least > self.clients_per_round:
            raise ConfigError(f"least is {self.least}, and a round has {self.clients_per_round} clients")
        _ = self.told

    @property
    def told(self) -> str:
        """The configuration as it travels: JSON in ASCII.

        Raises:
            ConfigError: it is longer than 4,096 characters, or has a value of another type.
        """
        for name, value in self.config.items():
            if not isinstance(name, str) or not isinstance(value, str | int | float | bool):
                raise ConfigError(f"config holds texts, numbers and truth values by name; got {name!r}: {value!r:.60}")
        try:
            text = json.dumps(dict(self.config), separators=(",", ":"), allow_nan=False)
        except ValueError as error:
            raise ConfigError("config holds a number that is not finite") from error
        if len(text) > MOST_BYTES:
            raise ConfigError(f"config is {len(text):,} characters as JSON, at most {MOST_BYTES:,} can be")
        return text

    @property
    def wanted(self) -> int:
        """How many clients a round waits for before it begins."""
        return max(self.wait_for, self.clients_per_round)

    def draw(self, server: Server, round: int, clients: Sequence[int]) -> list[int]:
        """Return a round's clients, in increasing order: of all that are given, as a simulation draws them."""
        return sorted(self._drawn("clients", server, round, clients)[: self.clients_per_round])

    def draw_evaluators(self, server: Server, round: int, clients: Sequence[int]) -> list[int]:
        """Return who evaluates the model after a round, in increasing order."""
        return sorted(self._drawn("evaluators", server, round, clients)[: self.evaluators])

    def evaluates(self, round: int) -> bool:
        """Return whether clients evaluate the model after this round."""
        every = self.evaluate_every
        return bool(every) and (round % every == 0 or round == self.rounds)

    def _drawn(self, label: str, server: Server, round: int, clients: Sequence[int]) -> list[int]:
        key = derive_key(server.secret if self.seed is None else self.seed, label)
        order = Stream(key, domain(Purpose.CLIENTS, round)).permutation(len(clients))
        return [clients[i] for i in order.tolist()]
