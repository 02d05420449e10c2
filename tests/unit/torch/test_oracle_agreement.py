"""The fast path against the algorithm in one file (`fedmrn.reference`), fed the same uniforms, step by step.

Tolerances. The reference runs twice, in float64 and in float32. How far the float32 reference is from the float64
one is what rounding does to this very computation, whatever its order; the library may be four times as far,
as its convolutions sum in another order. Tensors that move alike (u and the shifts of batch norm, from 0; its
scales, from 1; its statistics) share one bound, so that a tensor of four values need not bound itself. The
bound must itself be small (`CEILING`), or it would excuse anything.

What the library moves are weights w + u, as plain training does, and u is how far they moved. The reference moves u, as
the paper writes it. So each step rounds w + u once more than the reference, by half a unit in the last place, which is
2^-24 of its size at most: after tau steps u may be off by tau times that.

Decisions. r is an exact multiple of 2^-24. The probability p = u / n carries the difference of u, divided by
|n|, and two roundings, so that a mask may differ only where |r - q p| <= |du| / |n| + 2^-22, or where r is
within 2^-24 of q. Where one does differ there, the reference takes the library's side, so that one bit does not
spoil the steps that follow; there must be hardly any of them.
"""

import numpy as np
import pytest
import torch
from federating import batch, broadcast_of, decoded, masks, server_of, values
from side_clipping import clipped_side
from torch import Tensor, nn
from torch.nn import functional as F
from written_out_net import FLOATS, MASKED, STATISTICS, SmallNet, WrittenOut

from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.numerics.rng import Purpose
from fedmrn.reference import LocalTraining, Masking, MaskUpdate, next_model
from fedmrn.torch import MaskedTraining, ModelLayout, attach
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group

KEY = 0x5EED
LR, SCALE = 0.02, 0.05  # with these, u ends up within and outside of its interval alike
EPOCHS, SAMPLES, BATCH = 3, 10, 4  # batches of 4, 4 and a ragged 2
STEPS = 9
CEILING = 5e-6  # relative: 80 units of 2^-24 after nine steps through two convolutions


class LateTraining(LocalTraining):
    """A client whose progressive masking is one step late: wrong on purpose."""

    def q(self, tau: int) -> float:
        return super().q(tau - 1)


class Lockstep:
    """The library and the reference in two precisions, over the same batches."""

    def __init__(
        self,
        name: str,
        *,
        progressive: bool = True,
        stochastic: bool = True,
        kind: type[LocalTraining] = LocalTraining,
    ) -> None:
        torch.manual_seed(5)
        self.model = SmallNet()
        told = {"progressive": progressive, "stochastic": stochastic}
        broadcast = broadcast_of(self.model, name, scale=SCALE, told=told)
        state = values({k: v for k, v in self.model.state_dict().items() if v.is_floating_point()})
        masking = Masking(NoiseSpec(Law.UNIFORM, SCALE), name == "fedmrn-s", progressive, stochastic)
        self.nets, self.sides = [], []
        for dtype in (torch.float64, torch.float32):
            net = WrittenOut({k: torch.tensor(state[k], dtype=dtype) for k in STATISTICS})
            self.nets.append(net)
            self.sides.append(
                kind(
                    {k: torch.tensor(state[k], dtype=dtype) for k in MASKED + FLOATS},
                    MASKED,
                    net.loss,
                    masking,
                    seed=Frame.from_bytes(broadcast).noise_key,
                    key=KEY,
                    steps=STEPS,
                    lr=LR,
                )
            )
        self.reference, self.rounded = self.sides
        self.rule = attach(
            self.model,
            torch.optim.SGD(self.model.parameters(), lr=LR),
            broadcast,
            accept="any",
            steps=STEPS,
            sampling_key=KEY,
        )
        assert isinstance(self.rule, MaskedTraining)
        self.slices, self.stochastic = ModelLayout.of(self.model).layout.slices, stochastic
        self.differing = self.decisions = 0

    def u(self, name: str) -> Tensor:
        """The library's u of a tensor, float64."""
        return self.rule.u[self.slices[name]].view(self.reference.u[name].shape).double()

    def agree(self, names: tuple[str, ...], tau: int) -> None:
        """Every value of the library in these tensors is as near to the reference as rounding allows."""
        exact, rough = (
            {k: (side.u | side.unmasked | net.statistics)[k].detach().double() for k in names}
            for side, net in zip(self.sides, self.nets, strict=True)
        )
        size = max(float(v.abs().max()) for v in exact.values())
        rounding = max(float((rough[k] - v).abs().max()) for k, v in exact.items())
        assert rounding <= CEILING * size
        for name, value in exact.items():
            library = self.u(name) if name in MASKED else self.model.state_dict()[name].double()
            stored = tau * 2.0**-24 * (self.reference.w[name] + value).abs() if name in MASKED else 0.0
            assert bool(((library - value).abs() <= 4 * rounding + 2.0**-24 * size + stored).all()), name

    def slack(self, name: str) -> Tensor:
        """How far p of the library may be from the reference's."""
        n = self.reference.n[name]
        return (self.u(name) - self.reference.u[name]).abs() / n.abs() + 2.0**-22

    def margin(self, name: str, r: Tensor, q: float = 1.0) -> Tensor:
        """How far each element's decision was from falling the other way."""
        p = self.reference.probability(name)
        return (r - q * p).abs() if self.stochastic else (p - 0.5).abs()

    def step(self, tau: int, x: Tensor, y: Tensor) -> None:
        exact, rough = (side.masked_update(tau) for side in self.sides)
        uniforms = self.reference.uniforms(Purpose.TRAIN_MASK, tau)
        taken, taken_rounded = {}, {}
        for name in MASKED:
            library = self.model.state_dict()[name].double() - self.reference.w[name]
            # One rounding of w + u' (|w + u'| < 1), and that of u itself.
            same = (library - exact[name]).abs() <= 2.0**-24 + (
                self.u(name) - self.reference.u[name]
            ).abs() + 2.0**-22 * self.reference.n[name].abs()
            r, q = uniforms[name], tau / STEPS
            margin = self.margin(name, r, self.reference.q(tau))
            excused = (margin <= self.slack(name)) | ((r - q).abs() <= 2.0**-24)
            assert bool((same | excused).all()), f"{name}: masked weights differ at step {tau}"
            self.differing += int((~same).sum())
            self.decisions += same.numel()
            taken[name] = torch.where(same, exact[name], library)
            taken_rounded[name] = torch.where(same, rough[name].double(), library).float()
        self.reference.step(taken, x, y)
        self.rounded.step(taken_rounded, x, y)
        self.rule.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.rule.step()

    def run(self) -> Frame:
        self.model.train()
        torch.manual_seed(6)
        x, y = batch(SAMPLES, 2, 6, 6)
        for tau in range(1, STEPS + 1):
            start = (tau - 1) * BATCH % (3 * BATCH)
            self.step(tau, x[start : start + BATCH], y[start : start + BATCH])
            for alike in (MASKED + FLOATS[1::2], FLOATS[::2], STATISTICS):
                self.agree(alike, tau)
        return self.rule.finish(weight=SAMPLES)


