"""A simulation in this process: repeatable, resumable, and every byte counted."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from side_clipping import clipped_side
from small_federation import CLIENTS, METHODS, SIZES, federation, record, records, rule, run, small_model
from torch import Tensor, nn

from fedmrn.errors import ConfigError, FrameError
from fedmrn.federation.secrets import run_of, secret_of
from fedmrn.federation.simulation import simulate
from fedmrn.methods import method
from fedmrn.numerics.rng import Stream
from fedmrn.server import Round, Server
from fedmrn.torch import LocalRule, ModelLayout, Selection, evaluate
from fedmrn.wire.frame import Frame, Kind
from fedmrn.wire.layout import Group
from fedmrn.wire.plain import plain

every_method = pytest.mark.parametrize("name", METHODS)


class Tape:
    """What went over the wire: each client's broadcast and update, in the order of the rounds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.down: list[tuple[int, int, bytes]] = []
        self.up: list[tuple[int, int, bytes]] = []
        broadcast, add = Round.broadcast_frame, Round.add

        def noted_broadcast(round_: Round, client: int) -> Frame:
            frame = broadcast(round_, client)
            self.down.append((round_.number, client, frame.to_bytes()))
            return frame

        def noted_add(round_: Round, client: int, data: bytes) -> Frame:
            assert isinstance(data, bytes)
            self.up.append((round_.number, client, data))
            return add(round_, client, data)

        monkeypatch.setattr(Round, "broadcast_frame", noted_broadcast)
        monkeypatch.setattr(Round, "add", noted_add)


class TestRepeatable:
    """A round is a function of the seed, its number and the state."""

    @every_method
    def test_the_same_seed_gives_the_same_records_and_the_same_bytes(self, name: str) -> None:
        torch.manual_seed(5)
        first = records(run(federation(name)))
        torch.manual_seed(6)  # what the caller drew before does not matter
        assert records(run(federation(name))) == first

    @every_method
    def test_another_seed_gives_another_run(self, name: str) -> None:
        one, two = (run(federation(name, seed=seed)) for seed in (1, 2))
        assert one[0].clients != two[0].clients
        assert one[0].state.tobytes() != two[0].state.tobytes()

    @every_method
    @pytest.mark.parametrize("first", [2, 3])
    def test_a_run_goes_on_from_a_round_as_if_it_had_never_stopped(self, name: str, first: int) -> None:
        whole = run(federation(name))
        rest = run(federation(name), whole[first - 2].state, first=first)
        assert records(rest) == records(whole[first - 1 :])

    def test_a_cumulative_average_in_batch_norm_does_not_carry_over_between_clients(self) -> None:
        """With momentum None the running mean depends on a counter that is not sent: each client starts at zero."""

        def model() -> nn.Module:
            built = small_model()
            for module in built.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = None
            return built

        whole = list(simulate(federation(), model(), ModelLayout.of(model()).read()))
        rest = list(simulate(federation(), model(), whole[0].state, first=2))
        assert rest[-1].state.tobytes() == whole[-1].state.tobytes()

    def test_nothing_is_run_when_all_rounds_are_done(self) -> None:
        assert run(federation(), first=4) == []

    def test_what_the_model_held_before_does_not_matter(self) -> None:
        model = small_model()
        state = ModelLayout.of(model).read()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(3.0)
        assert records(list(simulate(federation(), model, state))) == records(run(federation()))

    def test_the_callers_random_state_is_left_alone(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        run(federation(rounds=1))
        assert torch.equal(torch.rand(3), expected)

    def test_dropout_is_part_of_the_seed(self) -> None:
        def states(before: int, dropout: float = 0.5) -> list[bytes]:
            torch.manual_seed(1)
            model = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Dropout(dropout), nn.Linear(8, 3))
            torch.manual_seed(before)
            return [r.state.tobytes() for r in simulate(federation(), model, ModelLayout.of(model).read())]

        assert states(before=1) == states(before=2)
        assert states(before=1) != states(before=1, dropout=0.0)

    def test_the_state_that_one_starts_from_is_not_changed(self) -> None:
        state = ModelLayout.of(small_model()).read()
        kept = state.copy()
        results = run(federation(), state)
        np.testing.assert_array_equal(state, kept)
        assert not np.array_equal(results[0].state, results[1].state)

    def test_the_secret_is_sixteen_bytes_and_the_seeds_own(self) -> None:
        assert len(secret_of(1)) == 16
        assert len({secret_of(s) for s in range(100)} | {run_of(s) for s in range(100)}) == 200


