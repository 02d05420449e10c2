"""Trees of servers: what an edge is assigned, the updates that it takes, its partial sum, and forged ones."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, replace
from typing import Any

import numpy as np

from fedmrn import errors as e
from fedmrn.errors import FrameError
from fedmrn.methods import METHODS
from fedmrn.server import EdgeRound, Round
from fedmrn.server.partials import form_of
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.partial import Partial, read_sums
from making.damage import with_header
from making.federation import CLIENTS, Play, Setting
from making.folder import Folder, Record
from making.layouts import LAYOUTS
from making.readers import fault_of

HERE = ("ann", "cyd")
"""The clients of the edge; bob answers at the root."""
SETTINGS = (
    Setting(name="tree-waits", about="A first round: whole updates wait, and go up as they came.", method="fedmrn"),
    Setting(name="tree-masks", about="Masks are summed, side data waits.", method="fedmrn-s", rounds=2),
    Setting(name="tree-floats", about="Floats: a sum with what is finer than its unit.", method="fedavg", rounds=2),
    Setting(
        name="tree-planes",
        about="Two planes are summed: values, and what was kept.",
        method="fedsparsify-local",
        layout="lean",
        options={"rounds": 2},
        rounds=2,
    ),
)


def trees(folder: Folder) -> list[Record]:
    """Play every setting; return what the index says of the trees.

    Raises:
        ValueError: a forged sum is not refused, or by another error.
    """
    return [_tree(folder, replace(setting, down="float32")) for setting in SETTINGS]


def _tree(folder: Folder, setting: Setting) -> Record:
    layout, play = LAYOUTS[setting.layout], Play(LAYOUTS[setting.layout], setting)
    for number in range(1, setting.rounds + 1):
        round_ = play.server.begin(number, CLIENTS)
        sent = {c: play.answer(c, number, round_.broadcast(c))[0].to_bytes() for c in CLIENTS}
        if number < setting.rounds:
            for client, data in sent.items():
                round_.add(client, data)
            round_.finish()
    assigned = round_.assign({"edge": HERE})["edge"]
    edge = EdgeRound.from_bytes(assigned, layout, threads=1)
    for client in HERE[::-1]:
        edge.add(client, sent[client])
    for client in (*HERE, "bob"):
        fault_of(lambda client=client: edge.add(client, sent[client]))  # type: ignore[misc]  # it is in the report
    data, path = edge.partial(), f"trees/{setting.name}"
    return {
        "name": setting.name,
        "about": setting.about,
        "method": setting.method,
        "id": METHODS[setting.method].id,
        "layout": setting.layout,
        "round": round_.number,
        "assignment": {
            "file": folder.add(f"{path}/assignment.bin", assigned),
            "clients": [
                {"index": i, "name": c, "noise_key": f"{Frame.from_bytes(sent[c]).noise_key:016x}"}
                for i, c in enumerate(CLIENTS)
                if c in HERE
            ],
        },
        "updates": [{"client": c, "file": folder.add(f"{path}/{c}.update.bin", sent[c])} for c in HERE],
        "partial": {"file": folder.add(f"{path}/partial.bin", data), **_said(folder, path, data, round_)},
        "refused": [*_refused(folder, path, data, round_)],
    }


def _said(folder: Folder, path: str, data: bytes, round_: Round) -> Record:
    form = form_of(round_.aggregator, len(HERE))
    frame = Frame.from_bytes(data)
    found = Partial.read(frame, form)
    sums: dict[str, list[Record]] = {}
    for group, section in found.sums.items():
        whole = [np.zeros(section.count, np.int64) for _ in range(form.planes_of(group))]
        finer = read_sums(section, whole)
        sums[group.name.lower()] = [
            {
                name: folder.add(f"{path}/{group.name.lower()}.{i}.{name}.i64", numbers.astype("<i8").tobytes())
                for name, numbers in (("whole", a), ("finer", b))
                if numbers is not None
            }
            for i, (a, b) in enumerate(zip(whole, finer, strict=True))
        ]
    return {
        "key": f"{found.key:016x}",
        "plan": found.plan.hex(),
        "weight": found.weight,
        "members": found.members.tolist(),
        "weights": found.weights.tolist(),
        "scales": found.scales.tolist(),
        "values": found.values.tolist(),
        "kept": {group.name.lower(): [len(body) for body in bodies] for group, bodies in found.kept.items()},
        "sums": sums,
        "tally": found.tally.tolist(),
        "floors": [[*astuple(floor)] for floor in found.floors],
        "refusals": [[client, times, name] for (client, name), times in sorted(found.refused.items())],
    }


def _refused(folder: Folder, path: str, data: bytes, round_: Round) -> Iterator[Record]:
    for name, error, why, forged in _forged(data, round_):
        found = fault_of(lambda forged=forged: round_.merge("edge", forged))  # type: ignore[misc]
        if found is not error:
            raise ValueError(f"{path}: {name} should be refused by {error.__name__}, got {found}")
        file = folder.add(f"{path}/refused/{name}.bin", forged)
        yield {"name": name, "why": why, "error": error.__name__, "file": file}


def _forged(data: bytes, round_: Round) -> Iterator[tuple[str, type[FrameError], str, bytes]]:
    form, frame = form_of(round_.aggregator, len(HERE)), Frame.from_bytes(data)
    good = Partial.read(frame, form)

    def other(**fields: Any) -> bytes:
        return replace(good, **fields).frame(form).to_bytes()

    key = with_header(data, noise_key=good.key ^ 1)
    yield "key", e.WrongKeyError, "It has another key than this edge's.", key
    yield "round", e.WrongRoundError, "It is of another round.", with_header(data, round=9)
    yield "weight", e.MalformedFrameError, "It says that it weighs more than its members.", other(weight=999)
    yield "stranger", e.UnknownClientError, "Bob answers elsewhere.", other(members=np.array([0, 1]))
    yield "twice", e.MalformedFrameError, "A member is in it twice.", other(members=np.array([2, 2]))
    yield "light", e.LimitError, "A member weighs nothing.", other(weights=good.weights * [1, 0])
    yield "plan", e.WrongParametersError, "It was made by another plan.", other(plan=bytes(16))
    if good.sums:
        yield "bound", e.BoundError, "An element is larger than its members can make it.", _beyond(frame)
        yield "padding", e.PaddingError, "An unused bit is set.", _padded(frame)
    if good.tally.size:
        yield "tally", e.BoundError, "It counts more ones than there are.", other(tally=good.tally + (1 << 40))


def _with_sum(frame: Frame, change: Mapping[str, Any]) -> bytes:
    at = next(i for i, s in enumerate(frame.sections) if s.role is Role.SUM)
    sections = (*frame.sections[:at], replace(frame.sections[at], **change), *frame.sections[at + 1 :])
    return replace(frame, sections=sections).to_bytes()


def _beyond(frame: Frame) -> bytes:
    """One number of 63 bits among zeros, in each vector of the first sum."""
    section = next(s for s in frame.sections if s.role is Role.SUM)
    vectors = len(section.params) + sum(section.params)
    blocks = -(-section.count // 128)
    size = min(128, section.count)
    one = bytes([62, 2]) + bytes(2 * (blocks - 1)) + b"\1" + bytes((2 * size + 7) // 8 - 1)
    return _with_sum(frame, {"body": one * vectors})


def _padded(frame: Frame) -> bytes:
    """All vectors are zeros but for a number of one bit in the first, whose last byte has another one set."""
    section = next(s for s in frame.sections if s.role is Role.SUM)
    blocks = -(-section.count // 128)
    last = section.count - 128 * (blocks - 1)
    bits = bytearray((last + 7) // 8)
    bits[0], bits[-1] = 1, bits[-1] | 0x80
    others = bytes(2 * blocks * (len(section.params) + sum(section.params) - 1))
    return _with_sum(frame, {"body": bytes(2 * (blocks - 1)) + bytes([0, 1]) + bytes(bits) + others})
