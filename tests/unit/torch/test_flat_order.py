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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32_and_written_rounded(dtype: torch.dtype) -> None:
    """Parameters and statistics, mixed with float32 ones: the layout and its digest are those of float32."""
    model, whole = images(), images()
    whole.load_state_dict(model.state_dict())
    model[4].to(dtype)
    model[1].running_var = model[1].running_var.to(dtype)
    view = ModelLayout.of(model)
    assert view.layout.digest == ModelLayout.of(whole).layout.digest
    assert view.read().dtype == np.float32
    names = [t.name for t in view.layout.tensors]
    expected = np.concatenate([model.state_dict()[n].to(torch.float32).numpy().ravel() for n in names])
    np.testing.assert_array_equal(view.read(), expected)
    vector = np.random.default_rng(1).normal(size=view.layout.size).astype(np.float32)
    view.write(vector)
    for name, where in view.layout.slices.items():
        tensor = model.state_dict()[name]
        assert tensor.dtype == (dtype if name.startswith("4.") or name == "1.running_var" else torch.float32)
        assert torch.equal(tensor.flatten(), torch.from_numpy(vector[where]).to(tensor.dtype)), name


def test_a_value_beyond_float16_is_refused_and_nothing_is_written() -> None:
    model = images()
    model[4].half()
    view = ModelLayout.of(model)
    before, vector = view.read(), np.ones(view.layout.size, np.float32)
    vector[view.layout.slices["4.bias"].start] = 65520  # rounds to infinity
    with pytest.raises(UnsupportedModelError, match=r"4\.bias is float16 and cannot hold .* 6\.552e\+04: .*bfloat16"):
        view.write(vector)
    np.testing.assert_array_equal(view.read(), before)
    model[4].bfloat16()  # the way out; the parameters are the same objects
    view.write(vector)
    assert view.read()[view.layout.slices["4.bias"].start] == pytest.approx(65520, rel=2.0**-8)


def test_float64_is_refused_by_name_and_model_float_helps() -> None:
    model = images()
    model[4].double()
    with pytest.raises(UnsupportedModelError, match=r"4\.weight is torch\.float64; .*model\.float\(\)"):
        ModelLayout.of(model)
    ModelLayout.of(model.float())
    model[1].running_var = model[1].running_var.double()
    with pytest.raises(UnsupportedModelError, match=r"1\.running_var is torch\.float64; .*model\.float\(\)"):
        ModelLayout.of(model)
    assert ModelLayout.of(model.float()).layout == ModelLayout.of(images()).layout


def test_a_model_on_two_devices_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for a second device, which may not be there; what is not sent may lie anywhere."""
    monkeypatch.setattr("fedmrn.torch.modules.DEVICES", ("cpu", "meta"))
    model = images()
    assert ModelLayout.of(model).device == torch.device("cpu")
    model[4].to("meta")
    with pytest.raises(UnsupportedModelError, match=r"4\.weight is on meta, but 0\.weight on cpu; .*one device"):
        ModelLayout.of(model)
    model = images()
    model[1].num_batches_tracked = model[1].num_batches_tracked.to("meta")
    model[4].weight = nn.Parameter(model[4].weight.to("meta"), requires_grad=False)
    view = ModelLayout.of(model)
    assert (view.counters, view.frozen, view.device.type) == (("1.num_batches_tracked",), ("4.weight",), "cpu")


def test_buffers_that_training_does_not_change_are_not_sent() -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("saved", torch.ones(3))
    model.register_buffer("running_sum", torch.ones(3))
    model.register_buffer("running_scratch", torch.ones(3), persistent=False)
    model.register_buffer("flags", torch.ones(3, dtype=torch.bool))
    model.register_buffer("turns", torch.ones(3, dtype=torch.complex64))
    view = ModelLayout.of(model)
    assert [t.name for t in view.layout.tensors if t.group is Group.STATS] == ["running_sum"]
    assert (view.local, view.counters) == (("saved", "turns"), ("flags",))
    assert "local, not sent: saved, turns\n" in view.describe()


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