class TestSampling:
    """Who takes part."""

    def test_clients_are_distinct_in_range_and_in_order(self) -> None:
        for number in range(1, 200):
            chosen = federation().sampled(number)
            assert len(set(chosen)) == len(chosen) == 4
            assert chosen == sorted(chosen)
            assert 0 <= chosen[0] <= chosen[-1] < CLIENTS

    def test_every_client_comes_as_often_as_any_other(self) -> None:
        rounds = 2000
        counts = np.bincount(np.concatenate([federation().sampled(r) for r in range(rounds)]), minlength=CLIENTS)
        # Half of the clients a round: binomial with p = 1/2; five standard deviations.
        assert np.abs(counts - rounds / 2).max() <= 5 * np.sqrt(rounds / 4)

    def test_the_records_say_who_took_part(self) -> None:
        setting = federation()
        for result in run(setting):
            assert result.clients == setting.sampled(result.round)
        assert len({tuple(setting.sampled(r)) for r in range(1, 30)}) > 10

    @pytest.mark.parametrize("many", [0, -1, CLIENTS + 1])
    def test_too_many_or_no_clients_a_round_are_refused(self, many: int) -> None:
        with pytest.raises(ConfigError, match=f"clients_per_round is {many}, but there are 8 clients: choose 1 to 8"):
            federation(clients_per_round=many)

    def test_all_clients_may_take_part(self) -> None:
        assert federation(clients_per_round=CLIENTS).sampled(1) == list(range(CLIENTS))


