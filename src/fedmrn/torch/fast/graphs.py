"""CUDA graphs of training steps: a step is captured once and replayed for every batch and every client.

A small model's step is some hundred kernels of a few microseconds each, and launching them takes the host longer than
the device needs to run them. A graph is launched once.

A captured step uses addresses, not tensors. So what it uses must stay where it was: batches are copied into memory of
the graph's own, the vectors of local rules live in `StepGraphs.kept`, and a step is replayed only for the key that it
was captured under, which holds every other address and setting. The steps of a new key before its capture are taken on
the capture's stream (lazy initialisation, compilation). They are real steps, and capturing runs nothing, so there is
nothing to put back: not u, the statistics of batch norm, nor the state of a generator.

The calls that need CUDA are the two methods of `CudaGraphs`; the rest runs, and is tested, on any device.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedmrn.errors import UnsupportedModelError

Step = Callable[[Tensor, Tensor], None]
"""(inputs, targets): everything that the device does in a step, and nothing that Python has to remember."""


class Recorder(Protocol):
    """Captures the work of a call on a device, and replays it."""

    def aside(self, call: Callable[[], None]) -> None:
        """Call on the stream of captures, in order with what is before and after."""

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """Return what replays the device's work of a call; nothing of it has been done yet."""


class CudaGraphs:  # pragma: no cover - needs CUDA
    """Captures on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def aside(self, call: Callable[[], None]) -> None:
        """Call on the stream of captures."""
        now = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            call()
        now.wait_stream(self._stream)

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        """Capture the work of a call as a CUDA graph, and return its replay."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            call()
        return graph.replay


@dataclass
class _Captured:
    """The state of one key: steps taken before capture, then the batch's place and what replays."""

    taken: int = 0
    x: Tensor | None = None
    y: Tensor | None = None
    replay: Callable[[], None] | None = None


class StepGraphs:
    """The captured training steps of a model, replayed for one client after another.

    Args:
        recorder: what captures; `CudaGraphs` of the model's device.

    Attributes:
        kept: the memory of local rules' vectors by name, used by one client after another.
        before: steps of a new key before its capture.
        most: keys that are kept; the one not used for longest gives way. A full batch is one, and each size of a last
            batch is another. A graph holds the memory of its step.
    """

    before = 3
    most = 4

    def __init__(self, recorder: Recorder) -> None:
        self.kept: dict[str, Tensor] = {}
        self._recorder = recorder
        self._captured: dict[Hashable, _Captured] = {}

    def run(self, step: Step, key: Hashable, x: Tensor, y: Tensor) -> None:
        """Take a step of a batch.

        Args:
            step: what to do; the same for the same key.
            key: all settings and addresses that the step depends on, beside the batch.
            x, y: the batch.

        Raises:
            UnsupportedModelError: the step does something that cannot be captured, such as to wait for the device.
        """
        key = (key, *((t.shape, t.stride(), t.dtype) for t in (x, y)))
        captured = self._captured[key] = self._captured.pop(key, _Captured())
        while len(self._captured) > self.most:
            del self._captured[next(iter(self._captured))]
        if captured.taken < self.before:
            captured.taken += 1
            self._recorder.aside(lambda: step(x, y))
            return
        if captured.replay is None or captured.x is None or captured.y is None:
            held = captured.x, captured.y = _like(x), _like(y)
            try:
                captured.replay = self._recorder.capture(lambda: step(*held))
            except RuntimeError as error:
                raise UnsupportedModelError(
                    f"a step of this model cannot be captured as a CUDA graph ({error}): train without graphs "
                    "(train.graphs = false)"
                ) from error
        captured.x.copy_(x)
        captured.y.copy_(y)
        captured.replay()


def _like(t: Tensor) -> Tensor:
    """Memory for a tensor of the same strides; `empty_like` would choose others for one channel."""
    return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)
