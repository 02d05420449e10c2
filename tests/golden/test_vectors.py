"""vectors/: read by code that shares nothing with the encoders, complete, and made again to the byte."""

import json
import struct
import subprocess
import sys
from hashlib import sha256
from math import log, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vectors import (
    FOLDER,
    GROUPS,
    INDEX,
    KINDS,
    OF_SECURE_SUMS,
    ROLES,
    Client,
    check_values,
    data_of,
    floats_of,
    layout_of,
)

import oracle
from fedmrn import errors
from fedmrn.codecs import CODECS
from fedmrn.methods import METHODS
from fedmrn.methods.method import DOWN, SIDE, VARIANCE
from fedmrn.numerics.noise import GAUSSIAN_SHA256, Law
from fedmrn.wire.layout import Layout
from fedmrn.wire.public import GRID
from fedmrn.wire.terms import TERMS

CASES = {case["name"]: case for case in INDEX["cases"]}
SIZES = {name: INDEX["layouts"][case["layout"]]["size"] for name, case in CASES.items()}
MARKED = [
    pytest.param(name, marks=[pytest.mark.long] if size > 1 << 20 else [pytest.mark.slow] if size > 1 << 18 else [])
    for name, size in SIZES.items()
]
REFUSED = {row["name"]: row for row in INDEX["refused"]}
DOCUMENT = (FOLDER.parent / "docs" / "wire-format.md").read_text("utf-8")
HANDMADE = {"README.md", ".gitattributes"}


def written() -> set[str]:
    """The files of the folder that the command writes."""
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    return {name for name in files if not name.endswith((".py", ".pyc")) and name not in HANDMADE}


def test_one_command_makes_every_byte_again(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "make.py", "--out", tmp_path], check=True)
    made = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*") if path.is_file()}
    assert made.keys() == written(), "make vectors"
    assert not [name for name, path in made.items() if path.read_bytes() != data_of(name)], "make vectors"


def test_the_folder_is_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in written()) < 2 << 20


def test_versions() -> None:
    """The index says them, and frames and pages agree."""
    assert f"\nVersion {INDEX['wire']} of the frames" in DOCUMENT
    read_me = (FOLDER / "README.md").read_text("utf-8")
    assert f"| `format` | version of the index: {INDEX['format']} |" in read_me
    assert f"| `wire` | version of the frames: {INDEX['wire']} |" in read_me
    assert {data_of(frame["file"])[4] for case in CASES.values() for frame in case["frames"]} == {INDEX["wire"]}


def test_every_file_is_named() -> None:
    def paths(value: Any) -> set[str]:
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            return set().union(*map(paths, parts))
        return {value} if isinstance(value, str) and (FOLDER / value).is_file() else set()

    assert paths(INDEX) | {"index.json"} == written()


@pytest.mark.parametrize("name", INDEX["layouts"])
def test_layouts(name: str) -> None:
    said, tensors = INDEX["layouts"][name], layout_of(name)
    assert oracle.layout_digest(tensors).hex() == said["digest"]
    counts = {word: sum(prod(shape) for _, shape, g in tensors if g == i) for i, word in enumerate(GROUPS)}
    assert (counts, sum(counts.values())) == (said["elements"], said["size"])
    assert Layout.from_json(data_of(said["file"])).digest.hex() == said["digest"]


@pytest.mark.parametrize("name", MARKED)
def test_the_independent_reader_reads_a_case(name: str) -> None:
    case = CASES[name]
    client = Client(case)
    asked: dict[str, Any] = {}
    for said in case["frames"]:
        frame = client.read(data_of(said["file"]))
        assert (frame["kind"], frame["method"]) == (KINDS[said["kind"]], case["id"])
        assert frame["layout"].hex() == INDEX["layouts"][case["layout"]]["digest"]
        assert (frame["round"], f"{frame['noise_key']:016x}", frame["weight"]) == tuple(
            said[field] for field in ("round", "noise_key", "weight")
        )
        sections = [
            {
                "codec": s["codec"],
                "role": ROLES[s["role"]],
                "group": GROUPS[s["group"]],
                "elements": s["elements"],
                "parameters": s["params"].hex(),
            }
            for s in frame["sections"]
        ]
        assert sections == said["sections"]
        told = dict(row for s in frame["sections"] for row in s.get("terms", []))
        assert told == said.get("terms", {})
        values = [s["values"] for s in frame["sections"] if "values" in s]
        check_values([v for row in values for v in row], said["values"])
        if said["kind"] in ("broadcast", "model"):
            asked = frame
        else:  # the header that it answers
            assert [frame[f] for f in ("round", "noise_key", "layout")] == [
                asked[f] for f in ("round", "noise_key", "layout")
            ]
        codecs = {s["codec"] for s in frame["sections"]} | {
            s["params"][0] for s in frame["sections"] if s["codec"] in (12, 13)
        }
        assert codecs <= set(case["codecs"])
        if SIZES[name] < 1 << 18:
            assert oracle.write_frame(frame) == data_of(said["file"])
    if "frozen" in case:
        seed = int.from_bytes(bytes.fromhex(case["frames"][0]["sections"][0]["parameters"]), "little")
        assert oracle.frozen(seed, client.tensors) == floats_of(case["frozen"])


