"""What `fedmrn inspect` says of the content of a section."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from fedmrn.cli.show import show_frame
from fedmrn.codecs import Bernoulli, Codec, CodedMask, EncodeKeys, MaskedNoise, Raw, Sparse, Support
from fedmrn.errors import UnknownTermError
from fedmrn.methods import method
from fedmrn.numerics.masking import MaskType
from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.server import Server
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec

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
