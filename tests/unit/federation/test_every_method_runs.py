"""Every row of the table of methods in a small federation: repeatable, resumable, and what clients keep."""

from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_federation import CLIENTS, OPTIONS, ROUNDS, federation, records, remembered, rule, run, small_model
from torch import nn

from fedmrn.errors import ConfigError
from fedmrn.federation.secrets import secret_of
from fedmrn.federation.simulation import RoundResult, simulate
from fedmrn.methods import METHODS as ALL
from fedmrn.methods import method
from fedmrn.server import Server
from fedmrn.server.rules import MeanMask
from fedmrn.torch import LocalRule, ModelLayout, evaluate, local_rule
from fedmrn.torch.internals import without_compiler
from fedmrn.wire.frame import Frame
from fedmrn.wire.layout import Group

every_method = pytest.mark.parametrize("name", ALL)
forgetful = [name for name, row in ALL.items() if not local_rule(row.local).remembers]


@cache
def whole(name: str) -> tuple[RoundResult, ...]:
    """A run without interruption; never changed."""
    return tuple(run(federation(name)))


def start(name: str) -> NDArray[np.float32]:
    view = ModelLayout.of(small_model())
    return Server.initial(view.layout, federation(name).scheme, view.read())


@every_method
def test_three_rounds_repeat_to_the_byte(name: str) -> None:
    torch.manual_seed(99)  # what was drawn before does not matter
    again = run(federation(name))
    assert records(again) == records(list(whole(name)))
    assert [r.round for r in again] == [1, 2, 3]
    states = [start(name), *(r.state for r in again)]
    assert len({s.tobytes() for s in states}) == 4  # every round moved it
    assert all(np.isfinite(s).all() for s in states)


@every_method
@pytest.mark.parametrize("done", [1, 2])
def test_a_run_that_goes_on_from_what_was_kept_ends_as_the_whole_one(name: str, done: int) -> None:
    results = list(whole(name))
    kept, last = remembered(results[:done]), results[done - 1]
    rest = run(federation(name), last.state, first=done + 1, memory=kept, carried=last.carried)
    assert records(rest) == records(results[done:])


@every_method
def test_every_round_is_counted_by_the_bytes_of_its_frames(name: str) -> None:
    for result in whole(name):
        assert result.up.keys() == result.down.keys()
        sample = Frame.from_bytes(result.sample)
        assert sample.method == ALL[name].id
        assert sample.round == result.round
        sections = len(sample.sections)
        assert sections == 4
        trained = ModelLayout.of(small_model()).layout.trainable
        assert result.bits_per_parameter == 8 * sum(result.up.values()) / (4 * trained)
        assert 0 <= result.accuracy <= 1
        assert np.isfinite([result.loss, result.train_loss]).all()


def test_no_two_methods_end_alike_but_those_that_differ_in_name_only() -> None:
    """Each row does something of its own: all final states differ. On a model this small no random code is shorter than
    the mask that it would replace, so that these rows send that mask: of uniform noise, the signed ones too."""
    ends = {name: whole(name)[-1].state.tobytes() for name in ALL}
    uniform = method("fedmrn-s").scheme({"scale": OPTIONS["scale"], "noise": "uniform"})
    assert ends.pop("fedmrn-mrc") == ends["fedmrn"]
    assert ends.pop("fedmrn-s-mrc") == run(federation("fedmrn-s", scheme=uniform))[-1].state.tobytes()
    assert len(set(ends.values())) == len(ends)