def modes() -> set[tuple[int, int]]:
    """(codec, mode) of the coded masks, alone and in scales; a body in scales starts with their table."""
    found = set()
    for case in CASES.values():
        for said in case["frames"]:
            data, at = data_of(said["file"]), oracle.HEADER_SIZE
            codec, role, _, n_params, _, n_body = struct.unpack_from(oracle.SECTION, data, at)
            params = data[at + oracle.SECTION_SIZE :][:n_params]
            body = data[at + oracle.SECTION_SIZE + n_params :][:n_body]
            if role == 0 and codec in (12, 13):
                body = body[4 + codec * len(oracle.scales(body)) :]
                codec = params[0]
            if role == 0 and codec in (9, 11, 14):
                found.add((codec, body[0]))
    return found


def test_the_cases_are_complete() -> None:
    """A new codec, method, encoding or term is in a case, or this fails."""
    frames = [said for case in CASES.values() for said in case["frames"]]
    sections = [(s["codec"], s["role"], s["group"], s["parameters"]) for said in frames for s in said["sections"]]
    assert {codec for codec, role, *_ in sections if role == "update"} == set(CODECS)
    masks = {codec for codec, kind in CODECS.items() if codec in (1, 9, 11, 14)}
    inner = {
        (codec, int(params[:2], 16)) for codec, role, _, params in sections if role == "update" and codec in (12, 13)
    }
    assert inner == {(12, codec) for codec in masks} | {(13, codec) for codec in masks - {11}}
    states = {(codec, group) for codec, role, group, _ in sections if role == "state"}
    down = {coded.id for coded, _ in DOWN.values()} | {GRID}
    assert {codec for codec, group in states if group == "coded"} == down
    rotated = {params[:2] for codec, role, _, params in sections if (codec, role) == (6, "state")}
    assert rotated == {"02", "03", "04"}
    side = {(codec, group) for codec, role, group, _ in sections if role == "update" and group != "coded"}
    assert {codec for codec, group in side if group == "dense"} == {c.id for c in SIDE.values()}
    assert {codec for codec, group in side if group == "variance"} == {c.id for c in VARIANCE.values()}
    laws = {params[:4] for codec, role, _, params in sections if (codec, role) == (1, "update")}
    assert laws == {f"{law:02x}{mask:02x}" for law in Law for mask in (0, 1)}
    assert {said["kind"] for said in frames} == set(KINDS)
    assert {case["method"]: case["id"] for case in CASES.values()} == {row.name: row.id for row in METHODS.values()}
    told = {name for said in frames for name in said.get("terms", {})}
    assert told == (TERMS.keys() | {"caps", "scales"}) - {"progressive", "stochastic"}, (
        "no method of the table has them"
    )
    assert modes() == {(codec, mode) for codec in (9, 11, 14) for mode in (0, 1)}


def test_the_cases_are_long_enough() -> None:
    """More than two blocks of random words, several blocks of every codec that has them, odd ends, part of elements."""

    def largest(codec: int, role: str) -> int:
        frames = [said for case in CASES.values() for said in case["frames"]]
        return max(s["elements"] for f in frames for s in f["sections"] if (s["codec"], s["role"]) == (codec, role))

    assert largest(1, "update") > 2048
    assert largest(1, "update") % 8
    assert largest(5, "update") > 128
    assert largest(6, "update") > 1 << 16
    assert largest(6, "state") > 1 << 16
    assert largest(9, "update") > 1 << 20
    assert largest(11, "update") > 4 << 14
    assert largest(12, "update") > 1 << 19  # over codec 14
    assert largest(15, "state") > 1 << 19
    keeps = {
        struct.unpack("<f", bytes.fromhex(s["parameters"][4:]))[0]
        for case in CASES.values()
        for said in case["frames"]
        for s in said["sections"]
        if s["codec"] == 6
    }
    assert min(keeps) < 0.5
    assert max(keeps) == 1
    keys = [int(said["noise_key"], 16) for case in CASES.values() for said in case["frames"]]
    assert max(keys) >= 1 << 63
    assert max(said["round"] for case in CASES.values() for said in case["frames"]) == (1 << 32) - 1


def test_public_models_come_whole_and_as_differences() -> None:
    flags = {
        name: [int(s["parameters"][:2], 16) for f in case["frames"] for s in f["sections"][-1:] if s["codec"] == GRID]
        for name, case in CASES.items()
    }
    assert set(flags["grid"]) == {0, 1}
    assert flags["grid-kept"] == [0, 0, 1]
    assert set(flags["grid-from-start"]) == {2, 3}


def test_what_can_be_written_again() -> None:
    """`again` is said of every codec whose writer has nothing to choose, and of some whose choices the page has."""
    codecs = {f["sections"][0]["codec"] for case in CASES.values() for f in case["frames"] if f.get("again")}
    assert codecs >= {0, 1, 2, 3, 4, 7, 8, 9, 14}
    assert 6 not in codecs


