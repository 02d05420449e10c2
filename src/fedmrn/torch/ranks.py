"""Processes that train one client together: one sampling key, one frame, the same model in each (DDP)."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fedmrn.torch.internals import compiled_from
from fedmrn.wire.frame import Frame


class Ranks:
    """The processes of one client: those of a DDP model's group, or this one alone.

    Args:
        model: as the user has it.
        device: that messages between processes lie on.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        while (inside := compiled_from(model)) is not None:
            model = inside
        self._group = model.process_group if isinstance(model, DistributedDataParallel) else None
        self._device = device

    def first_key(self, key: int) -> int:
        """Return the key of the first process, 64 bits, whatever those of the others are."""
        if self._group is None:
            return key
        return int.from_bytes(self._first(key.to_bytes(8, "little")), "little")

    def first_frame(self, frame: Frame) -> Frame:
        """Return the update of the first process: what all of them made, but for statistics of their own batches."""
        return frame if self._group is None else Frame.from_bytes(self._first(frame.to_bytes()), kind=frame.kind)

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the tensors of the first one."""
        if self._group is not None:
            for tensor in tensors:
                dist.broadcast(tensor, group=self._group, group_src=0)

    def _first(self, data: bytes) -> bytes:
        """Return the bytes of the first process; all call this at the same point."""
        size = torch.tensor([len(data)], device=self._device)
        dist.broadcast(size, group=self._group, group_src=0)
        body = torch.from_numpy(np.frombuffer(data, np.uint8).copy()).to(self._device)
        if body.numel() != int(size):
            body = torch.empty(int(size), dtype=torch.uint8, device=self._device)
        dist.broadcast(body, group=self._group, group_src=0)
        return body.cpu().numpy().tobytes()
