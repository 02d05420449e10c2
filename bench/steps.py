"""One training step: clear gradients, forward, loss, backward, update, and for FedMRN the weights of the next step.

  plain               torch.optim.SGD on the model's own weights (batches channels-last, as all of fedmrn's clients)
  fedmrn, fedmrn-s    the same loop through the wrapper of `fedmrn.torch.attach`, with the scales that clients choose
  fedmrn, fixed       with one scale, so that SGD moves the weights in the pass that draws the next ones
  ..., adamw          the same with torch.optim.AdamW and weight decay in place of SGD
  published, -s       layers of `published`, default layout, the same batches
  products            as many multiplications in matrix products: what the processor could do at best

Then plain under bfloat16 autocast (train.autocast = "bfloat16") against plain: a gain only where the processor has
arithmetic for it.

One thread. Models: CNN4 (1 x 28 x 28) and CNN8 (3 x 32 x 32), batch 64; a transformer encoder of 10.6 million
parameters (6 layers, width 384, 6 heads, no biases in linear layers), batches of 16 sequences of 64 vectors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from hadamard import rounding
from harness import Agreement, Benchmark, Case, Goal, Planned
from limits import products
from published import progress, replaced
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fedmrn.methods import METHODS
from fedmrn.models.catalogue import build_model
from fedmrn.server import Server
from fedmrn.torch import ModelLayout, attach
from fedmrn.torch.loop import channels_last

LR, SECRET = 0.1, bytes(16)
SCALES = {"fedmrn": 0.01, "fedmrn-s": 0.005}


class Block(nn.Module):
    """A layer of a transformer encoder, normalised before attention and before the two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, of the shape of its input (batch, length, width)."""
        n, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))
        y: Tensor = x + self.down(F.gelu(self.up(self.between(x))))
        return y


class Encoder(nn.Module):
    """A transformer encoder that classifies sequences of vectors by their mean."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, (batch, 10)."""
        logits: Tensor = self.head(self.norm(self.layers(x).mean(1)))
        return logits


