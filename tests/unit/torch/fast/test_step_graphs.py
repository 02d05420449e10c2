"""Clients on a device, and captured steps: the frames of the CPU's eager loop, to the bit.

Without CUDA the device's kernels run through Triton's interpreter, and `Replay` stands in for CUDA graphs: what it
replays is the captured call with the captured tensors, long after the client that it was captured for. Only a step that
finds all it needs at the old addresses gives the right result then.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from federating import broadcast_of, starting_server
from gpu_kernels import kernels, needs_cuda, needs_triton
from torch import Tensor, nn

from fedmrn.errors import UnsupportedModelError
from fedmrn.methods import method
from fedmrn.torch import LocalData, LocalRule, MaskedTraining, Training, attach, evaluate, train_client
from fedmrn.torch.fast.fused import _rounds_once
from fedmrn.torch.fast.graphs import CudaGraphs, StepGraphs
from fedmrn.torch.rules import masked_noise as through

Optimiser = Callable[[nn.Module], torch.optim.Optimizer]
SAMPLES, BATCH, EPOCHS = 7, 2, 2  # three full batches and a smaller one an epoch
TRAINING = Training(local_epochs=EPOCHS, batch_size=BATCH)


class Replay:
    """A recorder for any device."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def aside(self, call: Callable[[], None]) -> None:
        self.events.append("aside")
        call()

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        self.events.append("capture")

        def replay() -> None:
            self.events.append("replay")
            call()

        return replay


