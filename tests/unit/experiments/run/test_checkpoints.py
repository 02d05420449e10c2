"""Checkpoints: state and memory come back to the bit, a stop at any moment loses nothing, damaged files are named."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_federation import federation, records, remembered, run, small_model

from fedmrn.codecs import EncodeKeys, Raw
from fedmrn.errors import RunError
from fedmrn.experiments.run import checkpoint, vectors
from fedmrn.experiments.run.checkpoint import save_checkpoint, tidy
from fedmrn.federation.setting import Memory
from fedmrn.federation.simulation import RoundResult
from fedmrn.methods import METHODS
from fedmrn.server import saved as saved_files
from fedmrn.server.saved import saved_round
from fedmrn.torch import ModelLayout
from fedmrn.wire.frame import Frame, Kind, Role, Section
from fedmrn.wire.layout import Group, Layout, TensorSpec

LAYOUT = Layout.of(
    [
        TensorSpec("w", (4, 3), Group.CODED),
        TensorSpec("b", (2,), Group.CODED),
        TensorSpec("scale", (3,), Group.DENSE),
        TensorSpec("mean", (3,), Group.STATS),
    ]
)
CODED, METHOD = 14, 15
SCHEME = METHODS["topk-ef"].scheme()
BLANK = RoundResult(
    round=1,
    accuracy=0.0,
    loss=0.0,
    train_loss=0.0,
    exchanges=[],
    bits_per_parameter=0.0,
    clients=[],
    seconds=0.0,
    state=np.zeros(LAYOUT.size, np.float32),
    sample=b"",
)


def result(number: int, *clients: int) -> RoundResult:
    """A round after which these clients keep something; all values are the round's own."""
    generator = np.random.default_rng(number)
    memory = {c: generator.normal(size=CODED).astype(np.float32) for c in clients}
    state = generator.normal(size=LAYOUT.size).astype(np.float32)
    return replace(BLANK, round=number, clients=list(clients), state=state, memory=memory)


def store(folder: Path, *results: RoundResult) -> None:
    for each in results:
        save_checkpoint(folder, LAYOUT, METHOD, 1, each)


def restore(
    folder: Path, recorded: int, layout: Layout, taken_part: Callable[[int], Mapping[int, int]] = lambda _: {}
) -> tuple[int, NDArray[np.float32] | None, Memory]:
    found, memory = checkpoint.restore(folder, recorded, layout, SCHEME, taken_part)
    return (0, None, memory) if found is None else (found.round, found.state, memory)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "memory").iterdir())


def assert_restored(folder: Path, *results: RoundResult) -> None:
    """The state of the last of these rounds and what their clients keep come back to the bit."""
    number, state, memory = restore(folder, results[-1].round, LAYOUT)
    assert number == results[-1].round
    assert state is not None
    assert state.dtype == np.float32
    assert state.tobytes() == results[-1].state.tobytes()
    expected: Memory = {}
    for each in results:
        expected |= each.memory
    assert memory.keys() == expected.keys()
    for client, kept in expected.items():
        assert memory[client].dtype == np.float32
        assert memory[client].tobytes() == kept.tobytes()


class TestRoundTrip:
    """What is saved comes back."""

    def test_a_folder_without_a_checkpoint_is_the_start_of_a_run(self, tmp_path: Path) -> None:
        assert saved_round(tmp_path) == 0
        assert restore(tmp_path, 0, LAYOUT) == (0, None, {})

    def test_state_and_memory_come_back_to_the_bit(self, tmp_path: Path) -> None:
        rounds = [result(1, 0, 7), result(2, 7, 12), result(3, 1, 12)]
        for done in (1, 2, 3):
            store(tmp_path, rounds[done - 1])
            assert saved_round(tmp_path) == done
            assert_restored(tmp_path, *rounds[:done])

    def test_special_values_survive(self, tmp_path: Path) -> None:
        values = np.array([-0.0, 0.0, 2.0**-149, -(2.0**-126), 3e38, *range(CODED - 5)], np.float32)
        state = np.resize(values, LAYOUT.size)
        each = replace(result(1), state=state, memory={3: values})
        store(tmp_path, each)
        assert_restored(tmp_path, each)

    def test_methods_whose_clients_keep_nothing_have_one_file(self, tmp_path: Path) -> None:
        store(tmp_path, result(1))
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.bin"]
        assert_restored(tmp_path, result(1))

    def test_the_files_of_a_client_are_frames_with_its_number_round_and_method(self, tmp_path: Path) -> None:
        store(tmp_path, result(4, 31))
        frame = Frame.from_bytes((tmp_path / "memory" / "31-4.bin").read_bytes(), kind=Kind.UPDATE)
        assert (frame.method, frame.round, frame.noise_key) == (METHOD, 4, 31)
        assert frame.layout_digest == LAYOUT.digest
        saved = Frame.from_bytes((tmp_path / "checkpoint.bin").read_bytes(), kind=Kind.SAVED)
        assert (saved.method, saved.round) == (METHOD, 4)

    def test_more_rounds_recorded_than_saved_are_taken_fewer_are_refused(self, tmp_path: Path) -> None:
        store(tmp_path, result(2, 1))
        for recorded in (2, 3, 9):
            assert restore(tmp_path, recorded, LAYOUT)[0] == 2
        for recorded in (0, 1):
            with pytest.raises(RunError, match=r"rounds\.jsonl lost rounds before 2"):
                restore(tmp_path, recorded, LAYOUT)


