"""Print the peak memory of a round above the start, in dense models: 200 clients of 10 million parameters.

A process of its own, because a peak is that of a process. Replies come one at a time.
"""

import json
import logging
import os
import struct
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from fake_grid import FakeGrid, reply_from
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmrn.flower import FedMRN, records
from fedmrn.methods import method
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec
from fedmrn.wire.messages import templates

CLIENTS = 200


def peak() -> int:
    """Bytes of memory at most in use since `forget`."""
    line = next(x for x in Path("/proc/self/status").read_text("ascii").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5", "ascii")


KEY = slice(24, 32)
"""Where the noise key stands in a frame."""


class Forgetful(FakeGrid):
    """Keeps of what was sent the frame without its state: the rest is with the SuperLink."""

    def sent(self, message: Message) -> Message:
        head = ArrayRecord({"frame": message.content["arrays"]["frame"]})  # type: ignore[index,dict-item]
        return Message(RecordDict({"arrays": head}), metadata=message.metadata)


def layout_of(parameters: int) -> Layout:
    return Layout.of([TensorSpec("w", (parameters,), Group.CODED)])


def synthetic(layout: Layout, message: Message, options: Mapping[str, object] = MappingProxyType({})) -> Message:
    """A random mask for what was asked; training would take 200 times as long."""
    plan = method("fedmrn")
    codecs = plan.scheme(options).codecs_at(1)
    (template,) = templates(layout, codecs)
    scales = struct.pack("<IQf", 1, template.count, 2.0**-7) if codecs[Group.CODED].sends_scales else b""
    body = scales + os.urandom(-(-template.count // 8))
    section = Section(template.codec, Role.UPDATE, template.group, template.count, template.params, body)
    key = int.from_bytes(message.content["arrays"]["frame"].data[KEY], "little")  # type: ignore[index]
    frame = Frame(Kind.UPDATE, plan.id, 1, key, layout.digest, 3, (section,))
    arrays = ArrayRecord({"frame": records.to_array(frame.to_bytes())})
    return reply_from(message, RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 3})}))


def one_round(
    parameters: int, clients: int, options: Mapping[str, object] = MappingProxyType({})
) -> tuple[int, FedMRN]:
    layout = layout_of(parameters)
    few = {"fraction_evaluate": 0.0, "min_train_nodes": clients, "min_available_nodes": clients}
    plan = FedMRN(layout, options=options, **few)
    initial = ArrayRecord({"w": Array(np.ones(parameters, np.float32))})
    nodes = Forgetful(dict.fromkeys(range(100, 100 + clients), partial(synthetic, layout, options=options)))
    forget()
    before = peak()
    result = plan.start(nodes, initial, num_rounds=1)
    if len(plan.reports[0].folded) != clients or result.arrays["w"].data == initial["w"].data:
        sys.exit(f"not folded: {plan.reports[0].refused[:1]}")
    return peak() - before, plan


def main() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    parameters, options = int(sys.argv[1]), json.loads(sys.argv[2])
    one_round(1 << 23, 9, options)  # compiles what a large model needs
    used, _ = one_round(parameters, CLIENTS, options)
    sys.stdout.write(f"{used / (4 * parameters):.3f}\n")


if __name__ == "__main__":
    main()