class Refusing(Replay):
    """As CUDA does where a step waits for the device."""

    def capture(self, call: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def net() -> nn.Sequential:
    """Coded, dense and averaged tensors, counters, and randomness of the framework."""
    torch.manual_seed(8)
    conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
    return nn.Sequential(
        conv, nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(48, 3, bias=False)
    )


def sgd(model: nn.Module, lr: float = 0.1, **settings: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, **settings)


def some_clients(
    name: str,
    graphs: StepGraphs | None,
    device: str = "cpu",
    count: int = 3,
    make: Optimiser = sgd,
    model: nn.Module | None = None,
) -> Iterator[tuple[bytes, float, bytes]]:
    """Yield frame, loss and the model that is left of some clients, one after another on one model.

    With "auto" after the name of a method each client chooses the scales of its noise; otherwise they are all 0.01.
    With "budget" it chooses them for half a bit.
    """
    name, *chosen = name.split()
    options = {"scale": "auto" if chosen else 0.01} if "scale" in method(name).options else {}
    options |= {"budget": 0.5} if "budget" in chosen else {}
    model = net().to(device) if model is None else model
    for client in range(count):
        x = torch.randn(SAMPLES, 1, 4, 4, generator=torch.Generator().manual_seed(client))
        data = LocalData(x, torch.arange(SAMPLES) % 3, key=client)
        broadcast = starting_server(net(), name, options).begin(1 + client, ["a"]).broadcast("a")
        torch.manual_seed(client)
        memory = {"memory": None} if name == "topk-ef" else {}
        rule = attach(
            model, make(model), broadcast, accept="any", steps=TRAINING.steps(SAMPLES), sampling_key=client, **memory
        )
        frame, loss = train_client(model, rule, data, TRAINING, graphs=graphs)
        yield frame.to_bytes(), loss, rule.view.read().tobytes() + bytes(rule.taken)


@needs_triton
@pytest.mark.parametrize(
    "name", ["fedmrn", "fedmrn-s", "fedmrn-no-sm", "fedmrn-no-pm", "fedmrn auto", "fedmrn-s auto", "fedmrn-mrc budget"]
)
def test_a_whole_client_with_the_kernels_of_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(some_clients(name, None, count=1))
    monkeypatch.setattr(through, "kernels_of", lambda _: kernels("cpu"))
    monkeypatch.setattr(through, "_AHEAD", 3)  # so that rows are made anew on the way
    assert list(some_clients(name, None, count=1)) == expected


@needs_triton
@pytest.mark.parametrize("settings", [{"momentum": 0.9}, {"foreach": True}])
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn auto"])
def test_other_steps_with_the_kernels_of_the_gpu(
    name: str, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser moves u by itself, and one launch draws all weights."""
    expected = list(some_clients(name, None, count=1, make=lambda m: sgd(m, **settings)))
    monkeypatch.setattr(through, "kernels_of", lambda _: kernels("cpu"))
    assert list(some_clients(name, None, count=1, make=lambda m: sgd(m, **settings))) == expected


@needs_triton
@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn auto", "fedmrn-s auto", "fedmrn-mrc budget"])
def test_replayed_clients_of_the_gpu_kernels_are_the_eager_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clients: the second replays what the first captured, and the third also its smaller batches."""
    expected = list(some_clients(name, None))
    monkeypatch.setattr(through, "kernels_of", lambda _: kernels("cpu"))
    recorder = Replay()
    assert list(some_clients(name, StepGraphs(recorder))) == expected
    first = ["aside"] * 4 + ["capture"] + ["replay"] * 3 + ["aside"]
    second = ["replay"] * 3 + ["aside"] + ["replay"] * 3 + ["capture", "replay"]
    assert recorder.events == first + second + ["replay"] * 8


@needs_triton
def test_clients_of_either_kind_of_scale_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was captured for the one is not replayed for the other, and each finds its own again."""
    kinds = ["fedmrn", "fedmrn auto", "fedmrn", "fedmrn auto"]
    expected = [list(some_clients(name, None, count=2)) for name in kinds]
    monkeypatch.setattr(through, "kernels_of", lambda _: kernels("cpu"))
    recorder = Replay()
    graphs, model = StepGraphs(recorder), net()
    assert [list(some_clients(name, graphs, count=2, model=model)) for name in kinds] == expected
    assert recorder.events.count("capture") == 4  # two sizes of a batch of each kind


@pytest.mark.parametrize("name", ["fedavg", "topk-ef"])
def test_replayed_clients_without_masks_are_the_eager_ones(name: str) -> None:
    recorder = Replay()
    assert list(some_clients(name, StepGraphs(recorder))) == list(some_clients(name, None))
    assert recorder.events.count("capture") == 2
    assert recorder.events.count("replay") == 3 * 8 - 2 * StepGraphs.before


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("fedmrn", lambda m: sgd(m, momentum=0.9)),
        ("fedavg", lambda m: sgd(m, weight_decay=0.1)),
        ("fedmrn", lambda m: torch.optim.Adam(m.parameters())),
        ("fedavg", lambda m: torch.optim.Adam(m.parameters())),
        ("fedpm", sgd),
        ("fedbat", sgd),
        ("fedsparsify-global", sgd),
        ("fedsparsify-local", sgd),
    ],
)
def test_what_is_not_plain_sgd_is_not_captured(name: str, make: Optimiser) -> None:
    recorder = Replay()
    assert list(some_clients(name, StepGraphs(recorder), make=make)) == list(some_clients(name, None, make=make))
    assert not recorder.events


def test_a_rule_with_a_step_of_its_own_is_not_captured() -> None:
    class Own(LocalRule):
        def device_step(self, inner: object = None, closure: object = None) -> None:
            self.inner.step()

    class OwnMasked(MaskedTraining):
        def device_step(self, inner: object = None, closure: object = None) -> None:
            super().device_step()

    for kind, name in ((Own, "fedavg"), (OwnMasked, "fedmrn")):
        model = net()
        assert kind(model, sgd(model), broadcast_of(model, name), steps=1).captured() is None


def test_hooks_of_an_optimiser_are_not_captured() -> None:
    model = net()
    optimizer = sgd(model)
    rule = attach(model, optimizer, broadcast_of(model, "fedmrn"), accept="any", steps=1)
    assert rule.captured() is not None
    optimizer.register_step_post_hook(lambda *_: None)
    assert rule.captured() is None


def test_another_rate_is_captured_anew() -> None:
    """And a rate that changes at every step is never captured."""
    rates = iter([0.1, 0.1, 0.03])
    recorder = Replay()
    replayed = list(some_clients("fedavg", StepGraphs(recorder), make=lambda m: sgd(m, next(rates))))
    rates = iter([0.1, 0.1, 0.03])
    assert replayed == list(some_clients("fedavg", None, make=lambda m: sgd(m, next(rates))))
    assert recorder.events.count("capture") == 3

    class Schedule:
        """Changes the rate where a captured step would not notice."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer

        def __call__(self, x: Tensor, stream: object, start: int) -> Tensor:
            self.optimizer.param_groups[0]["lr"] *= 0.9
            return x

    def run(graphs: StepGraphs | None) -> bytes:
        model = net()
        optimizer = sgd(model)
        rule = attach(model, optimizer, broadcast_of(model, "fedavg"), accept="any", steps=16)
        data = LocalData(torch.ones(SAMPLES, 1, 4, 4), torch.zeros(SAMPLES).long(), 1)
        training = Training(local_epochs=4, batch_size=BATCH, augment=Schedule(optimizer))
        return train_client(model, rule, data, training, graphs=graphs)[0].to_bytes()

    recorder = Replay()
    assert run(StepGraphs(recorder)) == run(None)
    assert recorder.events == ["aside"] * 16


class TestStepGraphs:
    def steps(self, graphs: StepGraphs, key: str, batch: Tensor, times: int) -> list[float]:
        """The sums that a step writes."""
        sums: list[float] = []
        for i in range(times):
            graphs.run(lambda x, y: sums.append(float(x.sum() + y)), key, batch + i, torch.tensor(i))
        return sums

    def test_each_batch_is_given_to_the_captured_step(self) -> None:
        recorder, x = Replay(), torch.zeros(2, 1, 3, 3)
        graphs = StepGraphs(recorder)
        assert self.steps(graphs, "a", x, 6) == [19.0 * i for i in range(6)]
        assert recorder.events == ["aside"] * 3 + ["capture"] + ["replay"] * 3

    def test_another_shape_another_type_and_other_strides_are_other_steps(self) -> None:
        recorder = Replay()
        graphs = StepGraphs(recorder)
        x = torch.zeros(2, 3, 4, 4)
        kinds = (x, x[:1], x.double(), x.contiguous(memory_format=torch.channels_last))
        for kind in kinds:
            self.steps(graphs, "a", kind, 3)
        assert recorder.events == ["aside"] * 12
        for kind in kinds:
            self.steps(graphs, "a", kind, 1)
        assert recorder.events.count("capture") == 4

    def test_the_step_not_used_for_longest_gives_way(self) -> None:
        recorder = Replay()
        graphs = StepGraphs(recorder)
        for key in "abcd":
            self.steps(graphs, key, torch.zeros(2), 4)
        self.steps(graphs, "a", torch.zeros(2), 1)
        self.steps(graphs, "e", torch.zeros(2), 1)  # b goes
        recorder.events.clear()
        self.steps(graphs, "a", torch.zeros(2), 1)
        self.steps(graphs, "b", torch.zeros(2), 1)
        assert recorder.events == ["replay", "aside"]

    def test_strides_of_one_channel_are_kept(self) -> None:
        """Where `empty_like` would choose others."""
        seen: list[tuple[int, ...]] = []
        x = torch.zeros(2, 1, 3, 3).as_strided((2, 1, 3, 3), (9, 1, 3, 1))
        graphs = StepGraphs(Replay())
        for _ in range(5):
            graphs.run(lambda x, y: seen.append(x.stride()), "a", x, torch.zeros(1))
        assert seen == [(9, 1, 3, 1)] * 5

    def test_what_cannot_be_captured_is_told(self) -> None:
        with pytest.raises(UnsupportedModelError, match=r"stream is capturing.*train\.graphs = false"):
            self.steps(StepGraphs(Refusing()), "a", torch.zeros(2), 4)


def test_masks_without_triton_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fedmrn.torch.fast.gpu", None)
    with pytest.raises(UnsupportedModelError, match=r"needs Triton .*fedmrn\[gpu\]"):
        through.kernels_of(torch.device("cuda"))
    assert through.kernels_of(torch.device("cpu")) is None


def test_nothing_needs_triton_on_the_cpu() -> None:
    """Importing and training loads none of it."""
    code = (
        "import sys; sys.modules['triton'] = None; import torch, fedmrn.torch, fedmrn.federation.simulation; "
        "assert 'fedmrn.torch.fast.gpu' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def on_cuda() -> StepGraphs:
    return StepGraphs(CudaGraphs(torch.device("cuda")))


@needs_cuda
@needs_triton
class TestOnCuda:
    """What only a device can show."""

    @pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
    def test_frames_of_the_same_u_are_the_cpus(self, name: str) -> None:
        frames = []
        for device in ("cpu", "cuda"):
            model = net().to(device)
            rule = attach(model, sgd(model), broadcast_of(net(), name), accept="any", steps=1, sampling_key=5)
            assert isinstance(rule, MaskedTraining)
            rule.moved.copy_(rule.base.cpu() + torch.linspace(-0.02, 0.02, rule.size))
            rule.draw()
            assert (
                rule.noise.cpu().numpy().tobytes()
                == rule._codec.noise.chunk(rule.broadcast.noise_key, 0, rule.size).tobytes()
            )
            weights = rule.weights.cpu().numpy().tobytes()
            rule.taken = 1
            frames.append((weights, rule.finish(weight=1).to_bytes(), rule.view.read().tobytes()))
            assert next(model.parameters()).device.type == device
        assert frames[0] == frames[1]

    @pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s", "fedmrn auto", "fedmrn-mrc budget", "fedavg"])
    def test_replayed_clients_are_the_eager_ones(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        assert list(some_clients(name, on_cuda(), "cuda")) == list(some_clients(name, None, "cuda"))

    def test_torch_rounds_a_step_once(self) -> None:
        assert _rounds_once("cuda")

    @pytest.mark.parametrize("name", ["fedpm", "fedbat", "fedsparsify-global", "fedsparsify-local", "topk-ef"])
    def test_other_methods_train(self, name: str) -> None:
        for frame, loss, _ in some_clients(name, on_cuda(), "cuda"):
            assert np.isfinite(loss)
            assert frame

    def test_evaluation(self) -> None:
        x, y = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
        accuracy, loss = evaluate(net(), x, y)
        found = evaluate(net().cuda(), x.cuda(), y.cuda())
        # One convolution, batch norm and one linear layer in float32, or TF32 with 10 bits.
        assert found == pytest.approx((accuracy, loss), abs=0.04)