VARIANTS = [(p, s) for p in (True, False) for s in (True, False)]


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
@pytest.mark.parametrize(("progressive", "stochastic"), VARIANTS)
def test_every_step_and_the_frame_agree_with_the_formulas(name: str, progressive: bool, stochastic: bool) -> None:
    both = Lockstep(name, progressive=progressive, stochastic=stochastic)
    frame = both.run()
    reference, size = both.reference, sum(u.numel() for u in both.reference.u.values())
    sent, update = masks(frame, size), decoded(frame, Group.CODED)
    expected, uniforms = reference.final_masks(), reference.uniforms(Purpose.FINAL_MASK)
    for tensor in MASKED:
        where, shape = both.slices[tensor], reference.u[tensor].shape
        ones = torch.from_numpy(sent[where]).view(shape)
        same = ones == (expected[tensor] > 0)
        assert bool((same | (both.margin(tensor, uniforms[tensor]) <= both.slack(tensor))).all()), tensor
        both.differing += int((~same).sum())
        both.decisions += same.numel()
        zero = -1 if name == "fedmrn-s" else 0
        codewords = reference.n[tensor] * torch.where(ones, 1, zero)
        assert torch.equal(torch.from_numpy(update[where]).view(shape).double(), codewords)
    # A threshold that moves by 1e-6 of the unit interval changes one decision in a million.
    assert both.differing <= both.decisions // 1000


@pytest.mark.parametrize("stochastic", [True, False])
def test_u_left_its_interval_on_the_way(stochastic: bool) -> None:
    # The agreement above would say little if u never reached the corners of the clip.
    both = Lockstep("fedmrn", stochastic=stochastic)
    both.run()
    ratio = torch.cat([(both.u(k) / both.reference.n[k]).flatten() for k in MASKED])
    for part in (ratio < 0, (ratio > 0) & (ratio < 1), ratio > 1):
        assert int(part.sum()) > len(ratio) // 20


def test_the_comparison_notices_a_schedule_that_is_one_step_late() -> None:
    with pytest.raises(AssertionError, match=r"masked weights differ at step"):
        Lockstep("fedmrn-s", kind=LateTraining).run()


def test_a_run_of_the_library_repeats_itself_to_the_bit() -> None:
    first, second = (Lockstep("fedmrn").run().to_bytes() for _ in range(2))
    assert first == second
    assert np.frombuffer(first, np.uint8).any()


