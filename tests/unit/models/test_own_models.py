"""Models of a person's own and of timm: built from the seed, tried before they are used."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from own_files import modules_of
from torch import Tensor, nn

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.models.catalogue import build_model
from fedmrn.models.own import check_outputs

NETS = """
import numpy as np, torch
from torch import nn

class Plain(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(48, 3))

class Takes(nn.Sequential):
    def __init__(self, classes, width=7, *, shape):
        super().__init__(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.Linear(width, classes))

def made(weights=None, **kwargs):
    return nn.Sequential(nn.Flatten(), nn.Linear(48, kwargs.pop("num_classes", 1000), **kwargs))

class Needs(Plain):
    def __init__(self, width): ...

class Breaks(Plain):
    def __init__(self):
        raise RuntimeError("no\\nway")

class Ends(Plain):
    def __init__(self):
        raise SystemExit

class Dice(Plain):
    def __init__(self):
        super().__init__()
        self[1].weight.data.copy_(torch.from_numpy(np.random.default_rng().standard_normal((3, 48))))

count = 0
class Grows(nn.Sequential):
    def __init__(self):
        global count
        count += 1
        super().__init__(nn.Flatten(), nn.Linear(48, count))

class Double(Plain):
    def __init__(self):
        super().__init__()
        self.double()

class Frozen(Plain):
    def __init__(self):
        super().__init__()
        self.requires_grad_(False)

def nothing():
    return "a model"
"""
SHAPE = (3, 4, 4)
X = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with modules_of(tmp_path_factory.mktemp("nets")) as found:
        (found / "nets_of_mine.py").write_text(NETS)
        yield found


def build(folder: Path, name: str, seed: int = 1, **more: Any) -> nn.Module:
    return build_model(f"nets_of_mine:{name}", shape=SHAPE, classes=3, seed=seed, folder=folder, **more)


@pytest.mark.parametrize("name", ["Plain", "Takes", "made"])
def test_it_is_given_what_it_takes_and_built_from_the_seed(folder: Path, name: str) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (build(folder, name, seed)(X) for seed in (1, 1, 2))
    assert one.shape == (2, 3)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_normal_weights_where_they_are_asked_for(folder: Path) -> None:
    weight = build(folder, "Plain", init_std=0.01)[1].weight  # type: ignore[index]
    assert 0.005 < float(weight.detach().std()) < 0.02


def test_it_takes_samples_of_any_kind(folder: Path) -> None:
    assert build_model("nets_of_mine:made", shape=(48,), classes=5, seed=1, folder=folder, task="samples")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Plian", ConfigError, "Plian does not exist in "),
        ("count", ConfigError, "count cannot be called"),
        ("Needs", ConfigError, "needs width: give them defaults; it is given classes, num_classes, shape only"),
        ("Breaks", ConfigError, "cannot be made: nets_of_mine.py, line 21: RuntimeError: no way"),
        ("Ends", ConfigError, "cannot be made: nets_of_mine.py, line 25: SystemExit"),
        ("Dice", ConfigError, "its first weights differ each time that it is built (1.weight)"),
        ("Grows", ConfigError, "has other tensors each time"),
        ("nothing", ConfigError, "made a str: it must make a torch.nn.Module"),
        ("Double", UnsupportedModelError, "tensor 1.weight is torch.float64"),
        ("Frozen", UnsupportedModelError, "no trained parameter"),
    ],
)
def test_mistakes(folder: Path, name: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        build(folder, name)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"model.name = 'nets_of_mine:{name}'")
    assert str(caught.value).isprintable()


def test_one_of_ours_is_for_its_task() -> None:
    with pytest.raises(ConfigError, match=r"cnn4 is for images, the data set is samples of shape \(5,\): give one"):
        build_model("cnn4", shape=(5,), classes=3, seed=1, task="samples")
    with pytest.raises(ConfigError, match=r"did you mean 'cnn4'\? \(one of your own is module:Class\)"):
        build_model("cnn-4", shape=SHAPE, classes=3, seed=1)


@pytest.mark.parametrize("shape", [(1, 16, 24), (3, 40, 17)])
def test_one_of_ours_takes_images_that_are_not_square(shape: tuple[int, ...]) -> None:
    assert build_model("cnn4", shape=shape, classes=3, seed=1).eval()(torch.zeros(2, *shape)).shape == (2, 3)


class Net(nn.Module):
    """Returns what it is told to."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.norm = nn.BatchNorm2d(3)
        self.told = forward

    def forward(self, x: Tensor) -> Any:
        self.seen += 1
        return self.told(self.norm(x))


