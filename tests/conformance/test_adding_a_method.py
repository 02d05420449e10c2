"""The code of docs/adding-a-method.md, as it stands on the page."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import fedmrn.codecs
from fedmrn.codecs import Codec
from fedmrn.errors import EncodeError, MalformedFrameError, NonFiniteError
from fedmrn.methods import METHODS
from fedmrn.methods.method import Method
from fedmrn.server import Server
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import encode_update

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Run the page's blocks in one module, and list its codec as the page says."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), module.__dict__)  # noqa: S102
    codec: type[Codec] = module.Half
    assert codec.id not in fedmrn.codecs.CODECS
    assert module.ROW.id not in {m.id for m in METHODS.values()}
    monkeypatch.setattr(fedmrn.codecs, "CODECS", {**fedmrn.codecs.CODECS, codec.id: codec})
    return module


def test_the_method_runs_a_round(page: types.ModuleType) -> None:
    row: Method = page.ROW
    layout = Layout.of([TensorSpec("w", (33,), Group.CODED), TensorSpec("scale", (2,), Group.DENSE)])
    server = Server(layout, row.scheme(), np.zeros(35, np.float32), bytes(16))
    round_ = server.begin(1, [7])
    broadcast = Frame.from_bytes(round_.broadcast(7))
    update = np.linspace(-1, 1, 35, dtype=np.float32)
    data = encode_update(broadcast, layout, update, weight=3, sampling_key=0).to_bytes()
    assert Frame.from_bytes(data).account()["coded"] == 2 * 33
    round_.add(7, data)
    expected = update.copy()
    expected[:33] = update[:33].astype(np.float16)
    # The fold rounds to its unit, 2^-17 of a half's bound over the largest weight; far below a half's own spacing.
    np.testing.assert_allclose(round_.finish(), expected, atol=1e-8)


def test_its_codec_refuses_what_the_page_says(page: types.ModuleType) -> None:
    codec = page.Half()
    keys = fedmrn.codecs.EncodeKeys(0, 0)
    with pytest.raises(EncodeError):
        codec.encode(np.array([1e6], np.float32), keys)
    with pytest.raises(MalformedFrameError):
        codec.open(b"\0" * 3, 2, 0, 1.0)
    with pytest.raises(MalformedFrameError):
        codec.from_params(b"x")
    with pytest.raises(NonFiniteError):
        codec.open(np.array([np.nan], "<f2").tobytes(), 1, 0, 1.0)
    assert dataclasses.is_dataclass(codec)
