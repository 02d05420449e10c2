"""The fast path against the slow oracle, fed the same uniforms, step by step.

Tolerances. The oracle runs twice, in float64 and in float32. How far the float32 oracle is from the float64
one is what rounding does to this very computation, whatever its order; the library may be four times as far,
as its convolutions sum in another order. Tensors that move alike (u and the shifts of batch norm, from 0; its
scales, from 1; its statistics) share one bound, so that a tensor of four values need not bound itself. The
bound must itself be small (`CEILING`), or it would excuse anything.

Decisions. r is an exact multiple of 2^-24. The probability p = u / n carries the difference of u, divided by
|n|, and two roundings, so that a mask may differ only where |r - q p| <= |du| / |n| + 2^-22, or where r is
within 2^-24 of q. Where one does differ there, the oracle takes the library's side, so that one bit does not
spoil the steps that follow; there must be hardly any of them.
"""

import numpy as np
import pytest
import torch
from dense_oracle import FLOATS, MASKED, STATISTICS, Oracle, SmallNet
from federating import batch, broadcast_of, decoded, masks, values
from torch.nn import functional as F

from fedmrn.codecs import MaskedNoise as Codec
from fedmrn.codecs import codec_from
from fedmrn.numerics.rng import Purpose
from fedmrn.torch import MaskedTraining, attach
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group

KEY = 0x5EED
LR, SCALE = 0.02, 0.05  # with these, u ends up within and outside of its interval alike
EPOCHS, SAMPLES, BATCH = 3, 10, 4  # batches of 4, 4 and a ragged 2
STEPS = 9
CEILING = 5e-6  # relative: 80 units of 2^-24 after nine steps through two convolutions


class Lockstep:
    """The library and both oracles over the same batches."""

    def __init__(self, name: str, *, progressive: bool = True, stochastic: bool = True, late: int = 0) -> None:
        torch.manual_seed(5)
        self.model = SmallNet()
        told = {"progressive": progressive, "stochastic": stochastic}
        broadcast = broadcast_of(self.model, name, scale=SCALE, told=told)
        frame = Frame.from_bytes(broadcast)
        template = frame.select(Role.TEMPLATE, Group.CODED)
        assert template is not None
        codec = codec_from(template.codec, template.params)
        assert isinstance(codec, Codec)
        state = values({k: v for k, v in self.model.state_dict().items() if v.is_floating_point()})
        self.signed = name == "fedmrn-s"
        self.oracle, self.rounded = (
            Oracle(
                state,
                codec.noise,
                frame.noise_key,
                KEY,
                signed=self.signed,
                steps=STEPS,
                lr=LR,
                progressive=progressive,
                stochastic=stochastic,
                dtype=dtype,
                late=late,
            )
            for dtype in (torch.float64, torch.float32)
        )
        rule = attach(
            self.model,
            torch.optim.SGD(self.model.parameters(), lr=LR),
            broadcast,
            steps=STEPS,
            sampling_key=KEY,
        )
        assert isinstance(rule, MaskedTraining)
        self.rule, self.stochastic = rule, stochastic
        self.differing = self.decisions = 0

    def u(self, name: str) -> torch.Tensor:
        """The library's u of a tensor, float64."""
        start, stop = self.oracle.range[name]
        return self.rule.u[start:stop].view(self.oracle.u[name].shape).double()

    def agree(self, names: tuple[str, ...]) -> None:
        """Every value of the library in these tensors is as near to the reference as rounding allows."""
        exact = {k: self.oracle.u.get(k, self.oracle.value[k]).detach() for k in names}
        rough = {k: self.rounded.u.get(k, self.rounded.value[k]).detach().double() for k in names}
        size = max(float(v.abs().max()) for v in exact.values())
        rounding = max(float((rough[k] - v).abs().max()) for k, v in exact.items())
        assert rounding <= CEILING * size
        for name, value in exact.items():
            mine = self.u(name) if name in MASKED else self.model.state_dict()[name].double()
            assert float((mine - value).abs().max()) <= 4 * rounding + 2.0**-24 * size, name

    def slack(self, name: str) -> torch.Tensor:
        """How far p of the library may be from the reference's."""
        n = self.oracle.noise[name]
        return (self.u(name) - self.oracle.u[name].detach()).abs() / n.abs() + 2.0**-22

    def step(self, tau: int, x: torch.Tensor, y: torch.Tensor) -> None:
        taken, own = {}, {}
        for name in MASKED:
            w, n = self.oracle.value[name], self.oracle.noise[name]
            exact, margin = self.oracle.masked(name, tau)
            rough, _ = self.rounded.masked(name, tau)
            mine = self.model.state_dict()[name].double() - w
            # One rounding of w + u' (|w + u'| < 1), and that of u itself.
            same = (mine - exact).abs() <= 2.0**-24 + (
                self.u(name) - self.oracle.u[name].detach()
            ).abs() + 2.0**-22 * n.abs()
            q = tau / STEPS
            r = self.oracle.uniforms(name, Purpose.TRAIN_MASK, tau)
            excused = (margin <= self.slack(name)) | ((r - q).abs() <= 2.0**-24)
            assert bool((same | excused).all()), f"{name}: masked weights differ at step {tau}"
            self.differing += int((~same).sum())
            self.decisions += same.numel()
            taken[name] = torch.where(same, exact, mine)
            own[name] = torch.where(same, rough.double(), mine).float()
        self.oracle.step(taken, x, y)
        self.rounded.step(own, x, y)
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
                self.agree(alike)
        return self.rule.finish(weight=SAMPLES)


