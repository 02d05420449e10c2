"""Wrappers that people put around a model: the layout, the names and the digest are those of the model inside."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from federating import decoded, server_of
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F

from fedmrn.codecs import EncodeKeys
from fedmrn.errors import UnsupportedModelError, WrongLayoutError
from fedmrn.torch import ModelLayout, attach, load_model, unwrapped
from fedmrn.wire.layout import Group
from fedmrn.wire.messages import model_frame


@pytest.fixture(scope="module", autouse=True)
def _one_rank() -> Iterator[None]:
    """DDP needs a process group, of one process here."""
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=Path(folder, "rank").as_uri(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def bare() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": compiled,
    "compile in place": in_place,
    "DataParallel": nn.DataParallel,
    "DDP": nn.parallel.DistributedDataParallel,
    "compile of DDP": lambda m: compiled(nn.parallel.DistributedDataParallel(m)),
    "DDP of compile": lambda m: nn.parallel.DistributedDataParallel(compiled(m)),
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@every_wrapper
def test_the_layout_is_that_of_the_model_inside(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model, plain = bare(), ModelLayout.of(bare())
    wrapped = wrap(model)
    view = ModelLayout.of(wrapped)
    assert unwrapped(wrapped) is model
    assert view.layout.digest == plain.layout.digest
    assert view.describe() == plain.describe()
    assert all(a is b for a, b in zip(view.tensors, ModelLayout.of(model).tensors, strict=True))


@every_wrapper
def test_a_part_may_be_wrapped(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.ModuleDict({"body": bare(), "head": nn.Linear(3, 2)})
    expected = ModelLayout.of(model).layout.digest
    model["body"] = wrap(model["body"])
    assert ModelLayout.of(model).layout.digest == expected


@every_wrapper
def test_a_client_trains_through_its_wrapper_and_ends_as_without(wrap: Callable[[nn.Module], nn.Module]) -> None:
    x, y = torch.randn(12, 6), torch.randint(0, 3, (12,))
    server = server_of(bare(), scale=0.1)
    broadcast = server.begin(1, ["a"]).broadcast("a")
    ends = []
    for put in (lambda m: m, wrap):
        model = bare()
        wrapped = put(model)
        rule = attach(wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.3), broadcast, steps=4, sampling_key=11)
        for _ in range(4):
            rule.zero_grad()
            F.cross_entropy(wrapped(x), y).backward()
            rule.step()
        ends.append((rule.finish(weight=12), model))
    (frame, trained), (other, through) = ends
    assert decoded(frame, Group.CODED).any()
    assert frame.to_bytes() == other.to_bytes()
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), through.state_dict().values(), strict=True)
    )


def test_a_model_for_evaluation_is_loaded_into_the_wrapped_one() -> None:
    model, evaluated = bare(), bare()
    with torch.no_grad():
        evaluated[0].weight.zero_()
    view, keys = ModelLayout.of(model), EncodeKeys(noise=1, sampling=2)
    load_model(compiled(evaluated), model_frame(view.layout, view.read(), method=1, round=1, codecs={}, keys=keys))
    assert torch.equal(evaluated[0].weight, model[0].weight)


def test_an_unknown_wrapper_is_seen_in_the_error() -> None:
    class Engine(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.engine = inner

    broadcast, wrapped = server_of(bare()).begin(1, ["a"]).broadcast("a"), Engine(bare())
    sgd = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    with pytest.raises(WrongLayoutError, match=r"other tensors than this one, which has 8 from engine\.0\.weight on: "):
        attach(wrapped, sgd, broadcast, steps=1)
    attach(wrapped.engine, sgd, broadcast, steps=1)


def test_an_attribute_called_module_is_no_wrapper() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    model = Mine()
    assert unwrapped(model) is model
    assert [t.name for t in ModelLayout.of(model).layout.tensors] == ["module.weight", "module.bias"]


@pytest.mark.filterwarnings("ignore:FSDP is switching", "ignore:.*NO_SHARD.*deprecated:FutureWarning")
def test_a_model_sharded_by_fsdp_is_refused_and_ddp_helps() -> None:
    model = bare()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(UnsupportedModelError, match=r"0\.weight is sharded .*DistributedDataParallel, or one device"):
        ModelLayout.of(model)
    older = FullyShardedDataParallel(bare(), device_id=torch.device("cpu"))
    with pytest.raises(UnsupportedModelError, match=r"the model is sharded by FSDP; .*DistributedDataParallel"):
        ModelLayout.of(older)
    ModelLayout.of(nn.parallel.DistributedDataParallel(bare()))
