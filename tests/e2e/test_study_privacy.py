"""The study of privacy in small: gradients, mechanisms, a run that is cut, and the page against its runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting.rdp import RdpAccountant
from PIL import Image
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[2] / "studies"))

import privacy
import private_page
from marked_pages import END
from private_cases import CASES, SAMPLES, Case, Head, Samples, accuracy, local, samples
from private_means import Mechanism, multiplier, theta_of, train

from fedmrn.privacy import DELTA, PrivateRounds, epsilon_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "studies" / "privacy.py"


def torch_scores(name: str, case: Case, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The models once more, by torch."""
    if name == "head":
        return x @ w.reshape(-1, 10)
    m = x.shape[1] - 1
    a, b, head = w[: 8 * m].reshape(m, 8), w[8 * m : 16 * m].reshape(8, m), w[16 * m :].reshape(m + 1, 10)
    return torch.cat([x[:, :-1] + torch.relu(x[:, :-1] @ a) @ b, x[:, -1:]], 1) @ head


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_torch(name: str) -> None:
    case, draw = CASES[name], np.random.default_rng(1)
    m = {"head": 1001, "adapter": 385}[name]
    assert abs(case.parameters - 10_000) < 20
    w = (case.start() + draw.normal(0, 0.05, (3, case.parameters))).astype(np.float32)
    x, y = draw.normal(0, 0.1, (3, 20, m)).astype(np.float32), draw.integers(0, 10, (3, 20))
    found = case.gradient(w, x, y)
    for client in range(3):
        one = torch.tensor(w[client], requires_grad=True)
        scores = torch_scores(name, case, one, torch.tensor(x[client]))
        F.cross_entropy(scores, torch.tensor(y[client])).backward()
        assert one.grad is not None
        np.testing.assert_allclose(case.scores(w[client], x[client]), scores.detach(), atol=1e-4)
        np.testing.assert_allclose(found[client], one.grad, atol=1e-5)
        assert one.grad.abs().max() > 0.01


def test_clients_train_as_one_at_a_time() -> None:
    case, draw = Head(12), np.random.default_rng(2)
    data = Samples(
        draw.normal(size=(60, SAMPLES, 13)).astype(np.float32),
        draw.integers(0, 10, (60, SAMPLES)),
        np.zeros((1, 13), np.float32),
        np.zeros(1, np.int64),
    )
    together = local(case, data, case.start(), np.random.default_rng(3))
    order = np.random.default_rng(3).permutation(SAMPLES)
    for client in (0, 49, 50, 59):
        w = torch.zeros(130, requires_grad=True)
        for some in order.reshape(3, 20):
            scores = torch_scores("head", case, w, torch.tensor(data.x[client, some]))
            (gradient,) = torch.autograd.grad(F.cross_entropy(scores, torch.tensor(data.y[client, some])), w)
            w = (w - case.rate * gradient).detach().requires_grad_()
        np.testing.assert_allclose(together[client], w.detach(), atol=1e-4)


def test_the_means_of_private_mechanisms_are_those_of_clipped_updates() -> None:
    """d elements that are alike: the mean over them is that of one, with the deviation that each mechanism says."""
    clients, d, clip = 40, 4000, 0.1
    for name in ("masks", "gauss-element", "gauss-norm"):
        mechanism, rng = Mechanism(name, 8.0, clip, 3), np.random.default_rng(4)
        for value in (0.02, 0.5):
            noise = mechanism.noise(clients, d, rng)
            found = mechanism.mean(np.full((clients, d), value, np.float32), rng, noise)
            wanted = min(value, clip / math.sqrt(10) if name == "gauss-norm" else clip)
            if name == "masks":
                theta = theta_of(8.0, clients, d, 3)
                deviation = clip / (2 * theta) / math.sqrt(clients) * math.sqrt(1 - (2 * theta * wanted / clip) ** 2)
            else:
                deviation = (
                    _multiplier(8.0, 3) * 2 * clip * math.sqrt(d / (10 if name == "gauss-norm" else 1)) / clients
                )
            assert abs(found.mean() - wanted) < 5 * deviation / math.sqrt(d)
            assert abs(found.std() / deviation - 1) < 5 / math.sqrt(2 * d)


def _multiplier(epsilon: float, rounds: int) -> float:
    """The calibrated noise, after it was seen to have this epsilon and no less."""
    found = multiplier(epsilon, rounds)
    for factor, below in ((1.0, True), (0.99, False)):
        accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
        accountant.compose(dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(factor * found), rounds))
        assert (accountant.get_epsilon(DELTA) <= epsilon) == below
    return found


