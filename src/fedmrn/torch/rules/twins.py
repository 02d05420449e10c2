"""Parameters of which the optimiser sees one tensor and the model another.

The optimiser moves float32. The model computes with what is drawn from that, or with fewer bits.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from fedmrn.errors import UnsupportedModelError
from fedmrn.numerics.masking import fingerprint
from fedmrn.torch.internals import version


class Twin:
    """A parameter, the tensor that its optimiser moves, and the one that its model computes with.

    Args:
        name: of the parameter in the layout.
        tensor: the parameter.
        where: its place in the flat vector.
        moved: what the optimiser moves: float32, contiguous, of the parameter's shape.
        shown: what the model computes with: of its dtype, contiguous; it may be a view of a longer vector.

    Attributes:
        behind: steps that were taken since the one that it was drawn after.
    """

    def __init__(self, name: str, tensor: Tensor, where: slice, moved: Tensor, shown: Tensor) -> None:
        self.name, self.tensor, self.where = name, tensor, where
        self.narrow = shown.dtype != torch.float32
        self._gradient: Tensor | None = None
        self.behind = 0
        self._adapted: tuple[int, int] | None = None
        self.move_to(moved, shown)
        self.note()

    def move_to(self, moved: Tensor, shown: Tensor) -> None:
        """Use other memory, which has the same values."""
        self.moved, self._memory, self.shown = moved, shown, _alone(shown)
        self.tensor.data = self.shown

    def note(self) -> None:
        """Note what the model computes with, as it was drawn."""
        self._seen = self._print()

    def redrawn(self) -> None:
        """Say that it was drawn anew: torch refuses to go backward through a graph that has its former weights."""
        self.behind = 0
        increment_version(self.tensor)

    def changed(self) -> bool:
        """Whether that was written to since; on a CUDA device, otherwise than through `data`."""
        return self._seen != self._print()

    def _print(self) -> int:
        if self.shown.device.type != "cpu":
            return version(self.tensor)  # its contents are there, and not waited for
        return fingerprint(self.shown.view(-1).view(torch.int16 if self.narrow else torch.int32).numpy())

    def to_optimizer(self) -> None:
        """Let the parameter hold what the optimiser moves, and the gradient have its dtype."""
        gradient = self.tensor.grad
        if not self.narrow:
            self.tensor.data = self.moved
            return
        self.tensor.grad = None
        self.tensor.data = self.moved
        self._gradient = gradient
        if gradient is not None:
            self.tensor.grad = gradient.to(torch.float32)

    def to_model(self) -> None:
        """Let the parameter hold what the model computes with; changes of the gradient stay."""
        if not self.narrow:
            self.tensor.data = self.shown
            return
        gradient, before = self.tensor.grad, self._gradient
        self.tensor.grad = self._gradient = None
        self.tensor.data = self.shown
        if gradient is not None:
            self.tensor.grad = gradient.to(self.shown.dtype) if before is None else before.copy_(gradient)

    def fresh_gradient(self) -> Tensor | None:
        """Return the gradient, unless there is none or it was adapted already."""
        gradient = self.tensor.grad
        if gradient is not None and gradient.layout is not torch.strided:
            gradient = self.tensor.grad = gradient.to_dense()  # of a sparse embedding
        return None if gradient is None or self._adapted == (gradient.data_ptr(), version(gradient)) else gradient

    def adapted(self) -> None:
        """Note that the gradient was adapted."""
        gradient = self.tensor.grad
        self._adapted = None if gradient is None else (gradient.data_ptr(), version(gradient))

    def put_right(self) -> None:
        """Give the parameter its tensor again, with the values that it has: after a conversion there and back, say.

        Raises:
            UnsupportedModelError: it is of another dtype, shape or device now.
        """
        if self.shown.data_ptr() != self._memory.data_ptr() and self.shown.numel():
            moved_along, self.shown = self.shown, _alone(self._memory)  # into memory that processes share, say
            self.shown.copy_(moved_along)
            self.tensor.data = self.shown
        now, shown = self.tensor, self.shown
        if now.data_ptr() == shown.data_ptr() and now.dtype == shown.dtype and now.stride() == shown.stride():
            return
        if (now.dtype, now.shape, now.device) != (shown.dtype, shown.shape, shown.device):
            raise UnsupportedModelError(
                f"{self.name} became {now.dtype} of shape {tuple(now.shape)} on {now.device} while this client trains; "
                f"it was {shown.dtype} of shape {tuple(shown.shape)} on {shown.device}: convert the model before attach"
            )
        shown.copy_(now.detach())
        now.data = shown


def _alone(shown: Tensor) -> Tensor:
    """Return a tensor over the same memory with a storage of its own.

    What saves a model (safetensors, accelerate) takes tensors of one storage for one, and leaves the others out.
    """
    whole = shown.untyped_storage().nbytes() == shown.numel() * shown.element_size()
    return shown if whole or not shown.numel() else torch.from_dlpack(shown)  # type: ignore[attr-defined]


def to_optimizer(twins: Sequence[Twin]) -> None:
    """Let parameters hold what their optimiser moves."""
    for twin in twins:
        twin.to_optimizer()


def to_model(twins: Sequence[Twin]) -> None:
    """Let parameters hold what the model computes with."""
    for twin in twins:
        twin.to_model()
