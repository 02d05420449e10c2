"""A run's folder on the server, from which a run that was stopped at any moment goes on.

checkpoint.bin    what the server keeps after the last round that moved it (`fedmrn.server.saved`), the secret too
run.jsonl         the run's settings, and then a line for each part of a round that is over: who is asked, training,
                  evaluation by nodes, evaluation by the server
.lock             held by the process that runs

A line of training is on disk before the checkpoint that counts it. Lines after the checkpoint's round are of rounds
that are done again: of one that was stopped, and of those before it in which no update was folded.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedmrn.errors import ConfigError, RunError
from fedmrn.federation.report import RoundReport
from fedmrn.federation.transport import MessageKind
from fedmrn.files import append, clear_scraps, locked, read_file, write_atomic
from fedmrn.flower.kept_lines import KeptLine, RoundPart, line_of, text_of
from fedmrn.parsed import parse_json
from fedmrn.server import Server
from fedmrn.server.saved import FILE as CHECKPOINT

FILE = "run.jsonl"
_MOST = 1 << 30
_ANEW = "; to start anew, delete checkpoint.bin beside it"
_OTHER = "give the same, or another checkpoint folder for a new run"


class KeptRun:
    """A run's folder.

    Args:
        folder: of the run; made, with those above it, when the run starts.
        settings: what must be the same whenever it goes on, by name (`fedmrn.flower.kept_lines.settings_of`).

    Attributes:
        done: the number of rounds that are over when it goes on, but for evaluation of the last.

    Raises:
        ConfigError: filelock is not installed.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        if find_spec("filelock") is None:
            raise ConfigError("checkpoint=... locks its folder by filelock: pip install filelock")
        self.folder, self.done = folder, 0
        self._settings = settings
        self._lines: dict[tuple[RoundPart, int], KeptLine] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and lock it for this process.

        Raises:
            RunError: another process has it, or it cannot be written.
        """
        with ExitStack() as held:
            with self._writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.folder))
            clear_scraps(self.folder)
            yield

    def go_on(self, new: Server, rounds: int, secret: bytes | None) -> Server | None:
        """Return the server as it was after the last round that is over; None where the run begins.

        Args:
            new: a server that begins; one that goes on has its layout, scheme, limits and clipping.
            rounds: that are asked for in all.
            secret: that the server must have; None for any.

        Raises:
            RunError: the folder holds another run, or a damaged one, or cannot be written.
        """
        if not (self.folder / CHECKPOINT).exists():
            self.done, self._lines = 0, {}
            self._write()  # first: a checkpoint without settings could be of any run
            self.save(new)
            return None
        settings, lines = self._read()
        for name in {**self._settings, **settings}:
            found, asked = settings.get(name), self._settings.get(name)
            if found != asked:
                raise RunError(f"{self.folder} holds a run with {name} = {found!r}, not {asked!r}: {_OTHER}")
        server = Server.load(self.folder, new.layout, new.scheme, limits=new.limits, clipping=new.clipping)
        if secret is not None and secret != server.secret:
            raise RunError(f"{self.folder} holds a run with another secret: leave secret out, or {_OTHER}")
        self.done = done = server.round
        if done > rounds:
            raise RunError(
                f"{self.folder} holds {done} rounds, more than the num_rounds = {rounds} that are asked for: ask for "
                f"{done} or more, or give another checkpoint folder for a new run"
            )
        self._lines = {key: line for key, line in lines.items() if key[1] <= done or key == (RoundPart.ASKED, done + 1)}
        if rounds > done and any(MessageKind.CALIBRATE in report.stages for report in self.reports):
            raise RunError(
                f"{self.folder} holds a run of {done} rounds that calibrated its last model: they are not the first of "
                f"{rounds}; give another checkpoint folder for a new run"
            )
        self._write()
        return server

    def save(self, server: Server) -> None:
        """Put away what the server keeps: as a whole, or not at all."""
        with self._writing():
            server.save(self.folder)

    def find(self, part: RoundPart, round: int) -> KeptLine | None:
        """Return what is known of a part of a round."""
        return self._lines.get((part, round))

    def is_over(self, part: RoundPart, round: int) -> bool:
        """Whether a part of a round is not to be done again; of rounds before the last, none is."""
        return round < self.done or (part, round) in self._lines or (part is RoundPart.TRAIN and round == self.done)

    def note(self, part: RoundPart, round: int, line: KeptLine) -> None:
        """Put away that a part of a round is over."""
        with self._writing():
            append(self.folder / FILE, text_of(part, round, line))

    @property
    def reports(self) -> list[RoundReport]:
        """What came of each round that is over, as far as it is known."""
        found = (
            self._lines.get((part, n))
            for n in range(1, self.done + 1)
            for part in (RoundPart.EVALUATE, RoundPart.TRAIN)
        )
        newest: dict[int, RoundReport] = {}
        for line in found:
            if line is not None and line.report is not None:
                newest.setdefault(line.report.round, line.report)
        return list(newest.values())

    def asked_again(self, round: int, nodes: list[int], connected: Iterable[int], least: int) -> list[int]:
        """Return the nodes that a round asks: those that it asked before it was stopped, as far as they are there.

        Args:
            round: its number.
            nodes: that were sampled now; returned where it asked none, or fewer than `least` of them are there.
            connected: who is there.
            least: how many are asked at least.
        """
        line, there = self.find(RoundPart.ASKED, round), set(connected)
        before = [] if line is None else [node for node in line.nodes if node in there]
        return before if before and len(before) >= least else nodes

    def _write(self) -> None:
        lines = [json.dumps({"settings": self._settings}).encode() + b"\n"]
        lines += [text_of(part, round, line) for (part, round), line in self._lines.items()]
        with self._writing():
            write_atomic(self.folder / FILE, b"".join(lines), private=True)

    def _read(self) -> tuple[dict[str, Any], dict[tuple[RoundPart, int], KeptLine]]:
        path = self.folder / FILE
        data = read_file(path, _MOST, _ANEW)
        if data is None:
            raise RunError(f"{self.folder} holds a server's checkpoint that is not of a Flower run: {_OTHER}")
        first, *rest = data.split(b"\n")[:-1] or [b""]  # what follows the last line's end was not written as a whole
        lines: dict[tuple[RoundPart, int], KeptLine] = {}
        try:
            settings = parse_json(first)["settings"]
            if not isinstance(settings, dict):
                raise TypeError("settings are a table")
            for line in rest:
                values = parse_json(line, finite=False)  # a loss may be infinite
                lines[RoundPart(values["part"]), int(values["round"])] = line_of(values)
        except (ConfigError, TypeError, ValueError, KeyError, AttributeError) as error:
            number = len(lines) + 1
            raise RunError(f"{path} is damaged, about line {number} ({error}); put it right{_ANEW}") from error
        return settings, lines

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{error.filename or self.folder}: {error.strerror}; the rounds before are kept; put that right, and "
                "the same run goes on"
            ) from error