@dataclass(frozen=True)
class Setting:
    """A model, the shape of its batches, and how often its step is timed: steps a repetition, and repetitions."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: int
    repetitions: int


def _encoder(width: int, heads: int, layers: int) -> nn.Module:
    torch.manual_seed(1)
    return Encoder(width, heads, layers)


def _cnn(name: str, channels: int, size: int) -> nn.Module:
    return build_model(name, shape=(channels, size, size), classes=10, seed=1)


FULL = (
    Setting("CNN4", partial(_cnn, "cnn4", 1, 28), (64, 1, 28, 28), 4, 9),
    Setting("CNN8", partial(_cnn, "cnn8", 3, 32), (64, 3, 32, 32), 1, 9),
    Setting("transformer", partial(_encoder, 384, 6, 6), (16, 64, 384), 1, 5),
)
QUICK = (
    Setting("small CNN", partial(_cnn, "cnn-digits", 1, 8), (8, 1, 8, 8), 2, 2),
    Setting("small transformer", partial(_encoder, 32, 2, 1), (2, 8, 32), 2, 2),
)


class Stepper:
    """Takes steps of one way to train, on one and the same batch; the last loss is kept."""

    def __init__(self, way: str, setting: Setting) -> None:
        self.way, self.model, self.taken = way, setting.build(), 0
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(setting.shape, generator=generator)
        self.y = torch.randint(0, 10, setting.shape[:1], generator=generator)
        # A repetition more for the harness's warm-up, and one for the check.
        self.steps, self.planned = setting.steps, setting.steps * (setting.repetitions + 2)
        self.bfloat16, self.loss = way.endswith("bfloat16"), 0.0
        self.x = x if way.startswith("published") else channels_last(x)
        if way.startswith("published"):
            signed = way.endswith("-s")
            self.model = replaced(self.model, SCALES["fedmrn-s" if signed else "fedmrn"], signed)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        name, _, variant = way.partition(", ")
        self.optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=LR)
        if variant == "adamw":
            self.optimizer = torch.optim.AdamW(parameters, lr=LR / 100, weight_decay=0.01)
        if name in METHODS:
            view = ModelLayout.of(self.model)
            scheme = METHODS[name].scheme({"scale": SCALES[name] if variant == "fixed" else "auto"})
            server = Server(view.layout, scheme, view.read(), SECRET, run=bytes(16))
            broadcast = server.begin(1, [0]).broadcast(0)
            self.optimizer = attach(
                self.model, self.optimizer, broadcast, accept="any", steps=self.planned, sampling_key=1
            )
        self.move: Callable[[], object] = self.optimizer.step
        self.model.train()

    def __call__(self, steps: int | None = None) -> float:
        """Take so many steps."""
        for _ in range(steps or self.steps):
            self.taken += 1
            if self.way.startswith("published"):
                progress(self.model, self.taken / self.planned)
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                loss = F.cross_entropy(self.model(self.x), self.y)
            loss.backward()
            self.move()
            self.loss = loss.item()
        return self.loss


def step(setting: Setting) -> Benchmark:
    """Build the benchmark of a model."""
    ways = ("plain", "fedmrn", "fedmrn-s", "fedmrn, fixed", "plain, adamw", "fedmrn, adamw", "published", "published-s")
    steppers = {way: Stepper(way, setting) for way in ways}
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(steppers["plain"].model(steppers["plain"].x), steppers["plain"].y).backward()
    coded = ModelLayout.of(setting.build()).layout

    def check() -> dict[str, Agreement]:
        """With u = 0 no binary mask takes anything: the first loss is that of the plain model, but for rounding.

        Other kernels add in another order; each value goes through at most as many additions as the fan-ins of the
        layers on its way.
        """
        fan_ins = [p[0].numel() for p in setting.build().parameters() if p.dim() > 1]
        losses = {way: steppers[way](1) for way in ("plain", "fedmrn", "published")}
        apart = {way: abs(loss - losses["plain"]) for way, loss in losses.items()}
        return {
            "fedmrn": Agreement(apart["fedmrn"], 0.0),
            "published": Agreement(apart["published"], rounding(*fan_ins) * max(1.0, losses["plain"])),
        }

    cases: dict[str, Case] = {
        **steppers,
        "products": products(counter.get_total_flops() * setting.steps),
    }
    return Benchmark(
        f"step, {setting.name}",
        setting.steps,
        cases,
        ("plain", "plain, adamw", "published", "products"),
        check,
        unit="ms a step",
        goals=(
            *(Goal(way, 1.05, "plain") for way in ("fedmrn", "fedmrn-s", "fedmrn, fixed")),
            Goal("fedmrn, adamw", 1.10, "plain, adamw"),
        ),
        limit=("products", "multiply rate: the step's multiplications in matrix products"),
        facts=lambda: {
            "parameters": f"{coded.trainable:,}",
            "GFLOP a step": f"{counter.get_total_flops() / 1e9:.2f}",
        },
    )


def bfloat16(setting: Setting) -> Benchmark:
    """Build the benchmark of autocast."""
    steppers = {way: Stepper(way, setting) for way in ("plain", "plain, bfloat16")}

    def check() -> dict[str, Agreement]:
        """Eight bits of a significand, and errors that layers of random weights do not enlarge by much: one in ten."""
        plain, other = (stepper(1) for stepper in steppers.values())
        return {"plain, bfloat16": Agreement(abs(plain - other) / plain, 0.1)}

    return Benchmark(f"bfloat16 step, {setting.name}", setting.steps, steppers, ("plain",), check, unit="ms a step")


def plan(quick: bool) -> Iterator[Planned]:
    """Yield a benchmark a model, and one of autocast."""
    settings = QUICK if quick else FULL
    for setting in settings:
        yield partial(step, setting), setting.repetitions
    yield partial(bfloat16, replace(settings[0], steps=1)), 3
