"""Print the peak memory of a round above the start, in dense models: 200 clients of 10 million parameters.

A process of its own, because a peak is that of a process. Replies come one at a time.
"""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from fake_grid import FakeGrid, reply_from
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmrn.flower import FedMRN, records
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec

CLIENTS = 200


def peak() -> int:
    """Bytes of memory at most in use since `forget`."""
    line = next(x for x in Path("/proc/self/status").read_text("ascii").splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5", "ascii")


class Watched(FedMRN):
    """Keeps what clients are asked for, without the state."""

    asked: ClassVar[dict[int, tuple[Section, Frame]]] = {}

    def sent(self, node: int, frame: Frame) -> None:
        (template,) = (s for s in frame.sections if s.role is Role.TEMPLATE)
        self.asked[node] = template, replace(frame, kind=Kind.UPDATE, weight=3, sections=())


class Forgetful(FakeGrid):
    """Keeps nothing of what was sent, as Flower's grid once it is with the SuperLink."""

    def sent(self, message: Message) -> Message:
        return Message(RecordDict(), metadata=message.metadata)


def synthetic(message: Message) -> Message:
    """A random mask for what was asked; training would take 200 times as long."""
    template, head = Watched.asked[message.metadata.dst_node_id]
    body = os.urandom(-(-template.count // 8))
    section = Section(template.codec, Role.UPDATE, template.group, template.count, template.params, body)
    arrays = ArrayRecord({"frame": records.to_array(replace(head, sections=(section,)).to_bytes())})
    return reply_from(message, RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 3})}))


def one_round(parameters: int, clients: int) -> tuple[int, FedMRN]:
    layout = Layout.of([TensorSpec("w", (parameters,), Group.CODED)])
    plan = Watched(layout, fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients)
    initial = ArrayRecord({"w": Array(np.ones(parameters, np.float32))})
    nodes = Forgetful(dict.fromkeys(range(100, 100 + clients), synthetic))
    forget()
    before = peak()
    result = plan.start(nodes, initial, num_rounds=1)
    if len(plan.reports[0].folded) != clients or result.arrays["w"].data == initial["w"].data:
        sys.exit(f"not folded: {plan.reports[0].refused[:1]}")
    return peak() - before, plan


def main() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    logging.getLogger("flwr").setLevel(logging.ERROR)
    parameters = int(sys.argv[1])
    one_round(1 << 23, 9)  # compiles what a large model needs
    used, _ = one_round(parameters, CLIENTS)
    sys.stdout.write(f"{used / (4 * parameters):.3f}\n")


if __name__ == "__main__":
    main()
