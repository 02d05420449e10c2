"""The flat vector: what is in it, in which order, and that memory formats do not matter."""

import numpy as np
import pytest
import torch
from federating import MASKED, batch, broadcast_of, masks, server_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedmrn.errors import UnsupportedModelError, WrongLayoutError
from fedmrn.torch import ModelLayout, attach
from fedmrn.torch.loop import channels_last
from fedmrn.wire.layout import Group


def images() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def test_reading_gives_every_tensor_in_its_logical_order_groups_one_after_the_other() -> None:
    model = images()
    model[1].running_mean.uniform_()
    names = ["0.weight", "0.bias", "4.weight", "4.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"]
    view = ModelLayout.of(model)
    assert [t.name for t in view.layout.tensors] == names
    expected = np.concatenate([model.state_dict()[n].numpy().ravel(order="C") for n in names])
    np.testing.assert_array_equal(view.read(), expected)


def test_writing_is_the_inverse_of_reading() -> None:
    model = images()
    view = ModelLayout.of(model)
    vector = np.random.default_rng(1).normal(size=view.layout.size).astype(np.float32)
    kept = [t.data_ptr() for t in view.tensors]
    view.write(vector)
    np.testing.assert_array_equal(view.read(), vector)
    np.testing.assert_array_equal(model[4].bias.detach().numpy(), vector[view.layout.slices["4.bias"]])
    assert [t.data_ptr() for t in view.tensors] == kept
    vector[:] = 0
    assert model[0].weight.any()


def test_a_vector_that_cannot_be_written_to_is_read_all_the_same() -> None:
    model = images()
    view = ModelLayout.of(model)
    stored = np.frombuffer((view.read() + 1).tobytes(), np.float32)
    view.write(stored)
    np.testing.assert_array_equal(view.read(), stored)


@pytest.mark.parametrize("shape", [(0,), (1, 4), (10**3,)])
def test_a_vector_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    view = ModelLayout.of(images())
    with pytest.raises(WrongLayoutError, match=f"the model has {view.layout.size} values"):
        view.write(np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_are_refused_by_name(dtype: torch.dtype) -> None:
    model = images()
    model[4].to(dtype)
    with pytest.raises(UnsupportedModelError, match=r"4\.weight is torch\.\w+; .*model\.float\(\)"):
        ModelLayout.of(model)
    statistics = images()
    statistics[1].running_var = statistics[1].running_var.to(dtype)
    with pytest.raises(UnsupportedModelError, match=r"1\.running_var"):
        ModelLayout.of(statistics)


def test_a_model_on_another_device_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"0\.weight is on meta; .*model\.cpu\(\)"):
        ModelLayout.of(images().to("meta"))


