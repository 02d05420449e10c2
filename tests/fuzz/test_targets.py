"""Every target of the fuzzer for a moment: inputs damaged by a seeded plan, and the fuzzer where there is one."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import MODULES, ViolationError
from targets import target as target_of
from unmeasured import unmeasured

from fedmrn.wire.frame import Frame

HERE = Path(__file__).parent
EXAMPLES = {"update": 400, "broadcast": 400, "checkpoint": 50, "configuration": 50}
Step = tuple[str, int, int | bytes]


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(target_of(name).seeds())


interesting = st.sampled_from([0, 1, 2, 3, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
numbers = st.sampled_from([0, 1, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 20, (1 << 64) - 1])
place = st.integers(0, 1000)
steps = st.one_of(
    st.tuples(st.just("byte"), place, interesting),
    st.tuples(st.just("u64"), place, numbers | st.integers(0, 300)),
    st.tuples(st.just("cut"), place, st.integers(1, 60)),
    st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("copy"), place, st.integers(1, 60)),
)


def damaged(data: bytes, plan: list[Step]) -> bytes:
    out = bytearray(data)
    for kind, position, value in plan:
        at = position % (len(out) or 1)
        if kind == "byte":
            out[at : at + 1] = bytes([value])
        elif kind == "u64":
            out[at : at + 8] = value.to_bytes(8, "little")
        elif kind == "cut":
            del out[at : at + value]
        elif kind == "insert":
            out[at:at] = value
        elif kind == "copy":
            out[at:at] = out[at : at + value]
    return bytes(out)


@pytest.mark.parametrize("name", MODULES)
def test_seeds_are_taken_as_they_are(name: str) -> None:
    assert len(set(seeds(name))) == len(seeds(name)) >= 2
    for data in seeds(name):
        target_of(name).check(data)  # loads what it needs, before memory is counted
        target_of(name).watched(data)


@pytest.mark.parametrize("name", MODULES)
def test_damage_is_refused_or_valid(name: str) -> None:
    target = target_of(name)

    @settings(deadline=None, max_examples=EXAMPLES.get(name, 200), database=None, derandomize=True)
    @given(st.sampled_from(seeds(name)), st.lists(steps, min_size=1, max_size=4), st.integers(0, 7))
    def damage(data: bytes, plan: list[Step], how: int) -> None:
        target.check(target.repair(damaged(data, plan), how))

    damage()


def test_a_repaired_frame_gets_past_the_checksum() -> None:
    frame = seeds("frame")[0]
    longer = damaged(frame, [("insert", len(frame) - 4, b"four")])
    found = Frame.from_bytes(target_of("frame").repair(longer, 4))
    assert len(found.sections[-1].body) == len(Frame.from_bytes(frame).sections[-1].body) + 4


def test_memory_is_watched() -> None:
    greedy = replace(target_of("frame"), check=lambda data: bytes(1 << 20) and None)
    with pytest.raises(ViolationError, match="bytes allocated for an input of 3"):
        greedy.watched(b"abc")


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed: Linux on x86-64 only"
)
def test_the_fuzzer_runs_and_finds_nothing(tmp_path: Path) -> None:
    """In a process of its own, without the measurement of coverage, which would take most of the time."""
    command = [sys.executable, str(HERE / "run.py"), "frame", "--runs", "30000", "--folder", str(tmp_path)]
    done = subprocess.run(command, env=unmeasured(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30000" in done.stdout
    assert len(list((tmp_path / "frame").iterdir())) >= len(seeds("frame"))
