"""What is compressed, sent as floats, averaged and left: by rules, on layers of other libraries too, and by names."""

from collections.abc import Callable

import pytest
import torch
from federating import server_of
from torch import Tensor, nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError, UnsupportedModelError
from fedmrn.torch import ModelLayout, Selection, attach, default_choice
from fedmrn.wire.layout import Group


def group_of(view: ModelLayout) -> dict[str, Group]:
    return {t.name: t.group for t in view.layout.tensors}


def dense(model: nn.Module) -> set[str]:
    return {name for name, group in group_of(ModelLayout.of(model)).items() if group is Group.DENSE}


class LayerNorm2d(nn.Module):
    """As in image libraries: over the channels of an image, a class of its own."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))


class Rescaled(nn.Module):
    """A normalisation layer whose class does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))


class Derived(LayerNorm2d):
    """Its own name says nothing; its base's does."""


Derived.__name__ = "Scaled"


@pytest.mark.parametrize("shape", [(4,), (1, 4, 1, 1), (4, 1, 1)])
@pytest.mark.parametrize("kind", [LayerNorm2d, Derived])
def test_a_class_that_is_called_norm(kind: type[LayerNorm2d], shape: tuple[int, ...]) -> None:
    assert dense(nn.Sequential(nn.Conv2d(3, 4, 3), kind(shape))) == {"1.weight", "1.bias"}


@pytest.mark.parametrize(
    ("attribute", "is_one"),
    [
        *((name, True) for name in ("norm1", "post_Norm", "ln", "ln_1", "ln2", "attn_ln")),
        *((name, False) for name in ("linear", "kiln", "lnear", "gain")),
    ],
)
def test_an_attribute_that_says_so(attribute: str, is_one: bool) -> None:
    model = nn.Module()
    model.add_module(attribute, Rescaled())
    model.add_module("out", nn.Linear(2, 2))
    assert dense(model) == ({f"{attribute}.gain"} if is_one else set())


def test_matrices_stay_coded_whatever_they_are_called() -> None:
    model = nn.ModuleDict(
        {
            "norm": nn.Linear(4, 4, bias=False),
            "spectral": nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
            "weight": nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        }
    )

    class NormedLinear(nn.Linear):
        pass

    model["row"] = NormedLinear(4, 1, bias=False)
    assert dense(model) == set()


def test_layers_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: real layers of another library")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    llama = transformers.LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, vocab_size=9, **heads)
    assert dense(transformers.LlamaModel(llama)) == {
        "layers.0.input_layernorm.weight",
        "layers.0.post_attention_layernorm.weight",
        "norm.weight",
    }
    t5 = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
    found = transformers.T5EncoderModel(t5)
    assert dense(found) == {f"encoder.block.0.layer.{i}.layer_norm.weight" for i in (0, 1)} | {
        "encoder.final_layer_norm.weight"
    }
    gpt = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9, n_positions=8))
    assert {n for n in dense(gpt) if n.startswith("ln_f")} == {"ln_f.weight", "ln_f.bias"}
    assert {n.rpartition(".")[0] for n in dense(gpt)} == {"ln_f", "h.0.ln_1", "h.0.ln_2"}