VARIANTS = [(p, s) for p in (True, False) for s in (True, False)]


@pytest.mark.parametrize("name", ["fedmrn", "fedmrn-s"])
@pytest.mark.parametrize(("progressive", "stochastic"), VARIANTS)
def test_every_step_and_the_frame_agree_with_the_formulas(name: str, progressive: bool, stochastic: bool) -> None:
    both = Lockstep(name, progressive=progressive, stochastic=stochastic)
    frame = both.run()
    size = sum(both.oracle.u[k].numel() for k in MASKED)
    sent, update = masks(frame, size), decoded(frame, Group.CODED)
    for tensor in MASKED:
        start, stop = both.oracle.range[tensor]
        shape = both.oracle.u[tensor].shape
        mask, margin = both.oracle.final_mask(tensor)
        mine = torch.from_numpy(sent[start:stop]).view(shape)
        assert bool(((mine == mask) | (margin <= both.slack(tensor))).all()), tensor
        both.differing += int((mine != mask).sum())
        both.decisions += mask.numel()
        codewords = both.oracle.codeword(tensor, mine)
        assert torch.equal(torch.from_numpy(update[start:stop]).view(shape).double(), codewords)
    # A threshold that moves by 1e-6 of the unit interval changes one decision in a million.
    assert both.differing <= both.decisions // 1000


@pytest.mark.parametrize("stochastic", [True, False])
def test_u_left_its_interval_on_the_way(stochastic: bool) -> None:
    # The agreement above would say little if u never reached the corners of the clip.
    both = Lockstep("fedmrn", stochastic=stochastic)
    both.run()
    ratio = torch.cat([(both.u(k) / both.oracle.noise[k]).flatten() for k in MASKED])
    for part in (ratio < 0, (ratio > 0) & (ratio < 1), ratio > 1):
        assert int(part.sum()) > len(ratio) // 20


def test_the_comparison_notices_a_schedule_that_is_one_step_late() -> None:
    with pytest.raises(AssertionError, match=r"masked weights differ at step"):
        Lockstep("fedmrn-s", late=1).run()


def test_a_run_of_the_library_repeats_itself_to_the_bit() -> None:
    first, second = (Lockstep("fedmrn").run().to_bytes() for _ in range(2))
    assert first == second
    assert np.frombuffer(first, np.uint8).any()