class TestFiles:
    """Which files there are after each round."""

    def test_older_files_of_a_rounds_clients_are_deleted_and_no_others(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1, 2), result(2, 2, 3))
        assert names(tmp_path) == ["1-1.bin", "2-2.bin", "3-2.bin"]
        store(tmp_path, result(3, 1, 3))
        assert names(tmp_path) == ["1-3.bin", "2-2.bin", "3-3.bin"]

    def test_clients_whose_numbers_begin_alike_are_told_apart(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1, 11), result(11, 1))
        assert names(tmp_path) == ["1-11.bin", "11-1.bin"]
        assert_restored(tmp_path, result(1, 1, 11), result(11, 1))

    def test_rounds_are_compared_as_numbers(self, tmp_path: Path) -> None:
        """A folder in which nothing was deleted: of 9 and 10 the newer is 10."""
        store(tmp_path, result(9, 4))
        kept = (tmp_path / "memory" / "4-9.bin").read_bytes()
        store(tmp_path, result(10, 4))
        (tmp_path / "memory" / "4-9.bin").write_bytes(kept)
        assert_restored(tmp_path, result(10, 4))

    def test_files_with_other_names_are_not_read_and_not_deleted(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1))
        others = [
            "notes.txt",
            "1.bin",
            "x-1.bin",
            "1-1.bin.part",
            "1-1-1.bin",
            "-1-1.bin",
            "1-0x1.bin",
            "a1-1.bin",
            "1-1.bin~",
        ]
        for other in others:
            (tmp_path / "memory" / other).write_bytes(b"not a frame")
        assert_restored(tmp_path, result(1, 1))
        store(tmp_path, result(2, 1))
        assert names(tmp_path) == sorted([*others, "1-2.bin"])
        assert_restored(tmp_path, result(2, 1))


class StoppedError(Exception):
    """The process ended here."""