class Springs(nn.Module):
    """Weights whose loss is a sum of squares: with fractions of small powers of two, no step is rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.masked = nn.Parameter(torch.arange(-1500, 1500) % 64 * 2.0**-6 - 0.5)
        self.free = nn.Parameter(torch.arange(5) * 2.0**-3)

    @staticmethod
    def loss(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return (w["masked"].square() * x).sum() + (w["free"].square() * y).sum()

    @staticmethod
    def choose(name: str, owner: nn.Module, parameter: nn.Parameter) -> Group:
        return Group.CODED if name == "masked" else Group.DENSE


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
@pytest.mark.parametrize(("progressive", "stochastic"), VARIANTS)
def test_what_is_sent_is_the_same_to_the_bit_where_no_step_is_rounded(
    name: str, progressive: bool, stochastic: bool
) -> None:
    model, scale, steps, lr = Springs(), 2.0**-2, 4, 2.0**-4
    told = {"progressive": progressive, "stochastic": stochastic}
    server = server_of(model, name, law="bernoulli", scale=scale, choose=model.choose, told=told)
    broadcast = server.begin(1, ["a"]).broadcast("a")
    # Each step with another push, so that one step too few or too many is seen.
    batches = [(torch.arange(3000) % 3 * (tau - 0.5), torch.tensor(tau)) for tau in range(steps)]
    training = LocalTraining(
        {k: v.detach().clone() for k, v in model.named_parameters()},
        ["masked"],
        model.loss,
        Masking(NoiseSpec(Law.BERNOULLI, scale), name == "fedmrn-s", progressive, stochastic),
        seed=Frame.from_bytes(broadcast).noise_key,
        key=KEY,
        steps=steps,
        lr=lr,
    )
    expected = training.run(batches, weight=3)
    rule = attach(
        model,
        torch.optim.SGD(model.parameters(), lr=lr),
        broadcast,
        accept="any",
        steps=steps,
        sampling_key=KEY,
        choose=model.choose,
    )
    for x, y in batches:
        rule.zero_grad()
        model.loss(dict(model.named_parameters()), x, y).backward()
        rule.step()
    frame = rule.finish(weight=3)
    mask = expected.masks["masked"]
    assert 0.1 < float((mask > 0).float().mean()) < 0.9
    assert np.array_equal(masks(frame, len(mask)), (mask > 0).numpy())
    assert np.array_equal(decoded(frame, Group.CODED), (mask * training.n["masked"]).numpy())
    assert np.array_equal(decoded(frame, Group.DENSE), expected.changes["free"].numpy())


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
def test_the_next_model_is_the_references(name: str) -> None:
    torch.manual_seed(5)
    server = server_of(SmallNet(), name, scale=SCALE)
    specs = server.layout.tensors
    before = {t.name: torch.tensor(server.state[server.layout.slices[t.name]]).double() for t in specs}
    clients = {"a": 3, "b": 10, "c": 4}
    round, keys, rows = server.begin(1, clients), [], []
    for number, (client, weight) in enumerate(clients.items()):
        model = SmallNet()
        optimizer = torch.optim.SGD(model.parameters(), lr=LR)
        rule = attach(model, optimizer, round.broadcast(client), accept="any", steps=1, sampling_key=KEY + number)
        x, y = batch(weight, 2, 6, 6)
        F.cross_entropy(model(x), y).backward()
        rule.step()
        frame = rule.finish(weight=weight)
        round.add(client, frame.to_bytes())
        bits = masks(frame, server.layout.span(Group.CODED).stop)
        others = np.concatenate([decoded(frame, g) for g in (Group.DENSE, Group.STATS, Group.VARIANCE)])
        keys.append(frame.noise_key)
        rows.append(np.concatenate([np.where(bits, 1.0, -1.0 if name == "fedmrn-s" else 0.0), others]))
    round.finish()
    updates = []  # as the paper has them, but that no client says of unmasked tensors what is far from the others
    for key, row, weight in zip(keys, clipped_side(server.layout, np.array(rows)), clients.values(), strict=True):
        counts = {k: torch.from_numpy(row[where]) for k, where in server.layout.slices.items()}
        changes = {k: v for k, v in counts.items() if k not in MASKED}
        updates.append(MaskUpdate(key, {k: counts[k] for k in MASKED}, changes, weight))
    expected = next_model(before, updates, NoiseSpec(Law.UNIFORM, SCALE))
    state = {k: torch.tensor(server.state[where]).double() for k, where in server.layout.slices.items()}
    for tensor, value in expected.items():
        if tensor.endswith("running_var"):
            logs = before[tensor].log() + (value - before[tensor])  # what clients send of it is a change of logarithms
            assert torch.allclose(state[tensor], logs.exp(), rtol=2.0**-22, atol=0)
            continue
        # The mean and the state are each rounded once to float32, and so are distances from the median and bounds;
        # before, every client's mask is, to units of the sum: it must hold three clients of 2^20 samples with 0.05.
        largest = max(float(update.changes[tensor].abs().max()) for update in updates) if tensor not in MASKED else 0.0
        bound = 2.0**-24 * (value.abs() + (value - before[tensor]).abs() + 3 * largest)
        bound += 3 * 2.0**-44 / 2 / sum(clients.values())
        assert bool(((state[tensor] - value).abs() <= bound).all()), tensor
        # Bits that are all 0 leave a tensor as it is, which may happen to three elements of three clients.
        ones = tensor not in MASKED or any(bool(update.masks[tensor].any()) for update in updates)
        assert torch.equal(value, before[tensor]) is not ones, tensor
        assert ones or value.numel() == 3
