"""What `fedmrn inspect` says of the content of a section, and the comparison on a screen."""

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from public_models import LAYOUT, framed, model_of
from rich.console import Console

from fedmrn.cli.show import show_comparison, show_frame
from fedmrn.codecs import Bernoulli, Codec, CodedMask, EncodeKeys, MaskedNoise, Raw, Sparse, Support
from fedmrn.errors import UnknownTermError
from fedmrn.experiments.run.record import Record
from fedmrn.methods import method
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.report.saving import SMALLER
from fedmrn.report.summary import summarise
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from run_folders import record

KEYS = EncodeKeys(0xFEED, 42)
MASKED = MaskedNoise(NoiseSpec(Law.GAUSSIAN, 0.005), MaskType.SIGNED)


def said(codec: Codec, count: int, body: bytes) -> str:
    section = Section(codec.id, Role.UPDATE, Group.CODED, count, codec.params(), body)
    frame = Frame(Kind.UPDATE, 2, 1, KEYS.noise, bytes(16), 1, (section,))
    text = StringIO()
    show_frame(Console(file=text, width=200), frame, len(frame.to_bytes()))
    return text.getvalue()


def test_values() -> None:
    x = np.array([0.5, -2.0, 0.25, 0.25], np.float32)
    assert "mean -0.25, largest magnitude 2 " in said(Raw(), 4, x.tobytes()).replace("\n", " ")
    assert "mean 0, largest magnitude 0" in said(Raw(), 0, b"")
    assert "mean 0.75, largest magnitude 1" in said(Bernoulli(1), 4, b"\x0d")


@pytest.mark.parametrize("codec", [MASKED, CodedMask(MASKED)])
def test_masks(codec: Codec) -> None:
    n = MASKED.noise.chunk(KEYS.noise, 0, 1000)
    body = codec.encode(np.where(np.arange(1000) < 125, n, -n), KEYS)
    assert "signed, gaussian 0.005; 12.5% ones" in said(codec, 1000, body)
    assert "signed, gaussian 0.005; 0.0% ones" in said(MASKED, 0, b"")


def test_what_needs_its_broadcast() -> None:
    assert "readable beside its broadcast only" in said(Support(), 4, bytes(4))


def test_a_section_that_declares_more_than_it_holds_is_not_written_out() -> None:
    most = 1 << 27
    assert "too many elements to look at" in said(Sparse(2.0**-20), most + 1, bytes(500))
    assert "too many elements to look at" in said(MASKED, 1 << 62, bytes(500))


def test_a_section_as_long_as_its_elements_is_looked_at() -> None:
    """However many there are: the work is that of reading the file. 0x55 is half of the bits."""
    count = (1 << 27) + 8
    assert "signed, gaussian 0.005; 50.0% ones" in said(MASKED, count, b"\x55" * (count // 8))


def test_public_models() -> None:
    """Whole and changed; damaged parameters are said to be that, and the rest of the frame is shown."""

    def shown(*sections: Section) -> str:
        text = StringIO()
        frame = Frame(Kind.BROADCAST, 1, 1, 7, bytes(16), 0, sections)
        show_frame(Console(file=text, width=250), frame, len(frame.to_bytes()))
        return text.getvalue()

    whole, changed = framed(model_of(4)).sections, framed(model_of(4), model_of(3)).sections
    assert "public model 4, whole; run " in shown(*whole)
    assert "public model 4, what changed since model 3; run " in shown(*changed)
    assert "numbers count from zero" in shown(*changed)
    counted = framed(model_of(1, np.ones(LAYOUT.size, np.float32))).sections
    assert "numbers count from the run's starting weights" in shown(*counted)
    good = whole[0].params
    for params in (b"", good[:-1], good + b"\0", b"\4" + good[1:], b"\xff" * 33, b"\0" * 5 + b"\1" + good[6:]):
        text = shown(replace(whole[0], params=params), *whole[1:])
        assert "public model, damaged: " in text
        assert text.count("public model 4, whole") == len(whole) - 1
    assert "public model 4, whole" in shown(replace(whole[0], body=b""), *whole[1:]), "bodies are not looked at"
    text = StringIO()
    update = Frame(Kind.UPDATE, 1, 1, 7, bytes(16), 1, (replace(whole[0], role=Role.UPDATE),))
    show_frame(Console(file=text, width=250), update, 1)
    assert "unknown codec 15" in text.getvalue()


def test_terms() -> None:
    """The broadcast of docs/wire-format.md, section 9.12; and one whose terms are of tomorrow."""
    layout = Layout.of([TensorSpec("fc.weight", (2, 2), Group.CODED)])
    server = Server(
        layout, method("fedbat").scheme({"warmup": 0.25, "rho": 1.5}), np.ones(4, np.float32), bytes(16), run=bytes(16)
    )
    frame = Frame.from_bytes(server.begin(1, ["a"]).broadcast("a"))
    text = StringIO()
    show_frame(Console(file=text, width=200), frame, len(frame.to_bytes()))
    assert "coded terms" in text.getvalue()
    assert "warmup = 0.25, rho = 1.5" in text.getvalue()
    terms = next(s for s in frame.sections if s.role is Role.TERMS)
    later = replace(frame, sections=(replace(terms, body=b"\x63\0\0\0\0\0", count=1),))
    with pytest.raises(UnknownTermError):
        show_frame(Console(file=text, width=200), later, len(later.to_bytes()))


@pytest.mark.parametrize("down", ["float32", SMALLER])
def test_a_comparison_fits_a_terminal_and_says_whose_downlink_could_be_smaller(down: str) -> None:
    """Three seeds, hundreds of megabytes; nothing is said where the option is there already."""
    seeds = [[Record.of_line(json.dumps(record(1, last)))] for last in (0.98, 0.99, 0.97)]
    masked = summarise("fedmrn-s", 0.1, seeds, down=down)
    small = {"up_bytes": 11.31e6, "down_bytes": 313.51e6, "total_bytes": 324.82e6}
    large = {"up_bytes": 313.5e6, "down_bytes": 313.51e6, "total_bytes": 627.01e6, "up_bits": 32.1, "down": "float32"}
    rows = [replace(masked, method="fedavg", label="fedavg", **large), replace(masked, **small)]
    text = StringIO()
    show_comparison(Console(file=text, width=80), rows, "a title")
    table, _, below = text.getvalue().partition("MB: of a whole run")
    lines = [line.split() for line in table.splitlines()]
    heads = ["up", "down", "total", "total", "up", "down", "total"], ["MB"] * 3 + ["saved"] + ["bits"] * 3
    assert (lines[2][1:], lines[3][3:]) == heads
    assert lines[5][3:7] == ["313.50", "313.51", "627.01", "1.0x"]
    assert max(map(len, table.splitlines())) <= 80
    assert below.count("\n") == (2 if down == "float32" else 1)
    assert (f"fedmrn-s: --set method.down={SMALLER} " in below) is (down == "float32")
