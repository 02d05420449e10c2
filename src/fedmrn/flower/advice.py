"""What to tell whoever runs a federation: what went wrong with clients, what to write instead, and when to give up."""

from collections.abc import Sequence
from logging import INFO, WARNING, getLogger
from typing import NamedTuple

from fedmrn.errors import ConfigError, NoUpdatesError
from fedmrn.federation.report import RoundReport

log = getLogger("flwr").log


class _Cause(NamedTuple):
    """A mistake of a client's author.

    Attributes:
        signs: texts, one of which is in the error's line; an exception of a client's comes as its class and message.
        advice: what is wrong, and what to write.
    """

    signs: tuple[str, ...]
    advice: str


_CAUSES = (
    _Cause(
        ("Unsupported serialization type",),
        "clients read a frame as plain arrays: in @app.train(), leave out load_state_dict(...), as attach(...) of "
        "fedmrn.flower.client sets the model; in @app.evaluate(), write load(model, message) in its place, or give the "
        'strategy evaluate="arrays"',
    ),
    _Cause(
        ("plain arrays, as a stock Flower client", "where 'frame' belongs", "one record of arrays"),
        "clients do not answer by frames, as stock Flower clients do: in @app.train(), wrap the optimizer by "
        "fedmrn.flower.client.attach(model, optimizer, message, context, steps=...) and return "
        "fedmrn.flower.client.reply(optimizer, message, context, weight=...)",
    ),
    _Cause(
        ("No train function registered with name 'calibrate'",),
        "clients do not answer calibrate=True of the strategy: add to them a function with "
        '@app.train("calibrate") that returns fedmrn.flower.client.calibrate(model, message, loader)',
    ),
    _Cause(
        ("No train function registered with name 'secure'",),
        "clients do not answer protect=SecureSum(...) of the strategy: add to them a function with "
        '@app.train("secure") that returns fedmrn.flower.member.secure_sum(message, context)',
    ),
    _Cause(
        ("MethodNotAcceptedError", "and this client accepts"),
        "clients have not agreed to send what this method sends: they pass accept=... to attach(...), with the name of "
        "the method; by default only masked noise is accepted",
    ),
    _Cause(
        ("a larger model needs limits=Limits",),
        "the model is larger than what clients accept: pass limits=Limits(max_bytes=...) to attach(...), load(...) and "
        "calibrate(...), and to the strategy where updates are as large",
    ),
    _Cause(
        ("WrongLayoutError", "a model with other tensors"),
        "clients build another model than the server: names, shapes, order and choose=... must be the same as those of "
        "the layout that the strategy was given",
    ),
    _Cause(
        (
            "UnsupportedVersionError",
            "UnknownCodecError",
            "UnknownTermError",
            "this library reads version",
            "this version of the library",
            "which this version does not know",
        ),
        "clients and server have different versions of fedmrn: install the same one on all of them",
    ),
    _Cause(
        ("WrongRoundError", "WrongKeyError"),
        "clients answer with a frame of another round or node: call attach(...) on each message, and reply(...) with "
        "what it returned for that message",
    ),
    _Cause(
        ("WrongStartError", "weights that its run started with", "the run's starting weights"),
        "clients build the model with other weights than the server's, from which the public model counts: build it "
        'from the same seed or pretrained weights on all of them, or give the strategy down="grid", which counts from '
        "zero",
    ),
    _Cause(
        ("LostModelError", "the server is to send the whole model"),
        "nodes lost the public model that they held, and are sent the whole one next time; if that goes on, they can "
        "keep none: let FEDMRN_CACHE name a folder on each node that lasts and can be written",
    ),
    _Cause(
        ("finish was called already", "has finished; attach again"),
        "clients use what attach(...) returned more than once: call attach(...) anew on each message",
    ),
)
_SILENCE = (
    "no node answered in time: give start(...) a longer timeout, or look at the nodes' own logs for what keeps them"
)


class Watch:
    """Speaks of what goes wrong in a run, of each cause once, and ends a run that gets nothing.

    Args:
        give_up_after: rounds in a row without an update; None or 0: never.

    Raises:
        ConfigError: it is no number of rounds.
    """

    def __init__(self, give_up_after: int | None) -> None:
        if give_up_after is not None and (not isinstance(give_up_after, int) or give_up_after < 0):
            raise ConfigError(f"give_up_after is a number of rounds, or None for never; got {give_up_after!r}")
        self._give_up_after, self._empty = give_up_after, 0
        self._given: set[str] = set()

    def tell(self, report: RoundReport) -> None:
        """Log what came of a round's training."""
        log(INFO if len(report.folded) == len(report.asked) else WARNING, "%s", report)
        self.warn(report.round, [*report.refused, *report.failed], silence=report.silent == len(report.asked))

    def warn(self, round: int, lines: Sequence[str], *, silence: bool = False) -> None:
        """Log lines on refused and failed replies, and advice on causes that were not spoken of yet."""
        for line in lines:
            log(WARNING, "\t> round %s: %s", round, line)
        found = [cause.advice for cause in _CAUSES if any(sign in line for sign in cause.signs for line in lines)]
        for text in [*found, *([_SILENCE] * silence)]:
            if text not in self._given:
                log(WARNING, "\t! %s", text)
            self._given.add(text)

    def count(self, report: RoundReport) -> None:
        """Count a round, and end the run if it is one too many in a row that got no update.

        Raises:
            NoUpdatesError: says what came in place of updates.
        """
        self._empty = 0 if report.folded else self._empty + 1
        if not self._empty or self._empty != self._give_up_after:
            return
        nothing = _SILENCE if report.asked or report.unheard else "no node was there to ask"
        said = next(iter((*report.refused, *report.failed, *report.failed_otherwise)), nothing)
        raise NoUpdatesError(
            f"no update was folded in {self._empty} rounds in a row, of which round {report.round} is the last "
            f"({len(report.asked)} asked, {len(report.refused)} refused, {len(report.failed)} failed, {report.silent} "
            f"silent): the model has not moved since. The last round: {said}. The log says what to do; "
            "give_up_after=None goes on whatever comes"
        )
