"""The reports of a run's last rounds: as many as a server can keep, however long the run is."""

from fedmrn.federation.report import RoundReport

MOST = 1 << 17
"""Nodes asked in the rounds that are kept, all together; some fifty megabytes."""
_ALONE = 16
"""What a report takes besides, in nodes."""


class Reports(list[RoundReport]):
    """A list of reports in the order of rounds; where it grows beyond `MOST`, the first ones go.

    A run of ten nodes that train and evaluate keeps 3,640 rounds, one of a thousand nodes 65.
    """

    def append(self, report: RoundReport) -> None:
        """Add the report of a round."""
        super().append(report)
        left = sum(map(_weight, self)) - MOST
        while left > 0 and len(self) > 1:
            left -= _weight(self.pop(0))


def _weight(report: RoundReport) -> int:
    return _ALONE + sum(len(stage.asked) for stage in report.stages.values())
