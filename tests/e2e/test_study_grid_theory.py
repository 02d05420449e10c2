"""The grid of docs/theory.md in small: its runs are the library's, its constants are right, floors obey the bound."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmrn.numerics.noise import Law, NoiseSpec
from fedmrn.reference import LocalTraining, Masking

sys.path.append(str(Path(__file__).parents[2] / "studies"))

import federations
import grid_runs
from federations import BATCH, CLIENTS, L2, SAMPLES, STEPS, TAKE_PART, Plan, ridge
from grid_bound import contraction, fixed_point_gap
from grid_measured import SHRINKS, Series, curves, floors
from grid_runs import EXACT, Clients, Grid, gaps, run, start
from grid_theory import excesses, jackknifed_slope
from marked_pages import fill
from theory import Size

SCRIPT = Path(__file__).parents[2] / "studies" / "grid_theory.py"
RATE = 0.05
PROBLEM = ridge()
FIXED = Clients(lambda _: RATE)
QUIET = replace(FIXED, whole=True)


def test_an_exact_broadcast_is_the_librarys_run() -> None:
    """Frames hold float32 and the server's sum a fixed point: 1e-5 is far above their rounding."""
    at = start(PROBLEM, 3).astype(np.float32)
    whole = list(federations.run(replace(PROBLEM, start=at), Plan("fedavg", lambda _: RATE), 12, seed=3))
    found = [w[0, :, 0] for w, _ in run(PROBLEM, FIXED, [EXACT], 12, [3])]
    np.testing.assert_allclose(found, whole, atol=1e-5)


class Told(LocalTraining):
    """The reference with noise and dice that are told."""

    def __init__(self, w, signed, noise, dice) -> None:
        masking = Masking(NoiseSpec(Law.BERNOULLI, 1.0), signed)
        super().__init__({"w": w}, ["w"], self.loss, masking, seed=0, key=0, steps=STEPS, lr=RATE)
        self.n, self.dice = {"w": torch.from_numpy(noise)}, iter(dice)

    def uniforms(self, purpose, step=0):
        return {"w": torch.from_numpy(next(self.dice))}

    @staticmethod
    def loss(weights, x, y):
        return ((x @ weights["w"] - y) ** 2).mean() / 2 + L2 / 2 * (weights["w"] ** 2).sum()


@pytest.mark.parametrize("mask", ["binary", "signed"])
def test_a_masked_update_is_the_references(mask: str) -> None:
    generator = np.random.default_rng(5)
    v, dice = generator.normal(size=(1, 16, 1)), generator.random((1, STEPS + 3, CLIENTS, 16, 1))
    clients = Clients(lambda _: RATE, mask, 0.3, whole=True)
    found = grid_runs._updates(clients, RATE, grid_runs._whole_gradients(PROBLEM), v, dice)
    for client in range(CLIENTS):
        noise, *rest = dice[0, :, client, :, 0]
        training = Told(torch.from_numpy(v[0, :, 0]), mask == "signed", 0.045 * np.where(noise < 0.5, -1.0, 1.0), rest)
        batch = PROBLEM.x[client].double(), PROBLEM.y[client].double()
        sent = training.run([batch] * STEPS, weight=1)
        np.testing.assert_allclose(found[0, client, :, 0], (training.n["w"] * sent.masks["w"]).numpy(), rtol=1e-12)


@pytest.mark.parametrize("h", [0.0, 0.25, 0.5])
def test_the_public_model_by_a_slow_loop(h: float) -> None:
    """k moves only out of its band; v is on the grid, and no element of it further from w than the bound takes it."""
    step, k = 0.25, np.zeros(16)
    w0 = start(PROBLEM, 1)
    for w, v in run(PROBLEM, FIXED, [Grid(step, h)], 60, [1]):
        for j in range(16):
            x = (w[0, j, 0] - w0[j]) / step
            if abs(x - k[j]) > 0.5 + h:
                k[j] = round(x)
        np.testing.assert_array_equal(v[0, :, 0], w0 + step * k)
        assert np.abs(v - w).max() <= step * (0.5 + h) * (1 + 1e-9)