def test_masks_are_drawn_as_the_page_says() -> None:
    """From `vector` and `sampling_key`: what a writer that draws as this library does is tested with."""
    said = CASES["mask-uniform-signed"]["frames"][1]
    vector, key = floats_of(said["vector"]), int(said["sampling_key"], 16)
    frame = oracle.read_frame(data_of(said["file"]))
    section = frame["sections"][0]
    law, signed, scale = struct.unpack("<BBf", section["params"])
    for i, bit in enumerate(oracle.unpacked(section["body"], section["elements"])):
        ratio = np.float32(vector[i]) / np.float32(oracle.noise(law, scale, frame["noise_key"], i))
        p = min(max((ratio + np.float32(1)) * np.float32(0.5), np.float32(0)), np.float32(1))
        assert signed
        assert bit == (oracle.uniform(key, oracle.FINAL_MASK_DOMAIN, i) < p), i


def test_private_masks_are_drawn_as_the_page_says() -> None:
    """docs/writing-a-client.md, "Private masks", from `vector` and the words in `dice`, in Python's own numbers."""
    broadcast, said = CASES["mask-private"]["frames"]
    theta, vector = broadcast["terms"]["theta"], floats_of(said["vector"])
    words = struct.unpack(f"<{len(vector)}I", data_of(said["dice"]))
    frame = oracle.read_frame(data_of(said["file"]))
    assert (frame["weight"], "sampling_key" in said) == (1, False)
    section = frame["sections"][0]
    law, signed, scale = struct.unpack("<BBf", section["params"])
    most, clipped = int(theta * 2**32), 0
    for i, bit in enumerate(oracle.unpacked(section["body"], section["elements"])):
        aim = float(vector[i]) / oracle.noise(law, scale, frame["noise_key"], i) * 2**31
        clipped += abs(aim) > most
        assert bit == (words[i] < 2**31 + round(min(max(aim, -most), most))), i
    assert signed
    assert 0 < clipped < len(vector)


def test_the_gaussian_table() -> None:
    data = data_of(INDEX["gaussian"])
    assert sha256(data).hexdigest() == GAUSSIAN_SHA256
    assert data == oracle.TABLE_FILE.read_bytes()


NUMBERS: dict[str, Any] = json.loads(data_of(INDEX["numbers"]))


def float_of(bits: str) -> float:
    return struct.unpack(">f", bytes.fromhex(bits))[0]


def bits_of(value: float) -> str:
    return struct.pack(">f", value).hex()


def test_numbers_to_begin_with() -> None:
    assert NUMBERS["methods"] == {row.name: row.id for row in METHODS.values()}
    for row in NUMBERS["crc32"]:
        assert f"{oracle.crc32(bytes.fromhex(row['bytes'])):08x}" == row["crc32"]
    for row in NUMBERS["words"]:
        key, domain = int(row["key"], 16), int(row["domain"], 16)
        assert {at: f"{oracle.word(key, domain, int(at)):08x}" for at in row["words"]} == row["words"]
    for row in NUMBERS["noise"]:
        law, scale, key = Law[row["law"].upper()], float_of(row["scale"]), int(row["key"], 16)
        assert {at: bits_of(oracle.noise(law, scale, key, int(at))) for at in row["noise"]} == row["noise"]
    assert {row["law"] for row in NUMBERS["noise"]} == {law.name.lower() for law in Law}
    for row in NUMBERS["float16"]:
        assert struct.pack(">e", float_of(row["float32"])).hex() == row["float16"]
    for row in NUMBERS["variances"]:
        assert bits_of(oracle.log_change(float_of(row["before"]), float_of(row["after"]))) == row["change"]
    for row in NUMBERS["run_tags"]:
        assert oracle.run_tag(bytes.fromhex(row["run"])).hex() == row["tag"]


def test_changes_of_variances_are_far_from_a_tie() -> None:
    """Any logarithm that is right to 2^-45 rounds to them: those of other languages need not be correctly rounded."""
    for row in NUMBERS["variances"]:
        before, after = (max(float_of(row[field]), oracle.FLOOR) for field in ("before", "after"))
        exact = log(after) - log(before)
        for by in (-(2.0**-45), 2.0**-45):
            assert bits_of(exact + by * (abs(log(after)) + abs(log(before)))) == row["change"] or exact == 0


def test_every_error_has_a_frame() -> None:
    """But for those that no single frame can show: who sent it, twice, and how a transport wraps it."""
    named = {e.__name__ for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.FrameError)}
    elsewhere = {"FrameError", "UnknownClientError", "DuplicateFrameError", "WrongMessageError"} | OF_SECURE_SUMS
    assert {row["error"] for row in REFUSED.values()} == named - elsewhere
    assert len(REFUSED) == len(INDEX["refused"])
    codecs = {name.split("-")[1] for name in REFUSED if name.startswith("codec-")}
    assert codecs == {str(codec) for codec in CODECS}


def test_what_is_refused_can_be_read_before_it_is_damaged() -> None:
    for row in REFUSED.values():
        client = Client({"layout": row["layout"], **({"start": row["start"]} if "start" in row else {})})
        for path in row.get("before", []):
            client.read(data_of(path))
