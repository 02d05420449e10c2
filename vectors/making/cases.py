"""The cases that are read: each setting played, and recorded as one client sees it."""

from dataclasses import replace
from typing import Any

import numpy as np

from fedmrn.codecs import Bernoulli, Rotated
from fedmrn.methods import METHODS
from fedmrn.numerics.private import Dice
from fedmrn.server.rules import frozen_weights
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import encode_update, read_model, read_state
from fedmrn.wire.public import PublicModel, public_sections
from fedmrn.wire.statistics import read_statistics
from fedmrn.wire.terms import read_caps, read_scales, read_terms
from making.federation import CLIENTS, F32, RECORDED, Play, Setting, codecs_of, update_values
from making.folder import LONGEST, Folder, Record
from making.layouts import LAYOUTS
from making.settings import SETTINGS

LOST = 2
"""The round whose update gets lost, where one does."""


def cases(folder: Folder) -> list[Record]:
    """Play every setting; return what the index says of the cases."""
    return [_Recorder(folder, setting).case() for setting in SETTINGS]


def header(frame: Frame) -> Record:
    """Return what the index says of a frame's header and sections."""
    sections = [
        {
            "codec": s.codec,
            "role": s.role.name.lower(),
            "group": s.group.name.lower(),
            "elements": s.count,
            "parameters": s.params.hex(),
        }
        for s in frame.sections
    ]
    found = {
        "round": frame.round,
        "noise_key": f"{frame.noise_key:016x}",
        "weight": frame.weight,
        "sections": sections,
    }
    if any(s.role is Role.TERMS for s in frame.sections):
        told: dict[str, Any] = dict(read_terms(frame))
        lists = {"caps": list(read_caps(frame)), "scales": list(read_scales(frame))}
        found["terms"] = {**told, **{name: row for name, row in lists.items() if row}}
    return found


class _Recorder:
    """Plays one setting and writes down what the recorded client receives and sends."""

    def __init__(self, folder: Folder, setting: Setting) -> None:
        self.folder, self.setting = folder, setting
        self.layout = LAYOUTS[setting.layout]
        self.play = Play(self.layout, setting)
        self.frames: list[Record] = []
        self.codecs: set[int] = set()
        self.first_public: PublicModel | None = None

    def case(self) -> Record:
        """Return what the index says of the case."""
        first = self.setting.first
        for number in range(first, first + self.setting.rounds):
            self.round(number)
        if self.setting.calibrated:
            self.calibration()
        method = METHODS[self.setting.method]
        found: Record = {
            "name": self.setting.name,
            "about": self.setting.about,
            "method": method.name,
            "id": method.id,
            "layout": self.setting.layout,
            "codecs": sorted(self.codecs),
        }
        publisher = self.play.server.publisher
        if publisher is not None and publisher.grid.from_start:
            found["start"] = self.values("start", self.play.start)
        codec = self.play.server.scheme.codecs[Group.CODED]
        if isinstance(codec, Bernoulli):
            found["frozen"] = self.values("frozen", frozen_weights(self.layout, codec.seed))
        return {**found, "frames": self.frames}

    def round(self, number: int) -> None:
        """Play a round, and record one client's part in it."""
        server = self.play.server
        round_ = server.begin(number, CLIENTS)
        place = number - self.setting.first + 1
        for client in CLIENTS:
            data = round_.broadcast(client)
            if self.setting.lost and client == RECORDED:
                data = self.as_if_lost(place, Frame.from_bytes(data)).to_bytes()
            update, vector, key = self.play.answer(client, number, data)
            if client == RECORDED:
                broadcast = Frame.from_bytes(data)
                state = round_.shown if server.scheme.grid else read_state(broadcast, self.layout)
                self.record("broadcast", place, broadcast, state)
                if self.setting.lost and place == LOST:
                    continue
                self.update(place, broadcast, update, state, vector, key)
            round_.add(client, update.to_bytes())
        if number + 1 < 1 << 32:
            round_.finish()

    def as_if_lost(self, place: int, broadcast: Frame) -> Frame:
        """Return what a client is sent that holds the first public model for sure: the second whole, then a difference.

        A server sends a whole one where that is shorter; here it does, whatever the lengths.
        """
        publisher = self.play.server.publisher
        if publisher is None:
            return broadcast
        self.first_public = publisher.current if place == 1 else self.first_public
        base = None if place <= LOST else self.first_public
        kept = tuple(s for s in broadcast.sections if s.role is not Role.STATE)
        return replace(broadcast, sections=kept + public_sections(publisher.current, publisher.tag, base))

    def update(self, place: int, broadcast: Frame, update: Frame, state: F32, vector: F32, key: int) -> None:
        """Record an update, and whether its values lead to it again."""
        values = update_values(update, self.layout, state)
        row = self.record("update", place, update, values)
        if vector.size <= LONGEST:
            row["vector"] = self.values(f"{place}.vector", vector)
            if self.play.server.scheme.theta:
                words = Dice(key).words(0, vector.size).tobytes()
                row["dice"] = self.folder.add(f"cases/{self.setting.name}/{place}.dice.u32", words)
            else:
                row["sampling_key"] = f"{key:016x}"
        if any(section.codec == Rotated.id for section in update.sections):
            return  # its scales are quotients of long sums, whose order is the writer's own
        again = [
            encode_update(broadcast, self.layout, values, weight=update.weight, sampling_key=other, state=state)
            for other in (1, 2, 3)
        ]
        if all(frame.to_bytes() == update.to_bytes() for frame in again):
            row["again"] = True

    def calibration(self) -> None:
        """Ask for statistics of the model, and record one client's answer."""
        calibration = self.play.server.calibrate(CLIENTS)
        for client in CLIENTS:
            frame = calibration.frame_for(client)
            answer = self.play.statistics(client, frame)
            if client == RECORDED:
                held = self.play.held[client]
                values = read_model(frame, self.layout, held, lambda: self.play.start)
                self.record("model", self.setting.rounds, frame, values)
                self.record("statistics", self.setting.rounds, answer, read_statistics(answer, self.layout))
            calibration.add(client, answer.to_bytes())
        calibration.finish()

    def record(self, kind: str, place: int, frame: Frame, values: F32) -> Record:
        """Keep a frame and what it says."""
        self.codecs |= codecs_of(frame)
        path = f"cases/{self.setting.name}/{place}.{kind}"
        row: Record = {"kind": kind, "file": self.folder.add(f"{path}.bin", frame.to_bytes()), **header(frame)}
        row["values"] = self.folder.values(f"{path}.f32", np.asarray(values))
        self.frames.append(row)
        return row

    def values(self, name: str, values: F32) -> Record:
        """Keep a vector of the case."""
        return self.folder.values(f"cases/{self.setting.name}/{name}.f32", values)