def test_masks_have_their_epsilon_and_those_of_training_their_mean() -> None:
    assert epsilon_of([PrivateRounds(theta_of(8.0, 40, 4000, 3), 40, 4000, 3)]) <= 8
    for name in ("masks-through", "masks-near"):
        mechanism, rng = Mechanism(name, 8.0, 0.1, 3), np.random.default_rng(5)
        noise = mechanism.noise(40, 20_000, rng)
        scale = abs(float(noise[0])) if name == "masks-through" else 0.1
        masking = mechanism.masking(noise, rng)
        assert masking is not None
        u = np.full((1, 20_000), 0.04, np.float32)
        found = masking(u, 1.0)
        np.testing.assert_allclose(np.abs(found), scale, rtol=1e-6)
        assert abs(found.mean() - 0.04) < 5 * scale / math.sqrt(20_000)
        np.testing.assert_allclose(masking(u, 0.0), u, rtol=1e-5)
        np.testing.assert_allclose(masking(200 * u, 0.0), scale, rtol=1e-5)
    assert Mechanism("masks", 8.0, 0.1, 3).masking(noise, rng) is None


def test_privacy_costs_accuracy_and_less_so_with_more_clients(tmp_path: Path) -> None:
    case = Head(100)
    data = samples(case, "digits", tmp_path)
    assert data.x.shape == (20, SAMPLES, 101)
    found = [train(case, data.of(20), Mechanism("masks", epsilon, 0.1, 4), 1) for epsilon in (1e4, 30.0, 1.0)]
    none = train(case, data.of(20), Mechanism("none", math.inf, 0.0, 4), 1)
    assert none >= found[0] > found[1] > found[2]
    assert none > 0.85
    assert accuracy(case, data, case.start()) < 0.2


TINY = (
    "--data digits --cases head --clients 6 12 --epsilons 4 64 --clips 0.03 0.1 --rounds 2 --seeds 2 --most-through 6"
)


def study(*words: object) -> str:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_study_that_was_cut_goes_on_to_the_same_runs(tmp_path: Path) -> None:
    runs = tmp_path / "runs.jsonl"
    tiny = (*TINY.split(), "--data-dir", tmp_path, "--runs", runs)
    first = study(*tiny)
    assert "| head | 12 | 64 |" in first
    whole = runs.read_text()
    lines = whole.splitlines(keepends=True)
    assert len(lines) == 2 * (3 + 2 * 3 * 4) + 2 * 2 * 4
    assert json.loads(lines[0])["epsilon"] is None
    runs.write_text("".join(lines[:20]) + lines[20][:30])
    assert study(*tiny) == first
    assert runs.read_text() == whole
    page = tmp_path / "privacy.md"
    marks = "".join(f"<!-- study privacy: {name} -->\n{END}\n" for name in private_page.tables({}))
    page.write_text(f"before\n{marks}after\n")
    study("--docs", "--runs", runs, "--folder", tmp_path)
    written = page.read_text()
    found = privacy.read(runs)
    for table in private_page.tables(found).values():
        assert "\n".join(table.lines()) in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    with Image.open(tmp_path / "privacy.png") as image:
        assert image.info["Runs"] == private_page.digest(found)


def test_the_page_is_that_of_its_runs() -> None:
    found = privacy.read(ROOT / "studies" / "records" / "privacy.jsonl")
    page = (ROOT / "docs" / "privacy.md").read_text("utf-8")
    for name, table in private_page.tables(found).items():
        assert f"<!-- study privacy: {name} -->\n" + "\n".join(table.lines()) + f"\n{END}" in page, "privacy.py --docs"
    with Image.open(ROOT / "docs" / "privacy.png") as image:
        assert image.info["Runs"] == private_page.digest(found)


def test_a_cell_counts_the_clip_that_another_seed_chose() -> None:
    def run(clip: float, seed: int) -> private_page.Run:
        cell = {"data": "x", "case": "head", "clients": 9, "rounds": 2, "mechanism": "masks", "epsilon": 4.0}
        return private_page.Run(**cell, clip=clip, seed=seed)  # type: ignore[arg-type]

    found = {run(0.1, 0): 0.5, run(0.1, 1): 0.9, run(0.2, 2): 0.7, run(0.2, 1): 0.8, run(0.2, 0): 0.6}
    assert private_page.accuracies(found, "head", 9, "masks", 4.0) == pytest.approx({1: 80.0, 2: 70.0})
    assert private_page.accuracies(found, "head", 8, "masks", 4.0) == {}


def test_clients_that_it_takes_are_read_off_the_noise() -> None:
    """Made-up runs that lose a point where the noise is 1, and ten where it is 10: five points are lost in between."""
    rounds, found = 20, {}
    for clients in (100, 1000):
        noise = 1 / (2 * theta_of(4.0, clients, 10_010, rounds) * math.sqrt(clients))
        lost = 10 if clients == 100 else 1
        for mechanism, epsilon, at in (("masks", 4.0, 0.8 - lost / 100), ("none", math.inf, 0.8)):
            run = private_page.Run(
                data="x",
                case="head",
                clients=clients,
                rounds=rounds,
                mechanism=mechanism,
                epsilon=epsilon,
                clip=0,
                seed=1,
            )
            found[run] = at
        if clients == 100:
            most = noise
    table = private_page.tables(found)["clients"]
    assert table.header == ("model", "epsilon 4")
    needed = int(table.rows[0][1].replace(",", ""))
    assert 100 < needed < 1000
    share = math.log(most * 2 * theta_of(4.0, needed, 10_010, rounds) * math.sqrt(needed)) / math.log(most / noise)
    assert share == pytest.approx(5 / 9, abs=0.02)
