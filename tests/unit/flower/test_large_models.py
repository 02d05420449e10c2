"""Models beyond what one message of Flower's may hold: arrays go in pieces, and what cannot is refused beforehand."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_grid import reply_from
from flower_clients import context, grid, initial, small_model, strategy
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

from fedmrn.errors import ConfigError, LimitError
from fedmrn.flower import client, records, remembered
from fedmrn.flower.client import attach
from fedmrn.flower.kept import FOLDER
from fedmrn.torch import LocalRule
from fedmrn.wire.frame import Frame, Limits


def asked(method: str) -> Message:
    plan = strategy(method)
    plan.begin(initial())
    return next(iter(plan.configure_train(1, initial(), ConfigRecord(), grid())))


def attached(message: Message, state: Context, **options: Any) -> LocalRule:
    model = small_model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return attach(model, sgd, message, state, steps=1, accept="any", **options)


def test_flower_cuts_an_array_into_pieces_far_below_its_limit() -> None:
    """A message of gRPC's has less than 2 GiB. Of an array travel pieces and a list of them, 70 bytes a piece."""
    data = bytes(range(256)) * (3 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE // 256) + b"more"
    array = records.to_array(data)
    pieces = [piece.deflate() for _, piece in array.slice_array()]
    assert len(pieces) == 4
    assert max(map(len, pieces)) < FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 1000
    assert len(array.deflate()) < 1000
    assert len(ArrayRecord({"state": array}).deflate()) < 1000
    assert len(RecordDict({"arrays": ArrayRecord({"state": array})}).deflate()) < 1000
    children = dict(array.slice_array())
    assert Array.inflate(array.deflate(), children).data == data


def test_a_memory_that_flower_cannot_put_away_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    message, state = asked("topk-ef"), context(11)
    coded = 6 * 64 + 64 + 64 * 3 + 3  # elements, float32
    monkeypatch.setattr(client, "MOST_KEPT", 4 * coded)
    attached(message, state)
    monkeypatch.setattr(client, "MOST_KEPT", 4 * coded - 1)
    with pytest.raises(ConfigError, match=f"clients of topk-ef keep .* {4 * coded} bytes here"):
        attached(message, state)
    attached(asked("fedmrn"), state)  # its clients keep nothing


def test_a_memory_in_a_file_may_be_beyond_a_clients_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a run that is kept: the file is the node's own, and 4 GiB are 1.07 thousand million parameters."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    message = asked("topk-ef")
    broadcast = Frame.from_bytes(records.broadcast_bytes(message.content, "arrays"))
    (tmp_path / f"{bytes(8).hex()}-11-0.memory").touch()
    limits = list[int]()

    def read(path: Path, most: int) -> bytes:
        limits.append(most)
        return b""

    monkeypatch.setattr(remembered, "read_file", read)
    assert remembered.Remembered(11, bytes(8)).before(broadcast) is None
    assert limits == [1 << 40]


def test_a_frame_beyond_the_limit_is_refused_and_the_server_is_told_what_to_write(
    caplog: pytest.LogCaptureFixture,
) -> None:
    size = len(records.broadcast_bytes(asked("fedmrn").content, "arrays"))

    def small(message: Message) -> Message:
        try:
            attached(message, context(11), limits=Limits(max_bytes=size - 1))
        except LimitError as error:
            return reply_from(message, Error(2, f"{type(error)}:<'{error}'>"), 1)
        raise AssertionError("it was to be refused")

    nodes, plan = grid(node11=small), strategy()
    plan.begin(initial())
    with caplog.at_level(logging.WARNING, "flwr"):
        plan.aggregate_train(1, nodes.send_and_receive(plan.configure_train(1, initial(), ConfigRecord(), nodes)))
    assert sum("pass limits=Limits(max_bytes=...) to attach(...)" in line for line in caplog.messages) == 1
    attached(asked("fedmrn"), context(11), limits=Limits(max_bytes=size))