class TestBytes:
    """Sizes are lengths of frames."""

    @every_method
    def test_the_account_adds_up_to_what_was_sent(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        tape = Tape(monkeypatch)
        setting = federation(name)
        results = run(setting)
        layout = ModelLayout.of(small_model()).layout
        for result in results:
            up = [data for number, _, data in tape.up if number == result.round]
            down = [data for number, _, data in tape.down if number == result.round]
            assert len(up) == len(down) == 4
            assert sum(result.up.values()) == sum(map(len, up))
            assert sum(result.down.values()) == sum(map(len, down))
            trained = 2 * 4 * 9 + 8 + 64 * 3 + 3
            assert layout.trainable == trained
            assert result.bits_per_parameter == 8 * sum(map(len, up)) / (4 * trained)
        coded = layout.span(Group.CODED).stop
        one = -(-coded // 8) if name != "fedavg" else 4 * coded
        assert results[0].up["coded"] == 4 * one
        assert results[0].up["dense"] == 4 * 4 * 8
        assert results[0].up["stats"] == results[0].up["variance"] == 4 * 4 * 4
        assert results[0].down["coded"] == 4 * 4 * coded

    def test_each_client_is_counted_by_its_own_frames_as_they_travelled_and_raw(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tape = Tape(monkeypatch)
        options = {"scale": 0.02, "coding": "entropy"}
        coded = run(federation(scheme=method("fedmrn").scheme(options, side="float16", down="eden4")))
        monkeypatch.undo()
        raw = run(federation())
        for result, other in zip(coded, raw, strict=True):
            assert len(result.exchanges) == len(result.clients) == 4
            up = [(c, data) for number, c, data in tape.up if number == result.round]
            assert [c for c, _ in up] == result.clients
            down = [data for number, _, data in tape.down if number == result.round]
            for exchange, (_, update), broadcast in zip(result.exchanges, up, down, strict=True):
                assert exchange.up == Frame.from_bytes(update).account()
                assert exchange.down == Frame.from_bytes(broadcast).account()
                for account, data in ((exchange.raw_up, update), (exchange.raw_down, broadcast)):
                    bare = plain(Frame.from_bytes(data)).to_bytes()
                    assert account == Frame.from_bytes(bare).account()
                    assert sum(account.values()) == len(bare)
            assert result.up == {p: sum(e.up[p] for e in result.exchanges) for p in result.exchanges[0].up}
            assert result.down == {p: sum(e.down[p] for e in result.exchanges) for p in result.exchanges[0].down}
            # Raw frames have one length each, whatever they say: those of a run that codes nothing.
            assert [e.raw_up for e in result.exchanges] == [e.up for e in other.exchanges]
            assert [e.raw_down for e in result.exchanges] == [e.down for e in other.exchanges]
            assert other.exchanges == [replace(e, raw_up=e.up, raw_down=e.down) for e in other.exchanges]
            assert sum(result.down.values()) < sum(other.down.values()) / 2
            assert result.up["dense"] == other.up["dense"] / 2

    def test_every_client_of_a_round_has_noise_of_its_own_and_the_same_state(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tape = Tape(monkeypatch)
        run(federation())
        frames = [Frame.from_bytes(data, kind=Kind.BROADCAST) for _, _, data in tape.down]
        assert len({f.noise_key for f in frames}) == len(frames) == 12
        bodies = [tuple(bytes(s.body) for s in f.sections) for f in frames]
        assert len(set(bodies)) == 3
        updates = [Frame.from_bytes(data, kind=Kind.UPDATE) for _, _, data in tape.up]
        assert [f.noise_key for f in updates] == [f.noise_key for f in frames]
        assert [f.round for f in updates] == [1] * 4 + [2] * 4 + [3] * 4

    def test_clients_may_share_the_noise_of_a_round(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tape = Tape(monkeypatch)
        results = run(federation(scheme=method("fedmrn").scheme({"scale": 0.02, "noise_key": "round"})))
        frames = [Frame.from_bytes(data, kind=Kind.UPDATE) for _, _, data in tape.up]
        keys = [f.noise_key for f in frames]
        assert [len(set(keys[i : i + 4])) for i in (0, 4, 8)] == [1, 1, 1]
        assert len(set(keys)) == 3
        assert len({bytes(f.sections[0].body) for f in frames}) == 12
        own = run(federation())
        assert [r.clients for r in results] == [r.clients for r in own]
        assert [r.up for r in results] == [r.up for r in own]
        assert results[0].state.tobytes() != own[0].state.tobytes()

    def test_what_the_clients_sent_and_nothing_else_makes_the_next_state(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The frames of a run, given to a server of one's own in any order, with any number of threads."""
        tape = Tape(monkeypatch)
        setting = federation()
        model = small_model()
        view = ModelLayout.of(model)
        state = view.read()
        results = list(simulate(setting, model, state))
        monkeypatch.undo()
        for threads in (1, 2):
            secret, name = secret_of(setting.seed), run_of(setting.seed)
            server = Server(view.layout, setting.scheme, state, secret, run=name, threads=threads)
            for result in results:
                round_ = server.begin(result.round, result.clients)
                mine = [(client, data) for number, client, data in tape.up if number == result.round]
                for client, data in reversed(mine):
                    round_.add(client, data)
                assert round_.finish().tobytes() == result.state.tobytes()


class TestWeights:
    """By samples, or by batches."""

    def test_frames_carry_samples_or_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for by_batches in (False, True):
            with monkeypatch.context() as patch:
                tape = Tape(patch)
                run(federation(rounds=1, by_batches=by_batches))
            for _, client, data in tape.up:
                assert Frame.from_bytes(data).weight == (-(-SIZES[client] // 4) if by_batches else SIZES[client])

    @pytest.mark.parametrize("by_batches", [False, True])
    def test_the_state_moves_by_the_mean_with_these_weights(
        self, by_batches: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tape = Tape(monkeypatch)
        before = ModelLayout.of(small_model()).read().astype(np.float64)
        # Statistics of training's last batches: their changes are small, so that rounding is of the state's size.
        (result,) = run(federation("fedavg", rounds=1, by_batches=by_batches, statistics=0))
        weights = [-(-SIZES[c] // 4) if by_batches else SIZES[c] for c in result.clients]
        assert max(weights) <= 4 * sorted(weights)[1]  # all count in full
        updates = np.array(
            [
                np.concatenate([np.frombuffer(s.body, "<f4") for s in Frame.from_bytes(d).sections])
                for _, _, d in tape.up
            ],
            np.float64,
        )
        layout = ModelLayout.of(small_model()).layout
        # The bounds, the mean and the new state are rounded to float32, none of them above the largest of the state.
        mean = np.average(clipped_side(layout, updates), axis=0, weights=weights)
        variances = layout.span(Group.VARIANCE)
        expected = before + mean
        expected[variances] = before[variances] * np.exp(mean[variances])
        assert np.abs(updates).max() < np.abs(expected).max() / 2
        assert np.abs(result.state - expected).max() <= 3 * 2.0**-24 * np.abs(expected).max()

    def test_the_two_ways_give_different_models(self) -> None:
        samples, batches = (run(federation("fedavg", rounds=1, by_batches=b))[0] for b in (False, True))
        assert samples.clients == batches.clients
        assert np.abs(samples.state - batches.state).max() > 1e-4


class TestRecords:
    """What a round says about itself."""

    @every_method
    def test_accuracy_and_loss_are_those_of_the_new_state(self, name: str) -> None:
        setting = federation(name)
        for result in run(setting):
            model = small_model()
            ModelLayout.of(model).write(result.state)
            assert (result.accuracy, result.loss) == evaluate(model, setting.test_x, setting.test_y)
            assert result.seconds > 0

    @pytest.mark.parametrize("name", [*METHODS, "fedpm"])
    @pytest.mark.parametrize("calibrate", ["never", "every"])
    def test_rounds_that_are_not_tested_change_nothing(self, name: str, calibrate: str) -> None:
        whole, some = (run(federation(name, calibrate=calibrate, rounds=5, test_every=n)) for n in (1, 3))
        assert [result.round for result in some if result.accuracy is not None] == [3, 5]
        for mine, other in zip(some, whole, strict=True):
            if mine.accuracy is None:
                assert mine.loss is None
                before = None if other.calibrated is None else replace(other.calibrated, accuracy=None, loss=None)
                other = replace(other, accuracy=None, loss=None, calibrated=before)  # noqa: PLW2901
            assert record(mine) == record(other)

    def test_a_test_every_no_rounds_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="test_every is a number of rounds"):
            federation(test_every=0)

    def test_the_model_is_left_at_the_last_state(self) -> None:
        model = small_model()
        view = ModelLayout.of(model)
        for result in simulate(federation(), model, view.read()):
            np.testing.assert_array_equal(view.read(), result.state)

    @every_method
    def test_learning(self, name: str) -> None:
        results = run(federation(name, rounds=15, clients_per_round=6, lr=0.1))
        assert results[-1].loss < 0.8 * results[0].loss
        assert results[-1].train_loss < results[0].train_loss
        # Three classes; 60 test samples have a standard error of 0.061 at 1/3.
        assert results[-1].accuracy > 0.6

    def test_progress_is_told_client_by_client(self) -> None:
        places: list[int] = []
        model = small_model()
        for result in simulate(federation(), model, ModelLayout.of(model).read(), on_client=places.append):
            assert places == [1, 2, 3, 4] * result.round

    def test_augmentation_sees_the_clients_own_randomness(self) -> None:
        keys: list[int] = []

        def note(x: Tensor, stream: Stream, start: int) -> Tensor:
            keys.append(stream.key)
            return x

        setting = federation(augment=note)
        assert records(run(setting)) == records(run(federation()))
        assert len(set(keys)) == 12

    def test_steps_and_keys_reach_the_rule(self) -> None:
        seen: list[tuple[int, int]] = []

        def noted(
            model: nn.Module, optimizer: torch.optim.Optimizer, b: Frame, *, steps: int, sampling_key: int, memory: None
        ) -> LocalRule:
            seen.append((steps, sampling_key))
            return rule(model, optimizer, b, steps=steps, sampling_key=sampling_key, memory=memory)

        results = run(federation(rule=noted))
        clients = [c for r in results for c in r.clients]
        assert [steps for steps, _ in seen] == [2 * -(-SIZES[c] // 4) for c in clients]
        assert len({key for _, key in seen}) == 12

    def test_a_client_that_sends_something_else_stops_the_run_with_its_error(self) -> None:
        def spoiled(model: nn.Module, optimizer: torch.optim.Optimizer, b: Frame, **options: Any) -> LocalRule:
            made = rule(model, optimizer, b, **options)
            frame = made.broadcast
            made.broadcast = Frame(
                frame.kind, frame.method, frame.round, frame.noise_key ^ 1, frame.layout_digest, 0, frame.sections
            )
            return made

        with pytest.raises(FrameError, match="noise key"):
            run(federation(rule=spoiled))


class TestThreads:
    """The number of threads: nothing of ours depends on it, the framework's arithmetic may."""

    @pytest.mark.parametrize("name", METHODS[1:])
    def test_masks_and_noise_do_not_depend_on_the_frameworks_threads(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Given the same u: a rate of zero leaves u at zero whatever the gradient is."""
        sent = []
        for threads in (1, 2):
            with monkeypatch.context() as patch:
                tape = Tape(patch)
                torch.set_num_threads(threads)
                run(federation(name, rounds=1, lr=0.0, local_epochs=1, clients_per_round=2))
            frames = [Frame.from_bytes(data) for _, _, data in tape.up]
            sent.append([bytes(f.sections[0].body) for f in frames])
        assert sent[0] == sent[1]
        assert any(any(body) for body in sent[0]) is (name == "fedmrn-s")

    @every_method
    def test_how_far_the_frameworks_arithmetic_goes(
        self, name: str, record_property: Callable[[str, float], None]
    ) -> None:
        """One round with one and with two threads, measured; clients and sizes are the same anyway.

        The framework may add in another order: gradients then differ in their last bits, 2^-24 of their size for
        each addition, and a dozen small steps do not make much of it: one part in 10^5 bounds dense values. A masked
        coordinate is unchanged unless its draw lies within that of its threshold, so that hardly one in a thousand
        moves, and what it moves by is at most the distance of the codewords. A mask that differs in training moves
        the gradients of one step, at the rate of 0.05, which is what the last line leaves room for.
        """
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results += run(federation(name, rounds=1, clients_per_round=2, local_epochs=1))
        one, two = results
        assert (one.clients, one.up, one.down) == (two.clients, two.up, two.down)
        coded = ModelLayout.of(small_model()).layout.span(Group.CODED)
        apart = np.abs(one.state.astype(np.float64) - two.state)
        record_property("largest difference", float(apart.max()))
        print(f"{name}: a round's state with 1 and 2 threads differs by at most {apart.max():.3g}")  # noqa: T201
        if name == "fedavg":
            assert apart.max() <= 1e-5 * np.abs(one.state).max()
        else:
            moved = int((apart[coded] > 1e-6).sum())
            assert moved <= max(1, coded.stop // 1000) * 2
            assert apart[coded].max() <= (0.02 if name == "fedmrn" else 0.04)
            assert apart[coded.stop :].max() <= 1e-5 * np.abs(one.state).max() + 0.05 * moved


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="optimizer 'adm' does not exist; did you mean 'adam'"):
        federation(optimizer="adm")


class Moving(nn.Module):
    """A buffer and a frozen layer that each forward changes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_model()
        self.teacher = nn.Linear(1, 1, bias=False).requires_grad_(False)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
            with torch.no_grad():
                self.teacher.weight += 1
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("field", ["statistics", "local"])
def test_a_federation_with_a_choice_of_tensors(field: str) -> None:
    """Chosen as statistics they are averaged over clients; left local, each client starts from those of the model."""
    names, model = ["seen", "teacher.weight"], Moving()
    with torch.no_grad():
        model.teacher.weight.fill_(5)
    choose = Selection(**{field: names})
    setting = federation("fedavg", rounds=2, choose=choose)
    view = ModelLayout.of(model, choose)
    assert all((name in view.layout.slices) == (field == "statistics") for name in names)
    start = []
    forward = model.forward

    def noted(x: Tensor) -> Tensor:
        if model.training:
            start.append((float(model.seen), float(model.teacher.weight)))
        return forward(x)

    model.forward = noted  # type: ignore[method-assign]
    *_, last = simulate(setting, model, view.read())
    if field == "local":
        assert start.count((0, 5)) == 2 * setting.clients_per_round
        return
    seen, teacher = (float(last.state[view.layout.slices[name]][0]) for name in names)
    assert seen >= 2  # a step or more a round
    assert teacher >= 5 + 2
