"""A parameter of which the optimiser sees one tensor and the model another: values, gradients, what is put right."""

import pytest
import torch
from torch import Tensor, nn

from fedmrn.errors import UnsupportedModelError
from fedmrn.torch.rules.twins import Twin

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def twin(dtype: torch.dtype = torch.float32) -> tuple[nn.Parameter, Twin]:
    """A parameter that shows 1, 2, ..., 6 and is 1/1024 more in front of its optimiser."""
    shown = torch.arange(1.0, 7.0).view(2, 3)
    parameter = nn.Parameter(torch.zeros(2, 3, dtype=dtype))
    return parameter, Twin("layer.weight", parameter, slice(4, 10), shown + 2.0**-10, shown.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_side_has_its_values_and_its_type_at_one_parameter(dtype: torch.dtype) -> None:
    parameter, pair = twin(dtype)
    shown = parameter.detach().clone()
    pair.to_optimizer()
    assert parameter.dtype == torch.float32
    assert torch.equal(parameter, shown.float() + 2.0**-10)
    with torch.no_grad():
        parameter.add_(1)
    pair.to_model()
    assert parameter.dtype == dtype
    assert torch.equal(parameter, shown)
    assert torch.equal(pair.moved, shown.float() + 2.0**-10 + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_optimiser_gets_a_gradient_of_its_type_and_what_it_does_to_it_stays(dtype: torch.dtype) -> None:
    parameter, pair = twin(dtype)
    gradient = parameter.grad = torch.full((2, 3), 0.5, dtype=dtype)
    pair.to_optimizer()
    assert parameter.grad is not None
    assert parameter.grad.dtype == torch.float32
    parameter.grad.mul_(0.25)  # clipping in a hook, say
    pair.to_model()
    assert parameter.grad is gradient  # where somebody holds it: a bucket of DDP
    assert torch.equal(gradient, torch.full((2, 3), 0.125, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_that_is_cleared_or_made_in_front_of_the_optimiser(dtype: torch.dtype) -> None:
    parameter, pair = twin(dtype)
    parameter.grad = torch.ones(2, 3, dtype=dtype)
    pair.to_optimizer()
    parameter.grad = None
    pair.to_model()
    assert parameter.grad is None
    pair.to_optimizer()
    parameter.grad = torch.ones(2, 3)
    pair.to_model()
    assert parameter.grad is not None
    assert parameter.grad.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("element", range(6))
def test_a_write_to_any_one_element_is_seen(dtype: torch.dtype, element: int) -> None:
    parameter, pair = twin(dtype)
    assert not pair.changed()
    parameter.data.view(-1)[element] *= -1  # not even torch counts it
    assert pair.changed()
    pair.note()
    assert not pair.changed()


def test_a_gradient_is_adapted_once_and_again_after_each_backward_pass() -> None:
    parameter, pair = twin()
    assert pair.fresh_gradient() is None
    for _ in range(2):
        parameter.square().sum().backward()
        assert pair.fresh_gradient() is parameter.grad
        pair.adapted()
        assert pair.fresh_gradient() is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.detach().double().float(),
        lambda t: t.detach().T.contiguous().T,
        lambda t: t.detach() * 2,
    ],
    ids=["there and back", "other strides", "other values"],
)
def test_a_parameter_with_other_memory_gets_its_own_again_with_the_values_it_has(change) -> None:  # type: ignore[no-untyped-def]
    parameter, pair = twin()
    replaced: Tensor = change(parameter)
    parameter.data = replaced
    pair.put_right()
    assert parameter.data_ptr() == pair.shown.data_ptr()
    assert parameter.stride() == (3, 1)
    assert torch.equal(parameter, replaced)


@pytest.mark.parametrize("other", [torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3, 2), torch.zeros(2, 4)])
def test_another_type_or_shape_is_refused_by_name(other: Tensor) -> None:
    parameter, pair = twin()
    parameter.data = other
    with pytest.raises(UnsupportedModelError, match=r"layer\.weight became .* it was torch\.float32 of shape \(2, 3\)"):
        pair.put_right()


def test_a_sparse_gradient_is_made_dense_before_it_is_adapted() -> None:
    parameter = nn.Parameter(torch.zeros(4, 2))
    twin = Twin("w", parameter, slice(0, 8), torch.zeros(4, 2), torch.zeros(4, 2))
    rows = torch.tensor([[1, 3, 1]])
    parameter.grad = torch.sparse_coo_tensor(rows, torch.ones(3, 2), (4, 2), check_invariants=True)
    gradient = twin.fresh_gradient()
    assert gradient is not None
    assert gradient is parameter.grad
    assert torch.equal(gradient, torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.0, 0.0], [1.0, 1.0]]))
    twin.adapted()
    assert twin.fresh_gradient() is None
