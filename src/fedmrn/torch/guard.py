"""What does not travel must not change without a word: a guard over a client's frozen and local tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from operator import is_
from typing import Never, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch.internals import buffers, children, is_persistent, parameters, version
from fedmrn.torch.model_layout import ModelLayout
from fedmrn.torch.modules import FLOATS, is_plain, modules_of, names_of

_WIDTH = 1024
"""Words of a row, where a large tensor is summed up by rows and by columns."""


_MOST_SHOWN = 6


class Guard:
    """Refuses a change in local training that no update would tell the server of.

    It notes the frozen parameters and the buffers left local, by checksums and not by copies, and which objects the
    model is made of. What `Selection(local=[...])` names, counters and buffers that are not saved may change.

    Args:
        view: of the client's model, which holds the broadcast's state.
    """

    def __init__(self, view: ModelLayout) -> None:
        self._model = view.model
        self._sent = dict(zip(view.layout.slices, view.tensors, strict=True))
        tensors = dict(names_of(view.model))
        self._noted = {name: _Noted(name, tensors[name], name in view.free) for name in (*view.frozen, *view.local)}
        averaged = (spec.name for spec in view.layout.tensors if not spec.group.trained)
        self._never_trained = {
            name: tensors[name] for name in (*view.frozen, *averaged) if isinstance(tensors[name], nn.Parameter)
        }
        self._look()

    def check(self) -> None:
        """Refuse what changed since the last check; values are read only where torch counted a write.

        Raises:
            UnsupportedModelError: a frozen parameter is trainable now; a frozen parameter or a local buffer has other
                values; a tensor is another object, or is gone; or there is a new one that would be trained.
        """
        for name, tensor in self._never_trained.items():
            if tensor.requires_grad:
                _refuse_thawed(name)
        _refuse_changed([n for n in self._noted.values() if n.written() and not n.is_same(n.tensor)])
        now = [*_made_of(self._modules)]
        if len(now) != len(self._objects) or not all(map(is_, now, self._objects)):
            self._compare_objects()

    def check_contents(self) -> None:
        """Refuse what changed since the start, by whatever way: all values are read.

        Raises:
            UnsupportedModelError: as `check`.
        """
        self.check()
        self._compare_objects()
        _refuse_changed([n for n in self._noted.values() if not n.is_same(n.tensor)])

    def _look(self) -> None:
        self._modules = [module for _, module in modules_of(self._model)]
        self._objects = [*_made_of(self._modules)]

    def _compare_objects(self) -> None:
        """Compare the model's tensors by name with those at the start."""
        now = dict(names_of(self._model))
        for name, tensor in self._sent.items():
            found = now.get(name)
            if not _stands_in(found, tensor):
                raise UnsupportedModelError(
                    f"tensor {name} was {'replaced by another object' if name in now else 'taken out of the model'} "
                    "after attach, and what is trained or averaged there is lost: write into it by copy_ or "
                    "load_state_dict without assign=True, or change the model before attach"
                )
            self._sent[name] = found
        changed = []
        for name, noted in self._noted.items():
            found = now.get(name)  # one that is gone is used no more
            if found is None or found is noted.tensor:
                continue
            if name in self._never_trained:
                if found.requires_grad:
                    _refuse_thawed(name)
                self._never_trained[name] = found
            if not noted.is_same(found):
                changed.append(noted)
        _refuse_changed(changed)
        self._refuse_new(now)
        self._look()

    def _refuse_new(self, now: dict[str, Tensor]) -> None:
        known = {id(now[name]) for name in self._sent} | {id(n.tensor) for n in self._noted.values()}
        for name, tensor in now.items():
            if id(tensor) in known:
                continue
            if isinstance(tensor, nn.Parameter):
                if tensor.requires_grad:
                    raise UnsupportedModelError(
                        f"parameter {name} was added after attach, and its training would not be sent: add it before "
                        "attach, here and on the server"
                    )
            elif tensor.is_floating_point():
                raise UnsupportedModelError(
                    f"buffer {name} was added after attach, and is not sent: add it before attach (run one batch "
                    "first where forward makes it), or register it with persistent=False"
                )