def test_a_model_on_two_devices_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for a second device, which may not be there; counters and frozen tensors count as well."""
    monkeypatch.setattr("fedmrn.torch.model_layout.DEVICES", ("cpu", "meta"))
    model = images()
    assert ModelLayout.of(model).device == torch.device("cpu")
    model[4].to("meta")
    with pytest.raises(UnsupportedModelError, match=r"4\.weight is on meta, but 0\.weight on cpu; .*one device"):
        ModelLayout.of(model)
    model = images()
    model[1].num_batches_tracked = model[1].num_batches_tracked.to("meta")
    with pytest.raises(UnsupportedModelError, match=r"1\.num_batches_tracked is on meta"):
        ModelLayout.of(model)
    model = images()
    model[4].weight = nn.Parameter(model[4].weight.to("meta"), requires_grad=False)
    with pytest.raises(UnsupportedModelError, match=r"4\.weight is on meta"):
        ModelLayout.of(model)


def test_buffers_that_are_not_saved_are_not_sent() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("saved", torch.ones(3))
    model.register_buffer("scratch", torch.ones(3), persistent=False)
    model.register_buffer("flags", torch.ones(3, dtype=torch.bool))
    view = ModelLayout.of(model)
    assert [t.name for t in view.layout.tensors if t.group is Group.STATS] == ["saved"]
    assert view.counters == ("flags",)


def test_layouts_differ_when_anything_differs() -> None:
    digests = {
        ModelLayout.of(m).layout.digest
        for m in (
            nn.Linear(3, 4),
            nn.Linear(4, 3),
            nn.Linear(3, 4, bias=False),
            nn.Sequential(nn.Linear(3, 4)),
            nn.LSTM(3, 4),
        )
    }
    assert len(digests) == 5
    assert ModelLayout.of(nn.Linear(3, 4)).layout.digest in digests


@pytest.mark.parametrize("name", MASKED)
def test_a_model_in_channels_last_gives_the_same_frame(name: str) -> None:
    """u and noise meet element by element in logical order; one step, so that nothing else can differ.

    The gradient is the same up to the order of sums in the convolution, so that a mask may differ only where the
    uniform draw is within rounding of its threshold: hardly ever.
    """
    torch.manual_seed(4)
    x, y = batch(8, 3, 4, 4)
    frames, flats, digests, us = [], [], [], []
    for memory in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(3)
        model = images().to(memory_format=memory)
        digests.append(ModelLayout.of(model).layout.digest)
        flats.append(ModelLayout.of(model).read())
        assert model[0].weight.is_contiguous(memory_format=memory)
        rule = attach(
            model,
            torch.optim.SGD(model.parameters(), lr=0.02),
            broadcast_of(model, name),
            accept="any",
            steps=1,
            sampling_key=3,
        )
        F.cross_entropy(model(x.contiguous(memory_format=memory)), y).backward()
        rule.step()
        us.append(rule.u.clone())  # type: ignore[attr-defined]
        frames.append(rule.finish(weight=1))
    assert digests[0] == digests[1]
    np.testing.assert_array_equal(flats[0], flats[1])
    # 64 positions and 8 samples a sum: sqrt(512) roundings on average, at most 512.
    assert (us[0] - us[1]).abs().max() <= 512 * 2.0**-24 * us[0].abs().max()
    first, second = (masks(f, len(us[0])) for f in frames)
    assert first.any()
    assert not first.all()
    assert (first != second).sum() <= 1


def test_memory_format_is_not_part_of_the_flat_order() -> None:
    model = nn.Conv2d(3, 4, 3)
    flat = ModelLayout.of(model).read()
    model = model.to(memory_format=torch.channels_last)
    view = ModelLayout.of(model)
    np.testing.assert_array_equal(view.read(), flat)
    # In memory the order is another one, so that the test above says something.
    in_memory = torch.as_strided(model.weight.detach(), (108,), (1,)).numpy()
    assert not np.array_equal(in_memory, flat[:108])
    view.write(flat[::-1].copy())
    np.testing.assert_array_equal(view.read(), flat[::-1])


def test_a_state_written_by_the_server_reaches_a_channels_last_model_whole() -> None:
    torch.manual_seed(1)
    ordinary, last = images(), images().to(memory_format=torch.channels_last)
    broadcast = server_of(ordinary).begin(1, ["a"]).broadcast("a")
    attach(last, torch.optim.SGD(last.parameters(), lr=0.1), broadcast, accept="any", steps=1)
    for (name, a), (_, b) in zip(ordinary.named_parameters(), last.named_parameters(), strict=True):
        assert torch.equal(a, b), name


class TestChannelsLast:
    """The helper of the training loop."""

    @pytest.mark.parametrize("channels", [1, 3])
    def test_strides(self, channels: int) -> None:
        x = torch.randn(5, channels, 6, 7)
        out = channels_last(x)
        assert out.stride() == (channels * 42, 1, channels * 7, channels)
        assert torch.equal(out, x)
        assert out.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 5), (2, 3, 4, 5, 6)])
    def test_other_shapes_are_handed_back(self, shape: tuple[int, ...]) -> None:
        x = torch.randn(shape)
        assert channels_last(x) is x

    @settings(deadline=None)
    @given(
        shape=st.tuples(*(st.integers(1, 4) for _ in range(4))),
        view=st.sampled_from(["whole", "offset", "transposed", "strided", "narrow", "last", "expanded"]),
    )
    def test_the_values_stay_whatever_the_shape_and_the_strides(self, shape: tuple[int, ...], view: str) -> None:
        n, c, h, w = shape
        x = {
            "whole": lambda: torch.arange(n * c * h * w).float().view(shape),
            "offset": lambda: torch.arange((n + 2) * c * h * w).float().view(n + 2, c, h, w)[2:],
            "transposed": lambda: torch.arange(n * c * h * w).float().view(n, c, w, h).transpose(2, 3),
            "strided": lambda: torch.arange(8 * n * c * h * w).float().view(n, c, 2 * h, 4 * w)[:, :, ::2, 1::4],
            "narrow": lambda: torch.arange(n * (c + 2) * h * w).float().view(n, c + 2, h, w)[:, 1 : c + 1],
            "last": lambda: torch.arange(n * c * h * w).float().view(n, h, w, c).permute(0, 3, 1, 2),
            "expanded": lambda: torch.arange(n * h * w).float().view(n, 1, h, w).expand(shape),
        }[view]()
        expected = x.numpy().copy()
        out = channels_last(x)
        np.testing.assert_array_equal(out.numpy(), expected)
        assert out.stride() == (c * h * w, 1, c * w, c)
