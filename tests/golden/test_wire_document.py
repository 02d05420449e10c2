"""docs/wire-format.md: its examples decode as it says, with the library and with the reader made from it alone."""

import json
import re
import struct
from hashlib import blake2b, sha256
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from vectors import OF_SECURE_SUMS

import oracle
from fedmrn import errors
from fedmrn.codecs import (
    CHUNK,
    CODECS,
    Bernoulli,
    Codec,
    CodedMask,
    EncodeKeys,
    InterleavedMask,
    Levels,
    MaskedNoise,
    OwnScale,
    RandomCode,
    Rotated,
    ShorterMask,
    Sign,
    SignRule,
    codec_from,
)
from fedmrn.codecs.mask import coded_mask
from fedmrn.codecs.mask.scaled_mask import ScaledMask
from fedmrn.codecs.mask.trellis import LARGEST_LOG2_STATES
from fedmrn.experiments.run.layout_file import read_layout, write_layout
from fedmrn.methods import METHODS, ReadBy
from fedmrn.methods.method import DOWN, SIDE, VARIANCE
from fedmrn.numerics import noise
from fedmrn.numerics.bits import pack_bits
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law
from fedmrn.numerics.rng import Purpose, derive_key, domain
from fedmrn.server import Server
from fedmrn.server.rules import frozen_weights
from fedmrn.wire import frame
from fedmrn.wire.frame import Frame, Kind, Limits, Role, Section
from fedmrn.wire.grid import LARGEST_NUMBER, LARGEST_STEP, LEAST_STEP, VARIANCE_BITS, Points
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import read_model, read_state
from fedmrn.wire.public import GRID, Heading, PublicModel, public_sections, read_public, tag_of
from fedmrn.wire.terms import TERMS, read_caps, read_scales, read_terms, terms_section
from fedmrn.wire.variance import CEILING, FLOOR, log_change, moved

DOCUMENT = (Path(__file__).parents[2] / "docs" / "wire-format.md").read_text(encoding="utf-8")