class Buffered(nn.Module):
    """A frozen base with what people register as buffers, a head, and a codebook that training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4).to(torch.float64).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)
        self.tail = nn.Linear(3, 3, bias=False)
        self.base.register_buffer("table", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("mask", torch.full((2, 2), float("-inf")))
        self.register_buffer("codebook", torch.ones(3))
        self.register_buffer("spread", torch.ones(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.codebook += 1
        return self.tail(self.head(self.norm(self.base(x.double()).float())))


BY_DEFAULT = {
    "head.weight": Group.CODED,
    "head.bias": Group.CODED,
    "tail.weight": Group.CODED,
    "norm.weight": Group.DENSE,
    "norm.bias": Group.DENSE,
    "norm.running_mean": Group.STATS,
    "norm.running_var": Group.VARIANCE,
}


def test_what_training_does_not_change_stays() -> None:
    view = ModelLayout.of(Buffered())
    assert group_of(view) == BY_DEFAULT
    assert view.frozen == ("base.weight", "base.bias")
    assert view.local == ("mask", "codebook", "spread", "base.table")
    assert view.counters == ("steps", "norm.num_batches_tracked")
    text = view.describe()
    assert "frozen, not sent: base.weight, base.bias\nlocal, not sent: mask, codebook, spread, base.table\n" in text
    assert view.read().dtype.name == "float32"


@pytest.mark.parametrize(
    ("selection", "changed"),
    [
        (Selection(), {}),
        (Selection(dense=["head.*"]), {"head.weight": Group.DENSE, "head.bias": Group.DENSE}),
        (Selection(coded=["norm.*"]), {"norm.weight": Group.CODED, "norm.bias": Group.CODED}),
        (
            Selection(coded=["norm.weight"], dense=["tail.weight"]),
            {"norm.weight": Group.CODED, "tail.weight": Group.DENSE},
        ),
        (
            Selection(statistics=["codebook", "*.running_var"]),
            {"codebook": Group.STATS, "norm.running_var": Group.STATS},
        ),
        (Selection(variances=["spread"]), {"spread": Group.VARIANCE}),
        (Selection(local=["norm.running_*"]), {"norm.running_mean": None, "norm.running_var": None}),
        (Selection(local=["mask", "steps"]), {}),
    ],
)
def test_a_choice_by_names(selection: Selection, changed: dict[str, Group | None]) -> None:
    view = ModelLayout.of(Buffered(), selection)
    assert group_of(view) == {name: g for name, g in (BY_DEFAULT | changed).items() if g is not None}
    assert ModelLayout.of(Buffered(), choose=selection).layout == view.layout


def test_a_frozen_parameter_can_be_averaged() -> None:
    """A teacher that follows its student by hand, outside of the optimiser."""
    model = nn.ModuleDict({"student": nn.Linear(2, 2), "teacher": nn.Linear(2, 2).requires_grad_(False)})
    view = ModelLayout.of(model, Selection(statistics=["teacher.*"]))
    assert group_of(view)["teacher.weight"] is Group.STATS
    assert view.frozen == ()


def test_a_name_with_signs_of_patterns_in_it_is_itself() -> None:
    model = nn.ModuleDict({"a[0]": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    assert group_of(ModelLayout.of(model, Selection(dense=["a[0].weight"])))["a[0].weight"] is Group.DENSE


def test_any_name_of_a_tied_tensor_will_do() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(4, 3), "out": nn.Linear(3, 4)})
    model["out"].weight = model["embedding"].weight
    view = ModelLayout.of(model, Selection(dense=["out.weight"]))
    assert group_of(view) == {"embedding.weight": Group.DENSE, "out.bias": Group.CODED}


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"dense": ["haed.weight"]}, r"dense=\['haed.weight'\]\) matches no trained parameter .*mean 'head\.weight'"),
        ({"coded": ["base.*"]}, r"matches base\.weight, which is frozen: unfreeze it first"),
        ({"coded": ["mask"]}, r"matches mask, which is a buffer and not trained"),
        ({"statistics": ["maks"]}, r"matches no buffer or frozen parameter of the model; did you mean 'mask'"),
        ({"statistics": ["head.*"]}, r"matches head\.weight, which is trained, and so is always sent"),
        ({"local": ["*"]}, r"local=\['\*'\]\) matches .*, which is trained.*; freeze it, or name buffers alone"),
        ({"coded": ["head.*"], "dense": ["*.weight"]}, r"names head\.weight both in coded and in dense"),
        ({"statistics": ["mask"], "local": ["ma*"]}, r"names mask both in statistics and in local"),
        ({"variances": ["spread"], "statistics": ["spread"]}, r"names spread both in statistics and in variances"),
    ],
)
def test_a_choice_that_cannot_be(selection: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelLayout.of(Buffered(), Selection(**selection))


@pytest.mark.parametrize("patterns", ["mask", [b"mask"], [1]])
def test_a_field_is_a_list_of_texts(patterns: object) -> None:
    with pytest.raises(ConfigError, match=r"Selection\(local=.*\): give a list of names or patterns"):
        Selection(local=patterns)  # type: ignore[arg-type]


def test_names_of_a_large_model_are_not_all_listed() -> None:
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    with pytest.raises(ConfigError, match=r"they are 0\.bias, .* and 28 more$"):
        ModelLayout.of(model, Selection(dense=["qqqqqqqqqqqq"]))


def test_a_client_and_a_server_with_a_choice() -> None:
    """The codebook is averaged: what training made of it is what the server has."""
    selection = Selection(statistics=["codebook"], dense=["head.*"])
    server = server_of(Buffered(), choose=selection)
    round_ = server.begin(1, ["a"])
    model = Buffered()
    rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), round_.broadcast("a"), steps=2, choose=selection)
    for _ in range(2):
        rule.zero_grad()
        F.cross_entropy(model(torch.randn(6, 4)), torch.randint(0, 3, (6,))).backward()
        rule.step()
    round_.add("a", rule.finish(weight=1).to_bytes())
    state = round_.finish()
    assert state[server.layout.slices["codebook"]].tolist() == [3, 3, 3]


class TestRefusedTensors:
    """Each is refused by name, and what the error says helps."""

    def test_lazy(self) -> None:
        model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
        with pytest.raises(UnsupportedModelError, match=r"0\.weight has no shape yet.*: run one batch"):
            ModelLayout.of(model)
        model(torch.randn(4, 5))
        assert group_of(ModelLayout.of(model))["0.weight"] is Group.CODED

    def test_meta(self) -> None:
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        with pytest.raises(UnsupportedModelError, match=r'0\.weight is on meta.*model\.to_empty\(device="cpu"\)'):
            ModelLayout.of(model)
        weights = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
        model.to_empty(device="cpu").load_state_dict(weights)
        assert torch.equal(torch.from_numpy(ModelLayout.of(model).read())[:6], weights["0.weight"].flatten())

    def test_complex(self) -> None:
        class Turn(nn.Module):
            def __init__(self, w: Tensor) -> None:
                super().__init__()
                self.w = nn.Parameter(w)

        w = torch.randn(3, dtype=torch.complex64)
        with pytest.raises(UnsupportedModelError, match=r"w is torch\.complex64; .*torch\.view_as_real\(w\)"):
            ModelLayout.of(Turn(w))
        model = Turn(torch.view_as_real(w))
        assert ModelLayout.of(model).layout.size == 6
        assert torch.equal(torch.view_as_complex(model.w), w)

    def test_another_type_of_float(self) -> None:
        model = nn.Linear(2, 2).to(torch.float8_e4m3fn)
        with pytest.raises(UnsupportedModelError, match=r"weight is torch\.float8_e4m3fn; .*model\.float\(\)"):
            ModelLayout.of(model)
        ModelLayout.of(model.float())

    def test_sparse(self) -> None:
        model = nn.Linear(2, 2)
        model.weight = nn.Parameter(torch.eye(2).to_sparse())
        with pytest.raises(
            UnsupportedModelError, match=r"weight is sparse \(torch\.sparse_coo\); use tensor\.to_dense"
        ):
            ModelLayout.of(model)
        model.weight = nn.Parameter(model.weight.detach().to_dense())
        ModelLayout.of(model)

    def test_quantised(self) -> None:
        """Quantised by a class over other tensors, as torchao does it; an adapter beside it is the way out."""
        model = nn.Sequential(nn.Linear(2, 2, bias=False))
        model[0].weight = nn.Parameter(Coarse(torch.ones(2, 2, dtype=torch.int8)))
        with pytest.raises(UnsupportedModelError, match=r"0\.weight is a Coarse, .*requires_grad_\(False\) and train"):
            ModelLayout.of(model)
        model.requires_grad_(False).append(nn.Linear(2, 2))
        assert ModelLayout.of(model).frozen == ("0.weight",)


class Coarse(Tensor):
    """Eight bits a value, as float32."""

    def __new__(cls, codes: Tensor) -> "Coarse":
        return Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)  # type: ignore[attr-defined]

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["codes"], None

    @classmethod
    def __tensor_unflatten__(cls, inner: dict[str, Tensor], *_: object) -> "Coarse":
        return cls(inner["codes"])

    @classmethod
    def __torch_dispatch__(cls, func: Callable, types: object, args: tuple = (), kwargs: object = None) -> object:  # type: ignore[type-arg]
        return cls(args[0].codes) if func is torch.ops.aten.detach.default else NotImplemented


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(), r"Sequential has no parameters: pass the module that holds them"),
        (nn.Linear(2, 2).requires_grad_(False), r"are frozen \(weight, \.\.\.\): unfreeze some by requires_grad_"),
        (nn.LayerNorm(3), r"travels as floats \(weight, \.\.\.\): choose=Selection\(coded=\[\.\.\.\]\)"),
        (nn.ParameterList([nn.Parameter(torch.ones(0))]), r"all its trained parameters are empty"),
    ],
    ids=["nothing", "frozen", "norms", "empty"],
)
def test_nothing_to_compress(model: nn.Module, why: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"the model has no trained parameter to compress; .*{why}"):
        ModelLayout.of(model)


def test_nothing_to_compress_is_mended_as_it_says() -> None:
    frozen, norms = nn.Linear(2, 2).requires_grad_(False), nn.LayerNorm(3)
    assert ModelLayout.of(frozen.requires_grad_(True)).layout.size == 6
    assert group_of(ModelLayout.of(norms, Selection(coded=["weight"]))) == {"weight": Group.CODED, "bias": Group.DENSE}


def test_the_default_choice_is_a_function_that_ones_own_can_call() -> None:
    def all_biases_too(name: str, owner: nn.Module, parameter: nn.Parameter) -> Group:
        return Group.DENSE if name.endswith("bias") else default_choice(name, owner, parameter)

    assert group_of(ModelLayout.of(nn.Linear(2, 2), all_biases_too)) == {"weight": Group.CODED, "bias": Group.DENSE}
