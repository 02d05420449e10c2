"""The trees of vectors/: read by the independent reader, summed again by fractions, and refused as they must be."""

import struct
from hashlib import blake2b
from typing import Any

import pytest
from vectors import GROUPS, INDEX, data_of, layout_of

import oracle

TREES: dict[str, Any] = {tree["name"]: tree for tree in INDEX["trees"]}
SECRET = bytes(range(16))
"""Of the server whose frames they are."""
named = pytest.mark.parametrize("name", TREES)


@named
def test_an_assignment(name: str) -> None:
    said = TREES[name]
    found = oracle.read_assignment(data_of(said["assignment"]["file"]))
    assert found["clients"] == [
        (c["index"], f"s{c['name']}", int(c["noise_key"], 16)) for c in said["assignment"]["clients"]
    ]
    assert (found["method"], found["round"]) == (said["id"], said["round"])
    assert found["layout"].hex() == INDEX["layouts"][said["layout"]]["digest"]
    assert f"{found['noise_key']:016x}" == said["partial"]["key"]
    assert oracle.plan_digest(found).hex() == said["partial"]["plan"]


@named
def test_a_partial_sum(name: str) -> None:
    said = TREES[name]["partial"]
    found = oracle.read_partial(data_of(said["file"]))
    assert (f"{found['noise_key']:016x}", found["plan"].hex()) == (said["key"], said["plan"])
    for field in ("weight", "members", "weights", "scales", "values", "tally", "floors", "refusals"):
        assert found[field] == said[field], field
    kept = {GROUPS[group]: [len(body) for body in bodies] for group, bodies in found["kept"].items()}
    assert kept == said["kept"]
    for group, planes in found["sums"].items():
        files = said["sums"][GROUPS[group]]
        for (whole, finer), stored in zip(planes, files, strict=True):
            for numbers, path in ((whole, stored["whole"]), (finer, stored.get("finer"))):
                assert (numbers is None) is (path is None)
                if path is not None:
                    assert struct.pack(f"<{len(numbers)}q", *numbers) == data_of(path)
    assert {GROUPS[group] for group in found["sums"]} == said["sums"].keys()


def updates(name: str) -> dict[str, Any]:
    return {row["client"]: oracle.read_frame(data_of(row["file"])) for row in TREES[name]["updates"]}


@named
def test_what_waits_is_what_clients_sent(name: str) -> None:
    found = oracle.read_partial(data_of(TREES[name]["partial"]["file"]))
    sent = [*updates(name).values()]
    for group, bodies in found["kept"].items():
        assert bodies == [s["body"] for frame in sent for s in frame["sections"] if s["group"] == group]
    assert found["weights"] == [frame["weight"] for frame in sent]
    assert found["floors"][0][0] == len(sent)
    assert sum(found["floors"][0][1:7]) == sum(frame["total"] for frame in sent)


@pytest.mark.parametrize("name", [name for name, tree in TREES.items() if tree["partial"]["sums"]])
def test_sums_by_fractions(name: str) -> None:
    """Every number of the first plane of the coded group, from the updates and the plan alone."""
    said = TREES[name]
    plan = oracle.read_assignment(data_of(said["assignment"]["file"]))["plan"]
    ((whole, finer), *_) = oracle.read_partial(data_of(said["partial"]["file"]))["sums"][0]
    sizes = [size for size in sizes_of(said["layout"]) if size]
    masks = any(plan["scales"]) and "masks" in name
    bounds = [2.0**cap for cap in plan["scales"]] if masks else [plan["max_value"]] * len(sizes)
    exponents = [
        oracle.unit_exponent(bound, plan) for bound, size in zip(bounds, sizes, strict=True) for _ in range(size)
    ]
    totals, rests = [0] * len(whole), [0] * len(whole)
    for frame in updates(name).values():
        weight = oracle.counted(frame["weight"], plan)
        for i, value in enumerate(frame["sections"][0]["values"]):
            a, b = oracle.in_units(value, weight, exponents[i], plan["clients"])
            totals[i] += a
            rests[i] += b
    assert totals == whole
    assert finer == (None if masks else rests)


@named
def test_the_edge_that_takes_the_clients_of_one_that_was_given_up(name: str) -> None:
    """It has another key, and the same sum."""
    said, again = TREES[name], TREES[name]["given_up"]
    first, second = (
        oracle.read_assignment(data_of(path)) for path in (said["assignment"]["file"], again["assignment"])
    )
    assert first.pop("noise_key") != second["noise_key"]
    assert (first["clients"], first["plan"]) == (second["clients"], second["plan"])
    old, new = (oracle.read_partial(data_of(path)) for path in (said["partial"]["file"], again["partial"]))
    assert new["noise_key"] == second["noise_key"]
    for field in ("plan", "weight", "members", "weights", "scales", "values", "kept", "sums", "tally"):
        assert old[field] == new[field], field
    files = {row["name"]: row["file"] for row in again["refused"]}
    assert files["given-up"] == files["late"] == said["partial"]["file"]
    assert files["sent-twice"] == again["partial"]


@named
def test_keys_of_edges_hold_their_clients(name: str) -> None:
    """By the secret that the vectors are made with."""
    said, again = TREES[name], TREES[name]["given_up"]
    run = (oracle.derived_key(b"vectors", "run", name).to_bytes(8, "little") * 2).hex()
    for edge, path in (("edge", said["assignment"]["file"]), ("again", again["assignment"])):
        found = oracle.read_assignment(data_of(path))
        records = b"".join(struct.pack("<IQI", i, key, len(c)) + c.encode() for i, c, key in found["clients"])
        who = blake2b(records, digest_size=16).hexdigest()
        key = oracle.derived_key(SECRET, "edge", run, found["round"], edge, who)
        assert key == found["noise_key"]


def sizes_of(layout: str) -> list[int]:
    found = []
    for _, shape, group in layout_of(layout):
        size = 1
        for n in shape:
            size *= n
        if group == 0:
            found.append(size)
    return found


def test_the_trees_are_complete() -> None:
    said = [tree["partial"] for tree in TREES.values()]
    assert any(not part["sums"] for part in said), "whole updates wait"
    assert any(part["sums"] and part["kept"] for part in said), "side data waits"
    assert any(len(part["sums"].get("coded", [])) > 1 for part in said), "several planes"
    assert {"finer" in part["sums"]["coded"][0] for part in said if part["sums"]} == {True, False}
    assert any(any(map(any, part["scales"])) for part in said)
    rows = [row for tree in TREES.values() for row in (*tree["refused"], *tree["given_up"]["refused"])]
    assert {row["error"] for row in rows} == {
        "BoundError",
        "DuplicateFrameError",
        "LimitError",
        "MalformedFrameError",
        "PaddingError",
        "UnknownClientError",
        "UnsupportedVersionError",
        "WrongKeyError",
        "WrongLayoutError",
        "WrongMethodError",
        "WrongParametersError",
        "WrongRoundError",
    }