@dataclass(slots=True)
class _Noted:
    """A tensor that is not sent, and how it was: writes that torch counted, place in memory, checksum of its values.

    `free` says that it may change. Quantised, sharded and the like have no checksum: there a write is a change.
    """

    name: str
    tensor: Tensor
    free: bool
    writes: int = 0
    place: int = 0
    digest: bytes | None = None

    def __post_init__(self) -> None:
        self._note(self.tensor, None if self.free or not is_plain(self.tensor) else digest(self.tensor))

    def written(self) -> bool:
        """Whether it may have changed."""
        tensor = self.tensor
        return not self.free and (
            _writes(tensor) != self.writes or (self.digest is not None and tensor.data_ptr() != self.place)
        )

    def is_same(self, tensor: Tensor) -> bool:
        """Whether this tensor, which stands in the model now, has the same values; then it is what is noted."""
        now = None if self.free or not is_plain(tensor) else digest(tensor)
        if now is None and self.digest is None:
            same = self.free or (tensor is self.tensor and _writes(tensor) == self.writes)
        else:
            same = now == self.digest
        if same:
            self._note(tensor, now)
        return same

    def _note(self, tensor: Tensor, now: bytes | None) -> None:
        self.tensor, self.digest, self.writes = tensor, now, _writes(tensor)
        self.place = 0 if now is None else tensor.data_ptr()


def _refuse_changed(changed: list[_Noted]) -> None:
    if not changed:
        return
    parameters = [n.name for n in changed if isinstance(n.tensor, nn.Parameter)]
    names = parameters or [n.name for n in changed]
    several = "s" if len(names) > 1 else ""
    shown = ", ".join(names[:_MOST_SHOWN]) + (f" and {len(names) - _MOST_SHOWN} more" if names[_MOST_SHOWN:] else "")
    raise UnsupportedModelError(
        f"{'frozen parameter' if parameters else 'buffer'}{several} {shown} changed in local training, and "
        f"{'are' if several else 'is'} not sent: {'unfreeze before attach, or ' if parameters else ''}choose="
        f"Selection(statistics={names[:_MOST_SHOWN]}), on the server too, averages over clients, and "
        f"Selection(local={names[:_MOST_SHOWN]}) leaves it to each client"
    )


def _stands_in(found: Tensor | None, tensor: Tensor) -> TypeGuard[Tensor]:
    """Whether this is the tensor, or a buffer that may stand in its place: `ModelLayout` reads what hangs there."""
    if found is None or found is tensor:
        return found is not None
    if isinstance(tensor, nn.Parameter) or isinstance(found, nn.Parameter):
        return False
    return found.shape == tensor.shape and found.device == tensor.device and found.dtype in FLOATS


def _refuse_thawed(name: str) -> Never:
    raise UnsupportedModelError(
        f"parameter {name} was frozen at attach and is trainable now, but its training would not be sent: unfreeze it "
        "before attach, here and on the server, or freeze it again by requires_grad_(False)"
    )


def _made_of(modules: list[nn.Module]) -> Iterator[object]:
    """The objects that modules hold: children, parameters and saved buffers."""
    for module in modules:
        yield from children(module).values()
        yield from parameters(module).values()
        for name, buffer in buffers(module).items():
            if is_persistent(module, name):
                yield buffer


def _writes(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else version(tensor)


def digest(tensor: Tensor) -> bytes:
    """Return a checksum of a tensor's type, shape and values in logical order, whatever its strides and device.

    64-bit words are summed up by rows and by columns, and the sums hashed: several times as fast as a hash of all
    bytes. It finds accidents; somebody who wants to can make two tensors with the same sums.
    """
    words = _words(tensor)
    whole = len(words) - len(words) % _WIDTH
    rows = words[:whole].reshape(-1, _WIDTH)
    hashed = blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    for part in (rows.sum(0), rows.sum(1), words[whole:]):
        hashed.update(np.asarray(part.cpu() if isinstance(part, Tensor) else part).tobytes())
    return hashed.digest()


def _words(tensor: Tensor) -> NDArray[np.int64] | Tensor:
    """A tensor's bytes as 64-bit words, zeros at the end; for numpy on the CPU, where it sums faster than torch."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    if short := -len(flat) % 8:
        flat = torch.cat([flat, flat.new_zeros(short)])
    if flat.device.type == "cpu":
        return flat.numpy().view(np.int64)
    return flat.clone().view(torch.int64)  # a copy begins at a whole word
