"""Error feedback, and pruned weights that stay pruned: against the formulas, over several steps and rounds.

`Pushed` has the same gradient wherever its weights are, so that float64 sums say what must come. Tolerances: each step
rounds a weight, and the optimiser's state, a few times; ten units of 2^-24 of the largest magnitude a step are ample.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from federating import Pushed, batch, decoded, server_at, starting_server
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from fedmrn.errors import ConfigError, EncodeError, MalformedFrameError
from fedmrn.server import Server
from fedmrn.torch import LocalRule, ModelLayout, attach
from fedmrn.torch.rules.after import ErrorFeedback, HandOverWeights, KeepSupport
from fedmrn.wire.frame import Frame, Role
from fedmrn.wire.layout import Group

SIZE, STEPS = 30, 5
UNIT = 10 * STEPS * 2.0**-24


def largest(vector: NDArray[np.floating], k: int) -> list[int]:
    """Where the k elements of largest magnitude are; of equal ones the first."""
    return sorted(sorted(range(len(vector)), key=lambda i: (-abs(float(vector[i])), i))[:k])


def values_of(frame: Frame) -> NDArray[np.float32]:
    """A section that is nothing but float32 values."""
    section = frame.select(Role.UPDATE, Group.CODED)
    assert section is not None
    return np.frombuffer(section.body, "<f4")


def one_round(
    server: Server, number: int, gradients: torch.Tensor, memory: NDArray[np.float32] | None, lr: float = 0.1
) -> tuple[NDArray[np.float32], LocalRule]:
    """A client's round of a `Pushed` model: what the server reads, and the finished rule."""
    model = Pushed(server.layout.size)
    round_ = server.begin(number, ["a"])
    rule = attach(
        model,
        torch.optim.SGD(model.parameters(), lr=lr),
        round_.broadcast("a"),
        accept="any",
        steps=len(gradients),
        sampling_key=1,
        memory=memory,
    )
    for gradient in gradients:
        rule.zero_grad()
        model.pushed(gradient).backward()
        rule.step()
    frame = rule.finish(weight=3)
    round_.add("a", frame.to_bytes())
    round_.finish()
    return decoded(frame, Group.CODED), rule