def test_a_finer_grid_contains_the_coarser_one() -> None:
    """Where a step shrinks v stays where it is, and k counts the finer steps."""
    grids = [EXACT, *(Grid(0.5, 0.25, shrinks=shrinks) for shrinks in ("never", "rate", "root", "on stall"))]
    w0 = start(PROBLEM, 1)[None, :, None].repeat(5, 2)
    public = grid_runs._Public(grids, w0, 0.3)
    w = w0 + np.random.default_rng(1).normal(size=w0.shape)
    v = public.of(w)
    public.refine(50, 0.02, w)  # the first look: w has moved by more than a step
    assert public.step.ravel().tolist() == [0, 0.5, 2**-5, 2**-3, 0.5]
    public.refine(100, 0.02, w + 0.01)
    assert public.step.ravel().tolist() == [0, 0.5, 2**-5, 2**-3, 0.25]
    np.testing.assert_allclose((w0 + public.step * public.k)[..., 1:], v[..., 1:], rtol=0, atol=1e-15)
    np.testing.assert_array_equal(public.k, np.rint(public.k))


def test_a_kept_state_is_never_rounded_and_others_always() -> None:
    grids = [Grid(0.125), Grid(0.125, state="rounded"), Grid(0.125, state="at random")]
    w0 = start(PROBLEM, 1)[:, None]
    *_, (w, v) = run(PROBLEM, FIXED, grids, 30, [1])
    whole = (w[0] - w0) / 0.125
    off = np.abs(whole - np.rint(whole)).max(0)
    assert off[0] > 0.1
    assert off[1:].max() < 1e-9
    np.testing.assert_array_equal(v[..., 1:], w[..., 1:])


def test_the_constants_of_a_round_by_drawing_rounds() -> None:
    """Means over draws are within five of their standard deviations."""
    generator, draws = np.random.default_rng(1), 3000
    x, z, one = PROBLEM.x.double().numpy(), np.random.default_rng(2).normal(size=16), np.eye(16)
    moves = np.zeros((draws, 16))
    for i in range(draws):
        for client in generator.choice(CLIENTS, TAKE_PART, replace=False):
            at = z
            for _ in range(STEPS):
                batch = x[client][generator.integers(0, SAMPLES, BATCH)]
                at = at - RATE * (batch.T @ (batch @ at) / BATCH + L2 * at)
            moves[i] += (z - at) / TAKE_PART
    round_ = contraction(PROBLEM, RATE, whole=False)
    for values, expected in ((moves, round_.mean @ z), (np.square(moves).sum(1), z @ round_.second @ z)):
        assert (np.abs(values.mean(0) - expected) < 5 * values.std(0) / draws**0.5).all()
    quiet = contraction(PROBLEM, RATE, whole=True)
    np.testing.assert_allclose(quiet.mean, round_.mean)
    np.testing.assert_allclose(quiet.rho, np.linalg.eigvalsh(quiet.mean)[-1])
    assert one.shape == quiet.second.shape


def test_without_dice_the_inequality_holds_from_the_first_round_on() -> None:
    round_ = contraction(PROBLEM, RATE, whole=True)
    grids = [EXACT, Grid(1.0), Grid(0.25), Grid(0.25, 0.5), Grid(0.01, 0.25)]
    apart, error = np.zeros((2, len(grids) - 1)), np.zeros((2, len(grids) - 1))
    for w, v in run(PROBLEM, QUIET, grids, 400, [1, 2]):
        z, e = v[..., 1:] - v[..., :1], (v - w)[..., 1:]
        apart, error = (a + (y * (round_.mean @ y)).sum(1) for a, y in ((apart, z), (error, e)))
        assert (apart <= 4 / (2 - round_.rho) ** 2 * error + 1e-12).all()
    exact = gaps(PROBLEM, v)[:, 0]
    np.testing.assert_allclose(exact, fixed_point_gap(PROBLEM, RATE), rtol=1e-6)


SMALL = Size(rounds=400, seeds=(1, 2))


