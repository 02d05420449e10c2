"""`examples/finetune` on a fake grid, with a tiny encoder, made-up questions and tokens: what travels, what is told."""

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from fake_grid import FakeGrid, Node, reply_from
from flwr.app import Context, Message, RecordDict
from tiny_encoder import VOCABULARY, tiny_encoder

from fedmrn.data import banking77
from fedmrn.models import sentence
from fedmrn.torch import ModelLayout
from made_up import write_banking77

pytestmark = pytest.mark.skipif(
    not all(map(find_spec, ("transformers", "peft"))),
    reason='transformers or peft is not installed: pip install "fedmrn[finetune]"',
)

APP = Path(__file__).parents[3] / "examples" / "finetune"
NODES, ROUNDS = 3, 2
FROZEN = 4 * VOCABULARY * 16
"""Bytes of the tiny model's table of tokens: with LoRA, nothing that travels may be of this size."""
OVERHEAD = 4096
"""More than the header of a frame and its scales, 12 bytes a tensor, have here."""


class Noting(FakeGrid):
    """Notes the bytes of arrays of each message, by kind and direction."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        super().__init__(nodes)
        self.down: dict[str, list[int]] = {"train": [], "evaluate": []}
        self.up: dict[str, list[int]] = {"train": [], "evaluate": []}

    def sent(self, message: Message) -> Message:
        self.down[message.metadata.message_type].append(size(message))
        return message

    def pull_messages(self, message_ids: Any) -> list[Message]:
        found = super().pull_messages(message_ids)
        for message in found:
            assert not message.has_error(), message.error
            self.up[message.metadata.message_type].append(size(message))
        return found


def size(message: Message) -> int:
    return sum(len(array.data) for record in message.content.array_records.values() for array in record.values())


def tokenise(texts: list[str], length: int) -> np.ndarray:
    """A token a word."""
    ids = np.zeros((len(texts), length), np.int32)
    for row, text in zip(ids, texts, strict=True):
        words = text.split()[:length]
        row[: len(words)] = [1 + crc32(word.encode()) % (VOCABULARY - 1) for word in words]
    return ids


def configuration(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """The app's own configuration, for two short rounds."""
    told = tomllib.loads((APP / "pyproject.toml").read_text("utf-8"))["tool"]["flwr"]["app"]["config"]
    short = {"num-server-rounds": ROUNDS, "fraction-train": 1.0, "fraction-evaluate": 1.0, "data-dir": str(tmp_path)}
    assert told.keys() >= {*short, *changes}
    return {**told, **short, **changes}


def run(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Noting:
    """Run the server's main function against the client's app, as Flower would."""
    monkeypatch.syspath_prepend(APP)
    monkeypatch.setattr(sentence, "pretrained_encoder", tiny_encoder)
    monkeypatch.setattr(banking77, "tokenise", tokenise)
    write_banking77(Path(config["data-dir"]))
    from finetune_app import client_app, server_app  # noqa: PLC0415 - found by the path above

    def node(i: int) -> Node:
        context = Context(1, i, {"partition-id": i, "num-partitions": NODES}, RecordDict(), config)
        return lambda message: reply_from(message, client_app.app(message, context).content)

    grid = Noting({10 + i: node(i) for i in range(NODES)})
    server_app.main(grid, Context(1, 1, {}, RecordDict(), config))
    return grid


@pytest.mark.parametrize(("method", "bits"), [("fedmrn", 1), ("drive", 1), ("fedavg", 32)])
def test_with_lora_the_frozen_part_never_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str, bits: int
) -> None:
    grid = run(configuration(tmp_path, method=method), monkeypatch)
    trained = ModelLayout.of(sentence.minilm(77, lora=True)).layout.trainable
    assert 4 * trained + OVERHEAD < FROZEN
    for kind in ("train", "evaluate"):
        assert len(grid.down[kind]) == len(grid.up[kind]) == NODES * ROUNDS
        assert all(4 * trained < sent < 4 * trained + OVERHEAD for sent in grid.down[kind])
    assert all(bits * trained / 8 < sent < bits * trained / 8 + OVERHEAD for sent in grid.up["train"])
    assert set(grid.up["evaluate"]) == {0}
    printed = capsys.readouterr().out
    assert f"{method}: {trained:,} trained parameters" in printed
    rows = re.findall(r"^ +(\d) +(0\.\d+) +(\d+) +([\d.]+) +([\d,]+) +([\d,]+)$", printed, re.MULTILINE)
    assert [(number, folded) for number, _, folded, *_ in rows] == [("1", "3"), ("2", "3")]
    first_up = sum(grid.up["train"][:NODES])
    assert float(rows[0][3]) == pytest.approx(8 * first_up / (NODES * trained), abs=0.0005)
    assert int(rows[0][4].replace(",", "")) >= first_up


def test_the_whole_model_travels_without_lora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = run(configuration(tmp_path, lora=False, **{"learning-rate": 2e-4}), monkeypatch)
    trained = ModelLayout.of(sentence.minilm(77, lora=False)).layout.trainable
    assert all(FROZEN < 4 * trained < sent < 4 * trained + OVERHEAD for sent in grid.down["train"])
    assert all(trained / 8 < sent < trained / 8 + OVERHEAD for sent in grid.up["train"])