class TestMemory:
    """Clients of error feedback keep what was not sent; nobody else keeps anything."""

    NAME = "topk-ef"

    @pytest.mark.parametrize("name", forgetful)
    def test_other_methods_keep_nothing(self, name: str) -> None:
        assert all(result.memory == {} for result in whole(name))

    def test_those_who_took_part_keep_a_vector_and_no_others(self) -> None:
        coded = ModelLayout.of(small_model()).layout.span(Group.CODED).stop
        for result in whole(self.NAME):
            assert sorted(result.memory) == result.clients
            for kept in result.memory.values():
                assert kept.shape == (coded,)
                assert kept.dtype == np.float32
                assert 0 < np.count_nonzero(kept) < coded
        # Some client came twice, and some never: else the tests of resuming would say little.
        times = np.bincount([c for r in whole(self.NAME) for c in r.clients], minlength=CLIENTS)
        assert times.max() > 1
        assert len(remembered(list(whole(self.NAME)))) < CLIENTS

    @pytest.mark.parametrize("done", [1, 2])
    def test_without_its_memory_a_run_goes_another_way(self, done: int) -> None:
        results = list(whole(self.NAME))
        last = results[done - 1]
        rest = run(federation(self.NAME), last.state, first=done + 1, carried=last.carried)
        assert rest[-1].state.tobytes() != results[-1].state.tobytes()
        assert [r.clients for r in rest] == [r.clients for r in results[done:]]

    def test_each_client_gets_its_own_memory_as_old_as_its_last_round(self) -> None:
        seen: list[tuple[int, int, bytes | None]] = []
        setting = federation(self.NAME, rounds=6, local_epochs=1)
        clients = [c for number in range(1, 7) for c in setting.sampled(number)]
        given = iter(clients)

        def noted(model: nn.Module, optimizer: torch.optim.Optimizer, b: Frame, **options: Any) -> LocalRule:
            memory = options["memory"]
            seen.append((b.round, next(given), None if memory is None else memory.tobytes()))
            return rule(model, optimizer, b, **options)

        results = run(federation(self.NAME, rounds=6, local_epochs=1, rule=noted))
        latest: dict[int, bytes] = {}
        for result in results:
            for number, client, memory in seen:
                if number == result.round:
                    assert memory == latest.get(client)
            latest |= {c: kept.tobytes() for c, kept in result.memory.items()}
        assert len(seen) == len(clients)
        assert sum(memory is None for _, _, memory in seen) == len(set(clients))

    def test_the_memory_that_is_passed_in_is_not_changed(self) -> None:
        results = list(whole(self.NAME))
        kept = remembered(results[:1])
        before = {c: v.tobytes() for c, v in kept.items()}
        run(federation(self.NAME), results[0].state, first=2, memory=kept)
        assert {c: v.tobytes() for c, v in kept.items()} == before

    def test_memory_of_another_model_is_refused(self) -> None:
        kept = dict.fromkeys(range(CLIENTS), np.zeros(3, np.float32))
        with pytest.raises(ConfigError, match="a memory is float32 of shape"):
            run(federation(self.NAME), memory=kept)

    def test_what_is_kept_is_what_was_wanted_less_what_was_sent(self) -> None:
        """A first round of plain Top-k sends the same bytes; its clients' memory is the rest of FedAvg's update."""
        (feedback,), (plain,), (free,) = (
            run(federation(name, rounds=1, clients_per_round=1)) for name in (self.NAME, "topk", "fedavg")
        )

        def coded(result: RoundResult) -> bytes:
            return bytes(Frame.from_bytes(result.sample).sections[0].body)

        assert coded(feedback) == coded(plain)
        (kept,) = feedback.memory.values()
        update = np.frombuffer(coded(free), "<f4")
        unsent = kept != 0
        np.testing.assert_array_equal(kept[unsent], update[unsent])
        assert (~unsent).sum() == 8  # 3 % of 267


class TestModelsOfAState:
    """Results are those of the models that the state stands for."""

    def test_fedpm_averages_over_several_sampled_masks(self) -> None:
        setting = federation("fedpm")
        scheme = setting.scheme
        assert isinstance(scheme.rule, MeanMask)
        assert scheme.rule.samples == 3
        view = ModelLayout.of(model := small_model())
        for result in whole("fedpm"):
            scores = []
            for values in scheme.rule.models(view.layout, result.state, result.round):
                view.write(values)
                scores.append(evaluate(model, setting.test_x, setting.test_y))
            assert len(scores) == 3
            assert len({loss for _, loss in scores}) == 3
            assert result.accuracy == fmean(accuracy for accuracy, _ in scores)
            assert result.loss == fmean(loss for _, loss in scores)

    def test_fedpms_masks_are_drawn_anew_each_round_and_its_state_holds_probabilities(self) -> None:
        setting, layout = federation("fedpm"), ModelLayout.of(small_model()).layout
        coded = layout.span(Group.CODED)
        state = whole("fedpm")[0].state
        one, two = (next(iter(setting.scheme.rule.models(layout, state, number))) for number in (1, 2))
        assert not np.array_equal(one[coded], two[coded])
        np.testing.assert_array_equal(one[coded.stop :], state[coded.stop :])
        for result in whole("fedpm"):
            assert (result.state[coded] >= np.float32(0.01)).all()
            assert (result.state[coded] <= np.float32(0.99) + 2.0**-24).all()

    @pytest.mark.parametrize("samples", [1, 2])
    def test_the_number_of_samples_is_an_option(self, samples: int) -> None:
        scheme = ALL["fedpm"].scheme({"samples": samples})
        (more, *_), (less, *_) = whole("fedpm"), run(federation("fedpm", rounds=1, scheme=scheme))
        assert more.state.tobytes() == less.state.tobytes()
        assert more.loss != less.loss

    def test_a_server_of_another_method_has_one_model_which_is_its_state(self) -> None:
        for name in ("fedavg", "topk-ef", "fedsparsify-global"):
            view, setting = ModelLayout.of(small_model()), federation(name)
            server = Server(view.layout, setting.scheme, start(name), secret_of(1), run=bytes(16))
            (only,) = server.models(1)
            np.testing.assert_array_equal(only, server.state)