class TestErrorFeedback:
    """vector = difference + memory; memory' = vector - what the server reads."""

    def test_rounds_of_a_client_agree_with_the_formulas(self) -> None:
        k, rounds = 3, 6
        server = starting_server(Pushed(SIZE), "topk-ef", {"density": k / SIZE})
        memory, expected = None, np.zeros(SIZE)
        for number in range(1, rounds + 1):
            gradients = torch.randn(STEPS, SIZE)
            sent, rule = one_round(server, number, gradients, memory)
            vector = expected - 0.1 * gradients.double().numpy().sum(0)
            places = largest(vector, k)
            assert np.flatnonzero(sent).tolist() == places
            # Weights start within [-1, 1] and move by less than 4; memories add up over the rounds.
            tolerance = number * UNIT * 4
            np.testing.assert_allclose(sent[places], vector[places], rtol=0, atol=tolerance)
            expected = vector.copy()
            expected[places] = 0
            memory = rule.memory
            assert memory is not None
            np.testing.assert_allclose(memory, expected, rtol=0, atol=tolerance)
            assert not memory[places].any()
        assert np.count_nonzero(expected) == SIZE - k

    def test_what_is_sent_and_kept_add_up_to_the_bit(self) -> None:
        server = starting_server(Pushed(SIZE), "topk-ef", {"density": 0.1})
        before = server.state.copy()
        old = np.linspace(-1, 1, SIZE, dtype=np.float32)
        sent, rule = one_round(server, 1, torch.randn(2, SIZE), old.copy())
        trained = rule.view.read()
        np.testing.assert_array_equal(sent + rule.memory, (trained - before) + old)  # type: ignore[operator]

    def test_half_precision_values_leave_their_rounding_in_the_memory(self) -> None:
        server = starting_server(Pushed(SIZE), "topk-ef", {"density": 1.0, "bits": 16})
        sent, rule = one_round(server, 1, torch.randn(2, SIZE), None)
        assert rule.memory is not None
        kept = np.abs(rule.memory)
        assert kept.any()
        assert (kept <= 2.0**-11 * np.abs(sent) + 2.0**-24).all()

    def test_the_callers_memory_is_not_changed(self) -> None:
        server = starting_server(Pushed(SIZE), "topk-ef")
        old = np.linspace(-1, 1, SIZE, dtype=np.float32)
        given = old.copy()
        _, rule = one_round(server, 1, torch.randn(2, SIZE), given)
        np.testing.assert_array_equal(given, old)
        assert rule.memory is not given

    def test_a_finish_that_was_refused_does_not_count_the_memory_twice(self) -> None:
        server = starting_server(Pushed(SIZE), "topk-ef")
        frames = []
        for refused in (False, True):
            model = Pushed(SIZE)
            rule = attach(
                model,
                torch.optim.SGD(model.parameters(), lr=0.1),
                server.begin(1, ["a"]).broadcast("a"),
                accept="any",
                steps=1,
                memory=np.ones(SIZE, np.float32),
            )
            model.pushed(torch.linspace(-1, 1, SIZE)).backward()
            rule.step()
            if refused:
                with pytest.raises(EncodeError, match="weight is at least 1"):
                    rule.finish(weight=0)
            frames.append((rule.finish(weight=1).to_bytes(), rule.memory.tobytes()))  # type: ignore[union-attr]
        assert frames[0] == frames[1]

    def test_a_broadcast_that_asks_for_no_coded_values_is_refused(self) -> None:
        model = Pushed(SIZE)
        frame = Frame.from_bytes(starting_server(model, "topk-ef").begin(1, ["a"]).broadcast("a"))
        state = tuple(s for s in frame.sections if s.role is Role.STATE)
        with pytest.raises(MalformedFrameError, match="asks for 0 elements of group coded"):
            attach(
                model,
                MAKE["sgd"](model.parameters()),
                replace(frame, sections=state),
                accept="any",
                steps=1,
                memory=None,
            )

    def test_dense_values_and_statistics_are_not_remembered(self) -> None:
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        server = starting_server(model, "topk-ef")
        before, (x, y) = server.state.copy(), batch()
        broadcast = server.begin(1, ["a"]).broadcast("a")
        rule = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), broadcast, accept="any", steps=1, memory=None)
        F.cross_entropy(model(x), y).backward()
        rule.step()
        frame = rule.finish(weight=1)
        view = ModelLayout.of(model)
        for group in (Group.DENSE, Group.STATS):
            span = view.layout.span(group)
            np.testing.assert_array_equal(decoded(frame, group), view.read()[span] - before[span])
        assert rule.memory is not None
        assert rule.memory.shape == (view.layout.span(Group.CODED).stop,)

    def test_the_same_push_every_round_gets_through_with_memory_and_never_without(self) -> None:
        """One of ten elements a round. The sum of the updates less the sum of what was sent is the memory.

        With it, the memory's norm is at most 2 sqrt(1 - c) / c times the update's, c = 1/10, for ever (Karimireddy et
        al., ICML 2019, Lemma 3). Without it, nine elements never arrive.
        """
        size, rounds, c = 10, 120, 0.1
        gradient = torch.linspace(0.3, 1.0, size)[None]
        update = 0.1 * gradient[0].double().numpy()
        bound = 2 * np.sqrt(1 - c) / c * np.linalg.norm(update)
        missing = {}
        for remembers in (True, False):
            server = starting_server(Pushed(size), "topk-ef", {"density": c})
            total, memory = np.zeros(size), None
            for number in range(1, rounds + 1):
                sent, rule = one_round(server, number, gradient, memory)
                assert np.count_nonzero(sent) == 1
                total += sent
                memory = rule.memory if remembers else None
                if remembers:
                    assert np.linalg.norm(-number * update - total) <= bound
            missing[remembers] = -rounds * update - total
        assert memory is None
        # Without: all but the largest, rounds times.
        np.testing.assert_allclose(missing[False][:-1], -rounds * update[:-1], rtol=1e-6)
        assert np.linalg.norm(missing[False]) > 5 * bound
        # With: every element got through.
        assert np.abs(missing[True]).max() < rounds * update.min() / 2

    def test_two_clients_who_disagree_in_one_place_learn_the_others_only_with_memory(self) -> None:
        """f = |w - c|^2 / 2 for both, and +-10 w_0: on average a fixed quadratic, whose minimum is c.

        Each client's largest element is the one on which they cancel. Without memory no other is ever sent.
        """
        size, rounds = 10, 150
        target = torch.linspace(-2, 2, size)
        away = {}
        for remembers in (True, False):
            model = Pushed(size)
            with torch.no_grad():
                model.w.zero_()
            server = starting_server(model, "topk-ef", {"density": 0.1})
            memory: dict[int, NDArray[np.float32] | None] = {0: None, 1: None}
            for number in range(1, rounds + 1):
                round_ = server.begin(number, [0, 1])
                for client, pull in ((0, 10.0), (1, -10.0)):
                    rule = attach(
                        model,
                        torch.optim.SGD(model.parameters(), lr=0.02),
                        round_.broadcast(client),
                        accept="any",
                        steps=1,
                        memory=memory[client],
                    )
                    rule.zero_grad()
                    (((model.w - target) ** 2).sum() / 2 + pull * model.w[0]).backward()
                    rule.step()
                    round_.add(client, rule.finish(weight=1).to_bytes())
                    if remembers:
                        memory[client] = rule.memory
                round_.finish()
            away[remembers] = np.abs(server.state - target.numpy())
        np.testing.assert_array_equal(away[False][1:], np.abs(target.numpy()[1:]))
        # Were everything sent, the distance would shrink by 0.98^150 = 0.05; what is late leaves it a little larger.
        assert np.linalg.norm(away[True]) < np.linalg.norm(away[False]) / 5