class TestStops:
    """A run that stops at any moment of `save_checkpoint` goes on from the last checkpoint."""

    @staticmethod
    def stop_before(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        write = vectors.write_atomic

        def stopping(path: Path, data: bytes, *, private: bool = False) -> None:
            if path.name == name:
                raise StoppedError
            write(path, data, private=private)

        for module in (saved_files, vectors):
            monkeypatch.setattr(module, "write_atomic", stopping)

    @pytest.mark.parametrize("file", ["2-2.bin", "3-2.bin", "checkpoint.bin"])
    def test_before_a_file_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
        first, second = result(1, 1, 2), result(2, 2, 3)
        store(tmp_path, first)
        with monkeypatch.context() as patch:
            self.stop_before(patch, file)
            with pytest.raises(StoppedError):
                store(tmp_path, second)
        # Files of a round that was never complete may lie there; they are not read.
        assert ("2-2.bin" in names(tmp_path)) is (file != "2-2.bin")
        assert saved_round(tmp_path) == 1
        assert_restored(tmp_path, first)
        # The round is run again, and all is as if nothing had happened.
        store(tmp_path, second)
        assert_restored(tmp_path, first, second)
        assert names(tmp_path) == ["1-1.bin", "2-2.bin", "3-2.bin"]

    def test_before_old_files_are_deleted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second, third = result(1, 1, 2), result(2, 2, 3), result(3, 2)
        store(tmp_path, first)

        def stopping(path: Path) -> None:
            raise StoppedError

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", stopping)
            with pytest.raises(StoppedError):
                store(tmp_path, second)
        assert {"2-1.bin", "2-2.bin"} <= set(names(tmp_path))
        assert_restored(tmp_path, first, second)
        store(tmp_path, third)
        assert names(tmp_path) == ["1-1.bin", "2-3.bin", "3-2.bin"]
        assert_restored(tmp_path, first, second, third)

    def test_damaged_files_of_a_later_round_are_not_even_opened(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1))
        (tmp_path / "memory" / "1-2.bin").write_bytes(b"half")
        (tmp_path / "memory" / "5-2.bin").write_bytes(b"")
        assert_restored(tmp_path, result(1, 1))

    @pytest.mark.parametrize("done", [1, 2])
    def test_a_simulated_run_goes_on_from_its_folder_to_the_identical_end(self, tmp_path: Path, done: int) -> None:
        layout = ModelLayout.of(small_model()).layout
        setting = federation("topk-ef")
        whole = run(setting)
        for each in whole[:done]:
            save_checkpoint(tmp_path, layout, METHODS["topk-ef"].id, 1, each)
        number, state, memory = restore(tmp_path, done, layout)
        assert number == done
        assert memory.keys() == remembered(whole[:done]).keys()
        rest = run(setting, state, first=number + 1, memory=memory)
        assert records(rest) == records(whole[done:])


def changed(data: bytes) -> bytes:
    return data[:-20] + bytes([data[-20] ^ 1]) + data[-19:]


def of_frame(**changes: object) -> Callable[[bytes], bytes]:
    return lambda data: replace(Frame.from_bytes(data), **changes).to_bytes()  # type: ignore[arg-type]


def values(count: int, *, group: Group = Group.CODED, declared: int | None = None) -> tuple[Section, ...]:
    body = Raw().encode(np.ones(count, np.float32), EncodeKeys(0, 0))
    return (Section(Raw.id, Role.UPDATE, group, declared or count, b"", body),)


def with_nan(data: bytes) -> bytes:
    body = np.full(CODED, np.nan, "<f4").tobytes()
    return of_frame(sections=(Section(Raw.id, Role.UPDATE, Group.CODED, CODED, b"", body),))(data)


