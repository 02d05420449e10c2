"""Trees of servers: what an edge is assigned, the updates that it takes, its partial sum, and forged ones."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, replace

import numpy as np

from fedmrn import errors as e
from fedmrn.errors import FrameError
from fedmrn.methods import METHODS
from fedmrn.server import EdgeRound, Round
from fedmrn.server.partials import form_of
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Layout
from fedmrn.wire.partial import Partial, read_sums
from making.federation import CLIENTS, Play, Setting
from making.folder import Folder, Record
from making.layouts import LAYOUTS
from making.readers import fault_of
from making.refused_sums import forged_sums

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
        "given_up": _again(folder, path, layout, data, sent, round_),
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
    form = form_of(round_.aggregator, len(HERE))
    for name, error, why, forged in forged_sums(data, form, CLIENTS.index("bob")):
        _check(round_, "edge", forged, error, name)
        file = folder.add(f"{path}/refused/{name}.bin", forged)
        yield {"name": name, "why": why, "error": error.__name__, "file": file}


def _again(folder: Folder, path: str, layout: Layout, data: bytes, late: Mapping[str, bytes], round_: Round) -> Record:
    """The edge is given up, its clients answer at another one, and then its own sum comes after all."""
    assigned = round_.assign({"again": round_.give_up("edge")})["again"]
    edge = EdgeRound.from_bytes(assigned, layout, threads=1)
    for client in HERE:
        edge.add(client, late[client])
    partial, record = edge.partial(), folder.add(f"{path}/partial.bin", data)
    _check(round_, "edge", data, e.UnknownClientError, "given-up")
    _check(round_, "again", data, e.WrongKeyError, "late")
    round_.merge("again", partial)
    file = folder.add(f"{path}/again/partial.bin", partial)
    _check(round_, "again", partial, e.DuplicateFrameError, "sent-twice")
    rows = (
        ("given-up", "edge", "The edge was given up.", "UnknownClientError", record),
        ("late", "again", "It is of the edge that was given up, whose clients it has.", "WrongKeyError", record),
        ("sent-twice", "again", "It came before, and is in the sum.", "DuplicateFrameError", file),
    )
    return {
        "assignment": folder.add(f"{path}/again/assignment.bin", assigned),
        "partial": file,
        "refused": [dict(zip(("name", "edge", "why", "error", "file"), row, strict=True)) for row in rows],
    }


def _check(round_: Round, edge: str, data: bytes, error: type[FrameError], name: str) -> None:
    found = fault_of(lambda: round_.merge(edge, data))
    if found is not error:
        raise ValueError(f"{name} should be refused by {error.__name__}, got {found}")