def pruned(size: int = SIZE) -> tuple[Pushed, Server, NDArray[np.bool_]]:
    """A model, a server of FedSparsify whose state has zeros, and where it has none."""
    model = Pushed(size)
    server = starting_server(model, "fedsparsify-global")
    kept = np.arange(size) % 3 == 0
    return model, server_at(server, np.where(kept, server.state, np.float32(0))), kept


def by_hand(optimiser: str, lr: float, w: NDArray[np.float64], gradients: torch.Tensor) -> NDArray[np.float64]:
    """SGD with momentum, or Adam, in float64."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients.double().numpy(), 1):
        if optimiser == "adam":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w = w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            m = (0.9 if optimiser == "momentum" else 0.0) * m + g
            w = w - lr * m
    return w


MAKE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
}


class TestKeepSupport:
    """Zeros of the broadcast stay zero; all else moves as ever."""

    @pytest.mark.parametrize("optimiser", MAKE)
    @pytest.mark.parametrize("kind", [KeepSupport, HandOverWeights])
    def test_zeros_are_zero_at_every_step_and_the_others_move_as_the_optimiser_says(
        self, kind: type[KeepSupport], optimiser: str
    ) -> None:
        model, server, kept = pruned()
        start, gradients = server.state.astype(np.float64), torch.randn(STEPS, SIZE)
        broadcast = server.begin(1, ["a"]).broadcast("a")
        rule = kind(model, MAKE[optimiser](model.parameters()), broadcast, steps=STEPS)
        for taken, gradient in enumerate(gradients, 1):
            rule.zero_grad()
            model.pushed(gradient).backward()
            rule.step()
            w = model.w.detach().numpy()
            assert not w[~kept].any()
            expected = by_hand(optimiser, 0.05, start, gradients[:taken])
            assert np.abs(w - expected)[kept].max() <= UNIT * np.abs(expected).max()
        assert (np.abs(w - start)[kept] > 0).all()

    def test_the_frame_holds_the_differences_of_the_support_and_nothing_else(self) -> None:
        model, server, kept = pruned()
        before = server.state.copy()
        round_ = server.begin(1, ["a"])
        rule = attach(model, MAKE["momentum"](model.parameters()), round_.broadcast("a"), accept="any", steps=2)
        assert type(rule) is KeepSupport
        for _ in range(2):
            rule.zero_grad()
            model.pushed(torch.linspace(-1, 2, SIZE)).backward()
            rule.step()
        frame = rule.finish(weight=1)
        w = model.w.detach().numpy()
        assert not w[~kept].any()
        np.testing.assert_array_equal(values_of(frame), (w - before)[kept])
        round_.add("a", frame.to_bytes())
        after = round_.finish()
        assert not after[~kept].any()

    def test_pruned_weights_stay_pruned_where_the_gradients_were_clipped_or_missing(self) -> None:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(2, 2))
        server = starting_server(model, "fedsparsify-global")
        coded = server.layout.span(Group.CODED)
        state = server.state.copy()
        state[coded][::2] = 0
        server = server_at(server, state)
        zero = state[coded] == 0
        rule = attach(
            model,
            torch.optim.Adam(model.parameters(), lr=0.1),
            server.begin(1, ["a"]).broadcast("a"),
            accept="any",
            steps=3,
        )
        before = server.state.copy()
        for _ in range(3):
            x, y = batch()
            rule.zero_grad()
            F.cross_entropy(model[:3](x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            rule.step()
        rule.finish(weight=1)
        after = ModelLayout.of(model).read()
        assert not after[coded][zero].any()
        # Norms are dense: they train, zero or not.
        dense = server.layout.span(Group.DENSE)
        assert (after[dense][before[dense] == 0] != 0).any()

    def test_one_weight_that_is_left_still_trains(self) -> None:
        model, server, _ = pruned()
        server = server_at(server, np.where(np.arange(SIZE) == 7, np.float32(0.5), np.float32(0)))
        rule = attach(
            model, MAKE["sgd"](model.parameters()), server.begin(1, ["a"]).broadcast("a"), accept="any", steps=1
        )
        model.pushed(torch.ones(SIZE)).backward()
        rule.step()
        assert values_of(rule.finish(weight=1)).tolist() == pytest.approx([-0.05], rel=2.0**-20)


class TestHandOverWeights:
    """Weights for the coded part, differences for the rest."""

    def test_the_largest_weights_are_sent_as_they_are(self) -> None:
        model = Pushed(SIZE)
        # The last round of a schedule of four: a density of 1 - 0.8.
        server = starting_server(model, "fedsparsify-local", {"rounds": 4, "sparsity": 0.8})
        rule = attach(
            model, MAKE["sgd"](model.parameters()), server.begin(4, ["a"]).broadcast("a"), accept="any", steps=2
        )
        assert type(rule) is HandOverWeights
        for gradient in torch.randn(2, SIZE):
            rule.zero_grad()
            model.pushed(gradient).backward()
            rule.step()
        sent = decoded(rule.finish(weight=1), Group.CODED)
        w = model.w.detach().numpy()
        places = largest(w, round(0.2 * SIZE))
        assert np.flatnonzero(sent).tolist() == places
        np.testing.assert_array_equal(sent[places], w[places])

    def test_norms_and_statistics_travel_as_differences(self) -> None:
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        server = starting_server(model, "fedsparsify-local")
        before, (x, y) = server.state.copy(), batch()
        rule = attach(
            model, MAKE["sgd"](model.parameters()), server.begin(1, ["a"]).broadcast("a"), accept="any", steps=1
        )
        F.cross_entropy(model(x), y).backward()
        rule.step()
        frame = rule.finish(weight=1)
        after = ModelLayout.of(model).read()
        for group in (Group.DENSE, Group.STATS):
            span = server.layout.span(group)
            np.testing.assert_array_equal(decoded(frame, group), after[span] - before[span])
            assert not np.array_equal(after[span], before[span])

    def test_one_client_leaves_the_server_with_its_largest_weights(self) -> None:
        model = Pushed(SIZE)
        server = starting_server(model, "fedsparsify-local", {"rounds": 1, "sparsity": 0.9})
        round_ = server.begin(1, ["a"])
        rule = attach(model, MAKE["sgd"](model.parameters()), round_.broadcast("a"), accept="any", steps=1)
        model.pushed(torch.linspace(1, -2, SIZE)).backward()
        rule.step()
        round_.add("a", rule.finish(weight=1).to_bytes())
        w, state = model.w.detach().numpy(), round_.finish()
        places = largest(w, 3)
        assert np.flatnonzero(state).tolist() == places
        # One client of weight 1: the sum is rounded to multiples of 2^-21 (`Limits`).
        np.testing.assert_allclose(state[places], w[places], rtol=2.0**-23, atol=2.0**-22)


@pytest.mark.parametrize(
    "memory",
    [np.zeros(SIZE - 1, np.float32), np.zeros((1, SIZE), np.float32), np.zeros(SIZE, np.float64), np.float32(0)],
    ids=["short", "two axes", "float64", "a number"],
)
def test_a_memory_of_another_shape_or_type_is_refused(memory: NDArray[np.float32]) -> None:
    model = Pushed(SIZE)
    broadcast = starting_server(model, "topk-ef").begin(1, ["a"]).broadcast("a")
    with pytest.raises(ConfigError, match=rf"a memory is float32 of shape \({SIZE},\), got {memory.dtype}"):
        ErrorFeedback(model, MAKE["sgd"](model.parameters()), broadcast, steps=1, memory=memory)


def test_a_client_that_keeps_something_must_say_whether_this_is_its_first_round() -> None:
    model = Pushed(3)
    broadcast = starting_server(model, "topk-ef").begin(5, ["a"]).broadcast("a")
    with pytest.raises(ConfigError, match="pass memory=None in a client's first round"):
        attach(model, MAKE["sgd"](model.parameters()), broadcast, accept="any", steps=1)