class TestDamage:
    """A file that cannot be used is named."""

    @pytest.mark.parametrize(
        "spoil",
        [
            pytest.param(lambda data: b"", id="empty"),
            pytest.param(lambda data: b"not a frame at all", id="foreign"),
            pytest.param(lambda data: data[:-1], id="cut by a byte"),
            pytest.param(lambda data: data[: len(data) // 2], id="cut in half"),
            pytest.param(lambda data: data + b"\0", id="longer by a byte"),
            pytest.param(changed, id="a bit is wrong"),
            pytest.param(of_frame(kind=Kind.BROADCAST, weight=0, sections=()), id="a broadcast"),
            pytest.param(of_frame(layout_digest=bytes(16)), id="another model"),
            pytest.param(of_frame(noise_key=2), id="another client"),
            pytest.param(of_frame(round=2), id="another round"),
            pytest.param(of_frame(sections=()), id="no section"),
            pytest.param(of_frame(sections=values(CODED, group=Group.DENSE)), id="another group"),
            pytest.param(of_frame(sections=values(CODED - 1)), id="fewer values"),
            pytest.param(of_frame(sections=values(CODED + 1)), id="more values"),
            pytest.param(of_frame(sections=values(CODED - 1, declared=CODED)), id="fewer values than declared"),
            pytest.param(of_frame(sections=values(CODED + 1, declared=CODED)), id="more values than declared"),
            pytest.param(with_nan, id="not numbers"),
        ],
    )
    def test_of_a_memory_file(self, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
        store(tmp_path, result(1, 1, 2), result(2, 2))
        path = tmp_path / "memory" / "1-1.bin"
        path.write_bytes(spoil(path.read_bytes()))
        assert saved_round(tmp_path) == 2
        with pytest.raises(RunError) as caught:
            restore(tmp_path, 2, LAYOUT)
        assert str(path) in str(caught.value)
        assert "delete" in str(caught.value)

    def test_of_a_superseded_memory_file_does_not_matter(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1), result(2, 1))
        (tmp_path / "memory" / "1-1.bin").write_bytes(b"half")
        assert_restored(tmp_path, result(1, 1), result(2, 1))

    @pytest.mark.parametrize("spoil", [lambda data: b"", lambda data: data[:-3], changed], ids=["empty", "cut", "bit"])
    def test_of_the_checkpoint(self, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
        store(tmp_path, result(1, 1))
        path = tmp_path / "checkpoint.bin"
        path.write_bytes(spoil(path.read_bytes()))
        for attempt in (lambda: saved_round(tmp_path), lambda: restore(tmp_path, 1, LAYOUT)):
            with pytest.raises(RunError) as caught:
                attempt()
            assert str(path) in str(caught.value)

    def test_a_checkpoint_of_another_model_is_refused(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1))
        renamed = Layout.of([replace(t, name=t.name + "'") for t in LAYOUT.tensors])
        reshaped = Layout.of([replace(t, shape=t.shape[::-1]) for t in LAYOUT.tensors])
        for other in (renamed, reshaped):
            with pytest.raises(RunError, match=r"checkpoint\.bin does not fit: .*other tensors"):
                restore(tmp_path, 1, other)

    def test_memory_of_another_models_run_is_refused(self, tmp_path: Path) -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        here.mkdir()
        there.mkdir()
        store(here, result(1, 1))
        reshaped = Layout.of([replace(t, shape=t.shape[::-1]) for t in LAYOUT.tensors])
        save_checkpoint(there, reshaped, METHOD, 1, result(1, 1))
        shutil.copy(there / "memory" / "1-1.bin", here / "memory" / "1-1.bin")
        with pytest.raises(RunError, match=r"1-1\.bin does not fit: it is for a model with other tensors"):
            restore(here, 1, LAYOUT)

    def test_memory_of_another_client_or_round_or_length_is_refused(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1, 2))
        path, sound = tmp_path / "memory" / "1-1.bin", (tmp_path / "memory" / "1-1.bin").read_bytes()
        frame = Frame.from_bytes(sound)
        shorter = replace(frame.sections[0], count=1, body=bytes(4))
        for wrong, words in (
            ((tmp_path / "memory" / "2-1.bin").read_bytes(), "it is another's, or of another round"),
            (
                replace(frame, round=7).to_bytes(),
                "it is another's, or of another round, than its name says: of round 7",
            ),
            (replace(frame, sections=(shorter,)).to_bytes(), "it has 1 values, for this model and setting it must"),
        ):
            path.write_bytes(wrong)
            with pytest.raises(RunError, match=rf"1-1\.bin does not fit: {words}"):
                restore(tmp_path, 1, LAYOUT)

    def test_an_update_in_the_checkpoints_place_is_refused(self, tmp_path: Path) -> None:
        store(tmp_path, result(1, 1))
        shutil.copy(tmp_path / "memory" / "1-1.bin", tmp_path / "checkpoint.bin")
        with pytest.raises(RunError, match=r"checkpoint\.bin is not a server's checkpoint, or of an older version"):
            saved_round(tmp_path)

    def test_a_state_that_lacks_a_group_is_refused(self, tmp_path: Path) -> None:
        store(tmp_path, result(1))
        path = tmp_path / "checkpoint.bin"
        frame = Frame.from_bytes(path.read_bytes())
        path.write_bytes(
            replace(frame, sections=tuple(s for s in frame.sections if s.group is not Group.STATS)).to_bytes()
        )
        with pytest.raises(RunError, match=r"checkpoint\.bin does not fit: .*lacks the state of group stats"):
            restore(tmp_path, 1, LAYOUT)


def test_what_a_stop_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    store(tmp_path, result(1, 1, 2), result(2, 2))
    kept = names(tmp_path)
    assert kept == ["1-1.bin", "2-2.bin"]
    for name in ("2-1.bin", "1-3.bin", "4-3.bin", "1-3.bin.part", "notes.txt"):
        (tmp_path / "memory" / name).write_bytes(b"old")
    tidy(tmp_path, 2)
    assert names(tmp_path) == [*kept, "notes.txt"]
    tidy(tmp_path, 0)  # before round 1 of another run
    assert names(tmp_path) == ["notes.txt"]