def _examples() -> dict[str, tuple[bytes, dict[str, Any]]]:
    found = {}
    for part in re.split(r"^### ", DOCUMENT, flags=re.MULTILINE)[1:]:
        dump = re.search(r"^```hex\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        values = re.search(r"^```json\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        if dump and values:
            data = "".join(line.split("#")[0] for line in dump[1].splitlines())
            found[part.split()[0]] = (bytes.fromhex(data), json.loads(values[1]))
    return found


EXAMPLES = _examples()


def bits_of(section: dict[str, Any]) -> list[int]:
    """The bits of a mask: a text of zeros and ones, or a list of such texts."""
    return [int(bit) for bit in "".join(section["bits"])]


def masked_noise_of(codec: int, params: bytes) -> bytes:
    """The six bytes of codec 1 among the parameters of a codec of masked noise."""
    return params[1:7] if codec in (12, 13) else params[:6]


def formula(section: Section, count: int) -> NDArray[np.float32]:
    """The vector that an example was made of: what is decoded of these codecs is another."""
    i = np.arange(count)
    whole = (37 * i % 101 - 50).astype(np.float64)
    if section.codec == Rotated.id:
        return (whole * 2.0 ** (-8 if section.role is Role.STATE else -12)).astype(np.float32)
    if section.codec == OwnScale.id:
        return (whole * np.where(i < 512, 2.0**-12, 2.0**-9) * (i % 8 == 0)).astype(np.float32)
    return (whole * 2.0**-16).astype(np.float32)


def test_the_document_has_its_examples() -> None:
    assert list(EXAMPLES) == [f"9.{k}" for k in (*range(1, 21), *range(22, 32))]
    assert DOCUMENT.count("```hex") == DOCUMENT.count("```json") == len(EXAMPLES)
    seen = {(d["kind"], s["parameters"][:4]) for _, d in EXAMPLES.values() for s in d["sections"]}
    assert {(1, "0000"), (1, "0101"), (1, ""), (2, "0000"), (2, "")} <= seen
    codecs = {(s["codec"], s["role"]) for _, d in EXAMPLES.values() for s in d["sections"]}
    assert {
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 2),
        (3, 0),
        (4, 0),
        (5, 0),
        (6, 0),
        (6, 1),
        (7, 0),
        (8, 0),
        (8, 2),
        (9, 0),
        (10, 0),
        (10, 1),
        (10, 2),
        (11, 0),
        (12, 0),
        (13, 0),
        (13, 2),
        (14, 0),
        (15, 1),
        (16, 0),
    } == codecs


def check_parts(got: dict[str, Any], want: dict[str, Any], key: int) -> None:
    """What a body holds beside its values: tables, paths, symbols."""
    codec, params, body = got["codec"], got["params"], got["body"]
    rows = [list(row) if isinstance(row, tuple) else row for row in got.get("scales", [])]
    assert rows == want.get("scales", [])
    assert got.get("wanted") == want.get("wanted")
    if codec in (12, 13):
        head = 4 + 12 * len(rows) + len(want.get("wanted", ()))
        codec, params, body = params[0], params[1:], body[head:]
    if codec in oracle.DECODE_SHORTER and "bits" in want:
        assert bits_of(want) == oracle.DECODE_SHORTER[codec](params, got["elements"], body, key)
        assert (body[0] == 1) is ("sizes" in want)
    for field in ("sizes", "frequencies", "prior", "information", "norms", "symbols", "dense"):
        assert (got.get(field) or None) == want.get(field), field
    if "path" in want:
        assert got["path"] == oracle.packed([bit == "1" for bit in "".join(want["path"])])
    if "sizes" in want:
        assert "".join(map(str, oracle.contexts(params, key, want["sizes"]))) == "".join(want["contexts"])
    if "indices" in want:
        assert "".join(map(str, got["indices"])) == "".join(want["indices"])


def check_public(got: dict[str, Any], want: dict[str, Any], layout: list[Any]) -> None:
    """What a section of a public model says; the reader has compared both digests."""
    for field in ("number", "base", "run", "start_digest", "digest", "steps", "numbers", "values"):
        assert got[field] == want[field], field
    assert got["sizes"] == [prod(shape) for _, shape, group in layout if group == got["group"]]
    assert [list(table) for table in got["tables"]] == want["tables"]
    assert got.get("differences") == want.get("differences")
    assert not any(str(v) == "-0.0" for v in got["values"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_independent_reader_agrees(name: str) -> None:
    """Field by field, and it writes the same bytes again."""
    data, expected = EXAMPLES[name]
    found = oracle.read_frame(
        data,
        {s["group"]: s["state"] for s in expected["sections"] if "state" in s},
        {s["group"]: s for s in expected["sections"] if s["codec"] == GRID},
    )
    for field in ("kind", "method", "total", "round", "weight"):
        assert found[field] == expected[field], field
    assert found["noise_key"] == int(expected["noise_key"], 16)
    assert found["layout"].hex() == expected["layout_digest"]
    assert oracle.layout_digest([tuple(t) for t in expected["layout"]]) == found["layout"]
    assert len(found["sections"]) == len(expected["sections"])
    for got, want in zip(found["sections"], expected["sections"], strict=True):
        for field in ("codec", "role", "group", "elements"):
            assert got[field] == want[field], field
        assert got["params"].hex() == want["parameters"]
        shown = len(want.get("values", []))  # of a long mask, the first ones
        assert got.get("values", [])[:shown] == want.get("values", [])
        if shown < (got["elements"] if "values" in want else 0):
            digest = sha256(struct.pack(f"<{got['elements']}f", *got["values"])).hexdigest()
            assert digest == want["values_sha256"]
        assert [list(row) for row in got.get("terms", [])] == want.get("terms", [])
        if "noise" in want:
            law, signed, scale = struct.unpack("<BBf", masked_noise_of(got["codec"], got["params"]))
            each = [s for size, s in want.get("scales", []) for _ in range(size)] or [1.0] * got["elements"]
            for i, (n, value) in enumerate(zip(want["noise"], want["values"], strict=True)):  # of a long one the first
                assert n == oracle.noise(law, scale, found["noise_key"], i)
                assert value == each[i] * (n if bits_of(want)[i] == 1 else -n if signed else 0.0)
        if got["codec"] == GRID:
            check_public(got, want, expected["layout"])
            continue
        check_parts(got, want, found["noise_key"])
        if got["codec"] == 7:
            (seed,) = struct.unpack("<Q", got["params"])
            assert want["frozen"] == oracle.frozen(seed, [tuple(t) for t in expected["layout"]])
            assert want["bits"] == "".join("01"[int(v)] for v in want["values"])
    assert oracle.write_frame(found) == data


def _rebuilt_otherwise(
    codec: Codec, got: Section, want: dict[str, Any], key: int, layout: Layout, values: NDArray[np.float32]
) -> bytes:
    """The body by what the page says of it, where what is decoded is no update that it was made of."""
    if isinstance(codec, Levels):  # a decoded block need not have its norm
        return oracle.encode_levels(codec.params(), want["norms"], want["symbols"])
    if isinstance(codec, OwnScale):
        n = codec.masked.noise.chunk(key, 0, got.count)
        assert n[: len(want["noise"])].tolist() == want["noise"]
        sizes, scales = zip(*want["scales"], strict=True)
        assert (values == n * np.repeat(np.array(scales, np.float32), sizes)).astype(int).tolist() == bits_of(want)
    return codec.encode(formula(got, got.count), EncodeKeys(key, 1, layout.sizes(got.group)))


def _rebuilt(codec: Codec, got: Section, want: dict[str, Any], key: int, layout: Layout) -> bytes:
    """The body that the library makes of what it decoded, after a look at the values."""
    if codec.needs_state:
        codec = codec.bind(np.array(want["state"], np.float32))
    values = codec.decode(got.body, got.count, key)
    shown = np.array(want["values"], np.float32)
    assert values[: shown.size].tobytes() == shown.tobytes()  # the signs of zeros too
    if "values_sha256" in want:
        assert sha256(values.astype("<f4").tobytes()).hexdigest() == want["values_sha256"]
    if isinstance(codec, ShorterMask):
        n = codec.inner.noise.chunk(key, 0, got.count)
        assert (values == n).astype(int).tolist() == bits_of(want)
        if isinstance(codec, RandomCode) and "sizes" in want:  # what is decoded is no update that it was made of
            values = formula(got, got.count)
        return codec.encode(values, EncodeKeys(key, 1, tuple(want.get("sizes", ()))))
    if isinstance(codec, MaskedNoise):
        n = codec.noise.chunk(key, 0, got.count)
        assert n.tolist() == want["noise"]
        return pack_bits(values == n)
    if isinstance(codec, Levels | Rotated) or (isinstance(codec, OwnScale) and isinstance(codec.inner, ShorterMask)):
        return _rebuilt_otherwise(codec, got, want, key, layout, values)
    if isinstance(codec, ScaledMask):  # what is decoded has other magnitudes than the update
        n = codec.masked.noise.chunk(key, 0, got.count)
        assert n.tolist() == want["noise"]
        sizes, scales = zip(*want["scales"], strict=True)
        each = np.repeat(np.array(scales, np.float32), sizes)
        rows = b"".join(struct.pack("<Qf", *row) for row in want["scales"])
        wanted = np.array(want.get("wanted", ()), np.int8).tobytes()
        return struct.pack("<I", len(want["scales"])) + rows + wanted + pack_bits(values == n * each)
    if isinstance(codec, Sign):
        assert codec.rule is SignRule.LEARNED
        codec = Sign(codec.rule, tuple(scale for _, scale in want["scales"]))
    if isinstance(codec, Bernoulli):
        assert frozen_weights(layout, codec.seed).tolist() == want["frozen"]
    return codec.encode(values, EncodeKeys(key, 1, layout.sizes(got.group)))


def _public_again(found: Frame, expected: dict[str, Any], layout: Layout) -> tuple[Section, ...]:
    """The sections that the library makes of the public model that it has read, after a look at the values."""
    rows = {Group(s["group"]): s for s in expected["sections"] if s["codec"] == GRID}
    first, start, base, held = rows[Group.CODED], None, None, Held(layout)
    if first["start_digest"] is not None:
        start = np.concatenate([np.array(rows[g]["start"], np.float32) for g in Group])
    run = bytes.fromhex(first["run"])
    if first["base"] is not None:
        parts = {
            g: Points(np.array(s["base_steps"], np.int8), np.array(s["base_numbers"], np.int32))
            for g, s in rows.items()
        }
        base = PublicModel(layout, first["base"], parts, start)
        held.keep(base, Heading(first["base"], None, run, None, b""))
    read = read_model if found.kind is Kind.MODEL else read_state
    values = read(found, layout, held, None if start is None else lambda: start)
    assert values.tobytes() == np.concatenate([np.array(rows[g]["values"], np.float32) for g in Group]).tobytes()
    starts = held.starts(None if start is None else lambda: start)
    model, heading = read_public(found, layout, held.find, lambda: starts)
    assert (heading.number, heading.base, model.number) == (first["number"], first["base"], first["number"])
    for group, points in model.parts.items():
        assert points.exponents.tolist() == rows[group]["steps"]
        assert points.numbers.tolist() == rows[group]["numbers"]
    return public_sections(model, run, base)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_library_agrees(name: str) -> None:
    data, expected = EXAMPLES[name]
    found = Frame.from_bytes(data)
    assert (int(found.kind), found.method, found.round) == tuple(expected[f] for f in ("kind", "method", "round"))
    assert (found.weight, len(data)) == (expected["weight"], expected["total"])
    assert found.noise_key == int(expected["noise_key"], 16)
    layout = Layout(tuple(TensorSpec(n, tuple(shape), Group(g)) for n, shape, g in expected["layout"]))
    assert found.layout_digest == layout.digest == bytes.fromhex(expected["layout_digest"])
    rebuilt = []
    for got, want in zip(found.sections, expected["sections"], strict=True):
        assert (got.codec, int(got.role), int(got.group), got.count) == tuple(
            want[f] for f in ("codec", "role", "group", "elements")
        )
        if got.role is Role.TERMS:
            told = dict(want["terms"])
            caps, scales = told.pop("caps", ()), told.pop("scales", ())
            assert (read_terms(found), list(read_caps(found)), list(read_scales(found))) == (
                told,
                list(caps),
                list(scales),
            )
            rebuilt += terms_section(told, caps, scales)
            continue
        if got.codec == GRID:
            assert Heading.of(got).to_params() == got.params == bytes.fromhex(want["parameters"])
            rebuilt += [s for s in _public_again(found, expected, layout) if s.group is got.group]
            continue
        codec = codec_from(got.codec, got.params)
        assert codec.params() == got.params == bytes.fromhex(want["parameters"])
        body = _rebuilt(codec, got, want, found.noise_key, layout) if "values" in want else b""
        rebuilt.append(Section(got.codec, got.role, got.group, got.count, got.params, body))
    again = Frame(found.kind, found.method, found.round, found.noise_key, layout.digest, found.weight, tuple(rebuilt))
    assert again.to_bytes() == found.to_bytes() == data


def test_the_dumps_show_every_layout_of_masks() -> None:
    """An example whose last mask byte were zero would not show where the bits of that byte lie."""
    for name in ("9.1", "9.2", "9.4", "9.5", "9.10", "9.11", "9.26"):
        bits = EXAMPLES[name][1]["sections"][0]["bits"]
        assert len(bits) % 8
        assert "1" in bits[8:]
        assert bits != bits[::-1]


def test_the_dumps_show_every_part_of_coded_masks() -> None:
    """Tensors of one context and of two, the initial words and ones that are taken later."""
    data, expected = EXAMPLES["9.8"]
    section = expected["sections"][0]
    assert oracle.numbers_of_buckets(section["sizes"], 2) == [2, 1]
    assert set(bits_of(section)) == {0, 1}
    section = oracle.read_frame(data)["sections"][0]
    assert len(oracle.coded_parts(section["params"], section["body"])[2]) == 7
    interleaved = oracle.read_frame(EXAMPLES["9.28"][0])["sections"][0]
    assert len(interleaved["body"]) == 5 + 16 + 3 + 2 * 4 + 2 * 11  # two lanes, and words that both take


def test_the_dumps_show_every_part_of_random_codes() -> None:
    """Contexts that differ, all eight states, unused bits in the last byte; and where bits are read."""
    section = EXAMPLES["9.9"][1]["sections"][0]
    reads = oracle.reads_path_bit([section["information"][int(c)] for c in "".join(section["contexts"])])
    assert str([i for i, read in enumerate(reads) if read][:6])[1:-1] + ", ..." in DOCUMENT
    path = section["path"]
    assert sum(reads) == len(path) == 36
    assert len(set(section["information"])) == len(set(section["prior"])) == 2
    assert len({path[k : k + 3] for k in range(len(path) - 2)}) == 8
    assert set(bits_of(section)) == {0, 1}


def test_the_public_models_of_the_examples() -> None:
    """Both ways to count, finer and coarser steps, half-way numbers, escapes, tables of one value; the run's tag."""
    whole, differs = (EXAMPLES[name][1]["sections"] for name in ("9.30", "9.31"))
    assert {s["base"] for s in whole} == {None} == {s["start_digest"] for s in whole}
    changes = [s for s in differs if s["codec"] == GRID]
    coded = changes[0]
    assert [b > a for a, b in zip(coded["steps"], coded["base_steps"], strict=True)] == [True, False]
    assert coded["base_numbers"][6:] == [7, 0, -1]
    assert [n - d for n, d in zip(coded["numbers"], coded["differences"], strict=True)][6:] == [4, 0, 0]
    tables = [table for s in (*whole, *changes) for table in s["tables"]]
    assert {len(frequencies) - values for _, values, frequencies in tables} == {0, 1}
    assert [0, 1, [4096]] in tables
    _, run = _secret_and_run()
    assert {s["run"] for s in (*whole, *changes)} == {oracle.run_tag(bytes.fromhex(run)).hex()}
    assert {oracle.run_tag(bytes.fromhex(run))} == {tag_of(bytes.fromhex(run))}
    assert any(str(v) == "-0.0" for s in changes for v in s["start"])


def test_the_state_of_the_support_example_is_its_broadcasts() -> None:
    data, expected = EXAMPLES["9.6"]
    update = EXAMPLES["9.7"][1]
    layout = Layout(tuple(TensorSpec(n, tuple(shape), Group(g)) for n, shape, g in expected["layout"]))
    state = read_state(Frame.from_bytes(data), layout)
    assert state.tolist() == update["sections"][0]["state"]
    assert np.signbit(state[state == 0]).any()
    assert (update["noise_key"], update["layout"]) == (expected["noise_key"], expected["layout"])


def test_the_variances_of_the_examples() -> None:
    """Made again by the library and by the reader, from what the broadcast and the client have."""
    broadcast, update = EXAMPLES["9.22"], EXAMPLES["9.23"][1]
    section = update["sections"][3]
    before, after, sent, following = (section[field] for field in ("before", "after", "values", "next"))
    assert broadcast[1]["sections"][7]["values"] == before
    assert (update["noise_key"], update["layout"]) == (broadcast[1]["noise_key"], broadcast[1]["layout"])
    change = log_change(np.array(before, np.float32), np.array(after, np.float32))
    assert [struct.unpack("<e", struct.pack("<e", u))[0] for u in change.tolist()] == sent
    assert moved(np.array(before, np.float32), np.array(sent, np.float32)).tolist() == following
    for b, a, u, found, n in zip(before, after, change.tolist(), sent, following, strict=True):
        assert oracle.log_change(b, oracle.float32(a)) == u
        assert oracle.next_variance(b, found) == n
    for b in (0.0, 1e-45, 2.0**-60, 0.1, 1.0, 3e38):
        for m in (0.0, -0.0, 1e-3, -1.0, 41.5, -41.5, 600.0, -600.0):
            found = float(moved(np.array([b], np.float32), np.array([m], np.float32))[0])
            assert found == pytest.approx(oracle.next_variance(oracle.float32(b), oracle.float32(m)), rel=2.0**-23)


def test_the_layout_file_of_the_document(tmp_path: Path) -> None:
    """What the runner writes is the canonical form, and it reads it; the layout is that of 9.1."""
    text = re.search(r"^```layout\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[1]
    expected = EXAMPLES["9.1"][1]
    layout = Layout(tuple(TensorSpec(n, tuple(shape), Group(g)) for n, shape, g in expected["layout"]))
    write_layout(tmp_path, layout)
    assert (tmp_path / "layout.json").read_text("utf-8") == text
    assert read_layout(tmp_path) == layout
    groups = {"coded": 0, "dense": 1, "stats": 2}
    rows = [(t["name"], tuple(t["shape"]), groups[t["group"]]) for t in json.loads(text)]
    assert oracle.layout_digest(rows).hex() == expected["layout_digest"]
    assert f"Its digest is {expected['layout_digest']}." in DOCUMENT
    (tmp_path / "layout.json").write_text(json.dumps(json.loads(text), indent=4), "utf-8")
    assert read_layout(tmp_path) == layout, "any white space will do"
    write_layout(tmp_path, Layout.of([TensorSpec("b\u00e9", (), Group.CODED)]))
    assert "b\\u00e9" in (tmp_path / "layout.json").read_text("utf-8")
    assert "escaped (`\\u00e9`)" in DOCUMENT


def test_the_dumps_show_what_a_norm_of_zero_decodes_to() -> None:
    section = EXAMPLES["9.15"][1]["sections"][0]
    zero = section["norms"].index(0.0)
    values = np.array(section["values"])[8 * zero : 8 * zero + 8]
    symbols = section["symbols"][8 * zero : 8 * zero + 8]
    assert np.signbit(values).tolist() == [v < 3 for v in symbols]
    assert {v < 3 for v in symbols} == {True, False}


def test_personalisation_is_padded_with_zeros() -> None:
    (padded,) = re.findall(r"zero bytes \(`((?:[0-9a-f]{2} ?){16})`\)", DOCUMENT)
    message = b"s\5\0\0\0noise" + b"i\1\0\0\0" + b"3"
    person = bytes.fromhex(padded)
    assert person == b"fedmrn-key".ljust(16, b"\0")
    secret = bytes.fromhex(re.search(r"With the secret `([0-9a-f]+)`", DOCUMENT)[1])
    key = blake2b(message, key=secret, digest_size=8, person=person, salt=b"").digest()
    assert int.from_bytes(key, "little") == derive_key(secret, "noise", 3)


def test_constants_of_the_document() -> None:
    assert f"header ({frame.HEADER_SIZE} bytes)" in DOCUMENT
    assert f"checksum ({frame.CHECKSUM_SIZE} bytes)" in DOCUMENT
    assert f"| {frame.SECTION_SIZE} | p | bytes | parameters |" in DOCUMENT
    assert DOCUMENT.count(noise.GAUSSIAN_SHA256) == 1
    assert ", ".join(f"{int(kind)} {kind.name.lower()}" for kind in Kind) + " |" in DOCUMENT
    assert ", ".join(f"{int(role)} {role.name.lower()}" for role in Role) + " |" in DOCUMENT
    for term in TERMS.values():
        range_ = "0 or more" if term.most == inf else f"0 to {term.most:g}"
        form = "u8, 0 or 1" if term.kind is bool else f"f64, {range_}"
        assert f"| {term.tag} | {form} | {term.name} |" in DOCUMENT
        assert oracle.TERMS[term.tag][0] == term.name
    for row in METHODS.values():
        for option in row.options.values():
            assert option.read_by is not ReadBy.CLIENT or f" | {float(option.parse(option.default)):g} |" in DOCUMENT
    assert "0 coded, 1 dense, 2 statistics" in DOCUMENT
    assert "0 coded, 1 dense, 2 statistics, 3 variances" in DOCUMENT
    assert [int(g) for g in (Group.CODED, Group.DENSE, Group.STATS, Group.VARIANCE)] == [0, 1, 2, 3]
    assert (FLOOR, CEILING) == (2.0**-60, 2.0**126)
    assert "log(max(after, 2^-60)) - log(max(before, 2^-60))" in DOCUMENT
    assert "min(max(exp(log(max(before, 2^-60)) + m), 2^-60), 2^126)" in DOCUMENT
    assert ", ".join(f"{int(law)} {law.name.lower()}" for law in Law) in DOCUMENT
    assert ", ".join(f"{int(mask)} {mask.name.lower()}" for mask in MaskType) in DOCUMENT
    assert ", ".join(f"{m.id} {m.name}" for m in METHODS.values()) + " |" in DOCUMENT
    assert ", ".join(f"{int(rule)} {rule.name.lower()}" for rule in SignRule) in DOCUMENT
    assert f"0x{domain(Purpose.NOISE):016x}" in DOCUMENT
    assert domain(Purpose.NOISE) == oracle.NOISE_DOMAIN
    assert f"0x{domain(Purpose.FROZEN):016x}" in DOCUMENT
    assert domain(Purpose.FROZEN) == oracle.FROZEN_DOMAIN
    assert f"purpose {int(Purpose.FROZEN)} (frozen weights)" in DOCUMENT
    assert f"{int(Purpose.EVALUATE)} the masks that a server evaluates with" in DOCUMENT
    known = {i: c.name.replace("-", " ") for i, c in CODECS.items()}
    names = dict(sorted({**known, GRID: "grid"}.items()))
    assert "| codec | " + ", ".join(f"{i} {name}" for i, name in names.items()) + " (section 2) |" in DOCUMENT
    for i, name in names.items():
        assert f"### 2.{i + 1} Codec {i}: {name}\n" in DOCUMENT
    assert f"A segment is 2^{coded_mask.SEGMENT.bit_length() - 1} elements" in DOCUMENT
    assert coded_mask.SEGMENT == 1 << 20
    assert f"0x{domain(Purpose.CODEBOOK):016x}" in DOCUMENT
    assert domain(Purpose.CODEBOOK) == oracle.CODEBOOK_DOMAIN
    assert f"purpose {int(Purpose.CODEBOOK)} (the code book)" in DOCUMENT
    for codec in (CodedMask, InterleavedMask):
        assert f"`elements` at most\n{codec.elements_a_byte} b;" in DOCUMENT
    assert f"`elements` at\nmost {RandomCode.elements_a_byte} b;" in DOCUMENT
    assert CHUNK == 16_384
    assert f"u8 log2_states, 1 to {LARGEST_LOG2_STATES};" in DOCUMENT
    assert [c.id for c in SIDE.values()] == [0, 10, 5, 16]
    assert {c.id for c in VARIANCE.values()} == {0, 10, 16}
    assert SIDE["levels"] == Levels(levels=127, block=64)
    assert "by codec 5 with\nblock 64 and s = 127, by codec 10 or by codec 16" in DOCUMENT
    assert {c.id for pair in DOWN.values() for c in pair} == {0, 6, 10}
    assert (
        "group 0 by codec 10 or by codec 6 of 2 to 4 bits, and groups 1 and 2 by\ncodec 10; group 3 always by codec 0."
        in DOCUMENT
    )
    assert f"A step e, {LEAST_STEP} to {LARGEST_STEP}, stands for 2^e".lower() in DOCUMENT.lower()
    assert f"In group 3 it is {VARIANCE_BITS}" in DOCUMENT
    assert LARGEST_NUMBER == 2**24 - 1
    assert Heading(1, None, bytes(8), None, bytes(8)).to_params().hex() == "00" + "01000000" + 28 * "00"
    limits = Limits()
    assert (limits.max_bytes, limits.max_sections, limits.max_weight, limits.max_value) == (2**32, 64, 2**20, 2**16)
    assert "total 2^32 bytes, 64 sections, weight 2^20, magnitude of a raw value 2^16" in DOCUMENT


def test_the_table_of_codecs_a_method_sends() -> None:
    table = DOCUMENT.split("### 1.5 ")[1].split("## 2.")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    told = {name: cell for names, cell in rows for name in re.findall(r"[a-z][a-z0-9-]+", names)}
    assert set(told) == set(METHODS)
    for row in METHODS.values():
        ids = {codec.id for codec in row.codecs()}
        assert ids <= set(map(int, re.findall(r"\b\d+\b", told[row.name]))), row.name
        assert row.masked is ("mask" in told[row.name])


def _secret_and_run() -> tuple[bytes, str]:
    found = re.search(r"With the secret `([0-9a-f]+)`, the run `([0-9a-f]+)`", DOCUMENT)
    return bytes.fromhex(found[1]), found[2]


def test_noise_key_of_the_document() -> None:
    secret, run = _secret_and_run()
    message = bytes.fromhex(re.search(r"the message is\n`([0-9a-f]+)`", DOCUMENT)[1])
    key = int(re.search(r"and the key 0x([0-9a-f]{16})", DOCUMENT)[1], 16)
    labels = b"s\5\0\0\0noise" + b"s\x20\0\0\0" + run.encode() + b"i\1\0\0\0" + b"3" + b"s\x08\0\0\0client-7"
    assert message == labels
    assert derive_key(secret, "noise", run, 3, "client-7") == key
    assert oracle.derived_key(secret, "noise", run, 3, "client-7") == key
    layout = Layout.of([TensorSpec("w", (3,), Group.CODED)])
    server = Server(layout, METHODS["fedmrn"].scheme(), np.zeros(3, np.float32), secret, run=bytes.fromhex(run))
    assert Frame.from_bytes(server.begin(3, ["client-7"]).broadcast("client-7")).noise_key == key


def test_noise_key_of_a_round_of_the_document() -> None:
    secret, run = _secret_and_run()
    message = bytes.fromhex(re.search(r"the message ends after the round: here\n`([0-9a-f]+)`", DOCUMENT)[1])
    key = int(re.search(r"the round's key is 0x([0-9a-f]{16})", DOCUMENT)[1], 16)
    assert message == b"s\5\0\0\0noise" + b"s\x20\0\0\0" + run.encode() + b"i\1\0\0\0" + b"3"
    assert derive_key(secret, "noise", run, 3) == oracle.derived_key(secret, "noise", run, 3) == key


def test_every_frame_error_is_in_the_document() -> None:
    named = {e.__name__ for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.FrameError)}
    assert {n for n in named if n not in DOCUMENT} == OF_SECURE_SUMS
    page = (Path(__file__).parents[2] / "docs" / "secure-aggregation.md").read_text("utf-8")
    assert {n for n in OF_SECURE_SUMS if n not in page} == set()
    for name in re.findall(r"\b[A-Z]\w+Error\b", DOCUMENT):
        assert name in named
