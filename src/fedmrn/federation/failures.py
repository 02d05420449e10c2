"""What clients said in place of an answer, in a round's report: each client once, and not if it answers after all."""

from fedmrn.federation.report import RoundReport
from fedmrn.federation.transport import MessageKind


class Failures:
    """The failures of a round, which its report holds.

    Args:
        noun: what a client is called in the report.
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._said: dict[tuple[MessageKind, int], str] = {}

    def note(self, report: RoundReport, client: int, kind: MessageKind, reason: str) -> str:
        """Note a failure that stays, whatever the client answers; return its line."""
        line = f"{self._noun} {client}: {'' if kind is MessageKind.TRAIN else f'{kind}: '}{reason}"
        _lines(report, kind).append(line)
        return line

    def replace(self, report: RoundReport, client: int, kind: MessageKind, reason: str) -> None:
        """Note a failure in the place of the one that this client had before."""
        self.withdraw(report, client, kind)
        self._said[kind, client] = self.note(report, client, kind, reason)

    def withdraw(self, report: RoundReport, client: int, kind: MessageKind) -> None:
        """Take back the failure of a client that answers after all, if it had one."""
        line = self._said.pop((kind, client), None)
        if line is not None:
            _lines(report, kind).remove(line)


def _lines(report: RoundReport, kind: MessageKind) -> list[str]:
    return report.failed if kind is MessageKind.TRAIN else report.failed_otherwise