def tried(forward: Any, x: Tensor = X) -> bool:
    return check_outputs(Net(forward), x, 3, "net:Net", None)


class TestOutputs:
    def test_logits_are_taken_and_the_model_is_left_as_it_was(self) -> None:
        model = Net(lambda x: x.flatten(1)[:, :3])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        assert check_outputs(model, X, 3, "net:Net", None)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_models_that_call_view_get_plain_strides(self) -> None:
        assert not tried(lambda x: x.view(len(x), -1)[:, :3])
        assert tried(lambda x: x.reshape(len(x), -1)[:, :3])

    @pytest.mark.parametrize(
        ("forward", "words"),
        [
            (lambda x: x.flatten(1)[:, :10], "returns float32 of shape (2, 10) for samples of shape (2, 3, 4, 4)"),
            (lambda x: x.flatten(1)[:, :10], "logits of shape (2, 3), one for each of the 3 classes of the data"),
            (lambda x: x, "of shape (2, 3, 4, 4)"),
            (lambda x: x.flatten(1)[:1, :3], "of shape (1, 3)"),
            (lambda x: x.flatten(1)[:, :3].long(), "returns int64"),
            (lambda x: (x, x), "returns a tuple: it must return logits, a tensor (n, 3)"),
            (lambda x: x @ torch.zeros(5, 5), "fails on samples of shape (2, 3, 4, 4), float32: RuntimeError: "),
            (lambda x: x.nowhere, "AttributeError: "),
            (lambda x: x.detach().flatten(1)[:, :3], "cannot learn: no trained parameter has a gradient; look for"),
            (lambda x: torch.eye(3)[x.flatten(1)[:, :3].argmax(1)], "cannot learn: no trained parameter"),
            (lambda x: torch.ones(2, 3, requires_grad=True) * 1, "cannot learn: no trained parameter"),
            (lambda x: torch.from_numpy(x.flatten(1)[:, :3].numpy()), "fails in training on samples of shape (2, 3"),
        ],
    )
    def test_mistakes(self, forward: Any, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            tried(forward)
        assert words in str(caught.value)
        assert str(caught.value).isprintable()


class TestTimm:
    """With what is used of timm in its place; the last test has the real one."""

    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        calls: list[tuple[str, dict[str, Any]]] = []

        def create(name: str, **options: Any) -> nn.Module:
            calls.append((name, options))
            if name == "broken":
                raise ValueError("too small")
            return nn.Sequential(nn.Flatten(), nn.Linear(48, options["num_classes"]))

        module = types.ModuleType("timm")
        module.__dict__.update(
            create_model=create,
            is_model=lambda name: name in ("resnet18", "vit", "broken"),
            list_models=lambda: ["resnet18", "vit"],
            get_pretrained_cfg=lambda name: types.SimpleNamespace(fixed_input_size=name == "vit"),
        )
        monkeypatch.setitem(sys.modules, "timm", module)
        return calls

    def test_it_is_asked_for_untrained_weights_of_the_right_size(self, asked: list[Any]) -> None:
        for name in ("resnet18", "vit"):
            assert build_model(f"timm:{name}", shape=SHAPE, classes=3, seed=1)(X).shape == (2, 3)
        plain = {"pretrained": False, "num_classes": 3, "in_chans": 3}
        assert asked[0] == ("resnet18", plain)
        assert asked[-1] == ("vit", plain | {"img_size": (4, 4)})

    def test_mistakes(self, asked: list[Any]) -> None:
        for name, shape, words in (
            ("resnet81", SHAPE, r"timm has no model resnet81; did you mean 'resnet18'\?"),
            ("zzzzzz", SHAPE, r"timm has no model zzzzzz; see timm\.list_models\(\)"),
            ("vit", (48,), r"is for images, and samples are of shape \(48,\)"),
            ("broken", SHAPE, "cannot be made: ValueError: too small"),
        ):
            with pytest.raises(ConfigError, match=f"model.name = 'timm:{name}'.*{words}"):
                build_model(f"timm:{name}", shape=shape, classes=3, seed=1)

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "timm", None)
        with pytest.raises(ConfigError, match=r'timm:resnet18\' needs timm: pip install "fedmrn\[timm\]"'):
            build_model("timm:resnet18", shape=SHAPE, classes=3, seed=1)

    def test_with_the_library_itself(self) -> None:
        pytest.importorskip("timm", reason='timm is not installed: pip install "fedmrn[timm]"')
        for name in ("resnet18", "vit_tiny_patch16_224"):
            model = build_model(f"timm:{name}", shape=(1, 32, 32), classes=3, seed=1)
            assert check_outputs(model, torch.zeros(2, 1, 32, 32), 3, name, None) in (True, False)