class TestSettings:
    """What a federation says of local training reaches it."""

    @pytest.mark.parametrize(
        ("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
    )
    def test_the_optimiser_is_the_one_asked_for_at_its_rate_and_decay(
        self, optimizer: str, kind: type[torch.optim.Optimizer]
    ) -> None:
        seen: list[torch.optim.Optimizer] = []

        def noted(model: nn.Module, inner: torch.optim.Optimizer, b: Frame, **options: Any) -> LocalRule:
            seen.append(inner)
            return rule(model, inner, b, **options)

        run(federation("fedavg", optimizer=optimizer, rule=noted, rounds=1, lr=0.0625, weight_decay=0.5))
        assert len(set(map(id, seen))) == 4  # a client's own: no moments carry over
        for inner in seen:
            assert type(inner) is without_compiler(kind)
            assert inner.param_groups[0]["lr"] == 0.0625
            assert inner.param_groups[0]["weight_decay"] == 0.5

    def test_adam_is_another_run_than_sgd(self) -> None:
        adam = run(federation("fedavg", optimizer="adam", rounds=1))
        assert adam[0].state.tobytes() != whole("fedavg")[0].state.tobytes()

    def test_options_of_a_local_rule_reach_clients_by_the_broadcast(self) -> None:
        (other, *_) = run(federation("fedbat", rounds=1, scheme=method("fedbat").scheme({"warmup": 1.0})))
        (usual, *_) = whole("fedbat")
        assert other.state.tobytes() != usual.state.tobytes()
        assert other.down["header"] == usual.down["header"] + 4 * (20 + 1 + 6 + 8)
        (same, *_) = run(federation("fedbat", rounds=1, scheme=method("fedbat").scheme({"warmup": 0.5, "rho": 6.0})))
        assert same.state.tobytes() == usual.state.tobytes()

    def test_an_ablation_that_is_told_is_the_row_of_the_table(self) -> None:
        """fedmrn with progressive=False sends what fedmrn-no-pm sends, but for the method's number."""
        for row, option in (("fedmrn-no-pm", "progressive"), ("fedmrn-no-sm", "stochastic")):
            scheme = replace(federation("fedmrn").scheme, terms={option: False})
            told = run(federation("fedmrn", scheme=scheme))
            for mine, theirs in zip(told, whole(row), strict=True):
                assert mine.state.tobytes() == theirs.state.tobytes()
            assert told[-1].state.tobytes() != whole("fedmrn")[-1].state.tobytes()


class TestSparsity:
    """FedSparsify's state has as many zeros as the schedule says."""

    @pytest.mark.parametrize("name", ["fedsparsify-global", "fedsparsify-local"])
    def test_zeros_follow_the_schedule_and_pruned_weights_stay_pruned(self, name: str) -> None:
        coded = ModelLayout.of(small_model()).layout.span(Group.CODED)
        pruned = np.zeros(coded.stop, bool)
        assert (start(name)[coded] != 0).all()
        for result in whole(name):
            zeros = result.state[coded] == 0
            share = 0.97 * (1 - (1 - result.round / ROUNDS) ** 3)
            kept = round((1 - share) * coded.stop)
            if name == "fedsparsify-global":
                assert (~zeros).sum() == kept
                assert zeros[pruned].all()
                pruned = zeros
            else:
                # At least half of four clients must keep a weight: at most twice as many as each of them keeps.
                assert 0 < (~zeros).sum() <= 2 * kept

    def test_a_global_run_sends_fewer_bytes_from_round_to_round(self) -> None:
        sent = [result.up["coded"] for result in whole("fedsparsify-global")]
        coded = ModelLayout.of(small_model()).layout.span(Group.CODED).stop
        assert sent[0] == 4 * 4 * coded
        assert sent == sorted(set(sent), reverse=True)
        # What a round sends is the support that the round before left.
        for after, result in zip(sent[1:], whole("fedsparsify-global"), strict=False):
            assert after == 4 * 4 * np.count_nonzero(result.state[:coded])


def test_a_plain_method_starts_from_the_model_as_it_is() -> None:
    view = ModelLayout.of(model := small_model())
    (result, *_) = simulate(federation("fedavg", rounds=1), model, view.read())
    assert result.state.tobytes() == whole("fedavg")[0].state.tobytes()