def test_floors_obey_the_bound_and_grow_with_the_square_of_the_step() -> None:
    """Without dice the excess is near tr H step^2 / 12 (16 elements, two seeds: within a third), whatever h is."""
    series = {"quiet": Series(QUIET, SMALL, states=("rounded",)), "drawn": Series(FIXED, SMALL)}
    found = floors(PROBLEM, series)
    for name, s in series.items():
        round_ = contraction(PROBLEM, RATE, whole=s.clients.whole)
        for grid in s.grids[1:22]:
            assert found[name, grid].v.mean() < round_.bound(found[name, EXACT].v.mean(), grid), grid
            assert found[name, grid].error <= (0.5 + grid.hysteresis) ** 2
    trace = np.trace(PROBLEM.hessian(PROBLEM.optimum[0]))
    for h in (0.0, 0.25, 0.5):
        excess = excesses(found, "quiet", h, (0.125, 0.25, 0.5))
        assert abs(float(jackknifed_slope((0.125, 0.25, 0.5), excess).split(" ±")[0]) - 2) < 0.25
        np.testing.assert_allclose(excess.mean(1), trace * np.square((0.125, 0.25, 0.5)) / 12, rtol=0.33)
    kept, band = found["quiet", Grid(0.5)], found["quiet", Grid(0.5, 0.25)]
    assert band.moved < kept.moved / 4
    stalled = found["quiet", Grid(0.125, state="rounded")]
    assert stalled.v.mean() > 20 * found["quiet", Grid(0.125)].v.mean()
    assert stalled.moved == 0


def test_slopes_that_dice_drown_are_left_out() -> None:
    assert jackknifed_slope((0.5, 1.0), np.array([[0.1, -0.2], [1.0, 1.1]])) == ""
    assert jackknifed_slope((0.5, 1.0), np.array([[0.25, 0.5], [1.0, 2.0]])) == "2.00 ± 0.00"


def test_steps_that_shrink_reach_the_exact_broadcast() -> None:
    """Clients and batches are the same: what differs is the grid alone, so that a ratio is far from a fixed step's."""
    found = curves(PROBLEM, Size(rounds=640, seeds=(1, 2)))
    last = {key: gap[:, -100:].mean() for key, gap in found.items()}
    for rate in ("FedAvg, 1/t", "binary, 1/t"):
        exact = last[rate, "exact"]
        assert last[rate, "step as the rate"] < 1.2 * exact
        assert last[rate, "step halved on stall"] < 1.5 * exact
        assert last[rate, "step 1/2"] > 10 * exact
        assert last[rate, "state rounded, step as the rate"] > 1.5 * exact
    assert last["FedAvg, fixed", "step halved on stall"] < 1.2 * last["FedAvg, fixed", "exact"]
    assert set(SHRINKS) == {label for name, label in found if name == "FedAvg, 1/t"}


def test_a_run_is_a_function_of_its_seed_alone() -> None:
    grids = [Grid(0.25, 0.25), Grid(0.25, state="at random")]
    clients = Clients(lambda _: RATE, "binary", 2.0)
    together = [v for _, v in run(PROBLEM, clients, grids, 20, [1, 2])]
    again = [v for _, v in run(PROBLEM, clients, grids, 20, [1, 2])]
    alone = [v for _, v in run(PROBLEM, clients, grids[:1], 20, [2])]
    np.testing.assert_array_equal(together, again)
    np.testing.assert_allclose(np.array(together)[:, 1:, :, :1], alone, atol=1e-9)


def test_the_page(tmp_path: Path) -> None:
    """The script writes three tables and a picture."""
    marks = [f"<!-- study grid_theory: {name} -->" for name in ("floors", "details", "shrinking")]
    page = tmp_path / "theory.md"
    page.write_text("before\n" + "".join(f"{mark}\n<!-- end -->\nbetween\n" for mark in marks))
    command = [sys.executable, str(SCRIPT), "--quick", "--docs", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = page.read_text().splitlines()
    assert (lines[0], lines.count("between"), lines[-1]) == ("before", 3, "between")
    assert len(lines) == 1 + 3 * 5 + (2 * 8) + (4 * 3 + 4 + 3) + (6 + 6 + 3)
    assert all(line.count("|") in (6, 8) for line in lines if line.startswith("|"))
    assert (tmp_path / "grid-theory.png").read_bytes()[:4] == b"\x89PNG"


def test_a_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "theory.md"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="lacks"):
        fill(page, "<!-- mark -->", ("a",), [("1",)], 1)
