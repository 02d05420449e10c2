"""A layout as JSON, from anybody: what `fedmrn layout` writes, and a run folder or a server without torch reads."""

import json

from fedmrn import parsed
from fedmrn.errors import ConfigError
from fedmrn.wire import layout, layout_json
from fedmrn.wire.layout import Group, Layout, TensorSpec

from .base import Target, require


def _check(data: bytes) -> None:
    try:
        found = Layout.from_json(data)
    except ConfigError as error:
        require(str(error).isprintable() and len(str(error)) < 400, "a message that is long or not printable")
        return
    text = found.to_json()
    require(Layout.from_json(text) == found, "a layout that was read is not written as the same one")
    require(len(found.digest) == 16 and text.isascii(), "a layout without a digest, or not in its canonical form")


def _seeds() -> list[bytes]:
    tensors = [
        TensorSpec("a.weight", (3, 4), Group.CODED),
        TensorSpec("größe", (), Group.CODED),
        TensorSpec("n.weight", (0, 7), Group.DENSE),
        TensorSpec("n.running_mean", (4,), Group.STATS),
        TensorSpec("n.running_var", (4,), Group.VARIANCE),
    ]
    text = Layout(tuple(tensors)).to_json()
    return [
        text.encode(),
        json.dumps(json.loads(text), ensure_ascii=False, indent=1).encode(),
        Layout(tuple(tensors[:1])).to_json().encode(),
        b"[]",
        b'[{"name": "\\ud800", "shape": [1e3, 99999999999999999999], "group": "mask"}]',
        b"[" * 100,
    ]


# A few objects of Python for each tensor and each size; a size may take two bytes.
LAYOUT = Target("layout", _check, _seeds, (parsed, layout, layout_json), memory=1 << 20)
