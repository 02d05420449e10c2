"""Commands that documents give: each resolves, and none of docs/results.md finds the run of another in its way."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmrn.experiments.config import Experiment, load_setting, run_name
from fedmrn.methods import METHODS

ROOT = Path(__file__).parents[3]
PAGES = ("README.md", "docs/methods.md", "docs/results.md")


def commands(page: str) -> Iterator[list[str]]:
    """The words of each `fedmrn run` and `fedmrn compare` of the indented blocks, with variables put in."""
    known: dict[str, str] = {}
    text = re.sub(r" *\\\n +", " ", (ROOT / page).read_text())
    for line in re.findall(r"^    (\S.*)$", text, re.MULTILINE):
        said = re.split(r" {2,}", line)[0]  # what follows is a remark
        if found := re.fullmatch(r'(\w+)="?([^"]*)"?', said):
            known[found[1]] = found[2]
        elif re.match(r"fedmrn (run|compare) ", said) and ".toml" not in said:
            yield shlex.split(re.sub(r"\$(\w+)", lambda name: known[name[1]], said))[1:]


def runs(words: list[str]) -> Iterator[tuple[str, Experiment]]:
    """The folder and the experiment of each run of a command, without tuning."""
    kind, preset, *rest = words
    said: dict[str, str] = {}
    changes = []
    while rest:
        flag = rest.pop(0)
        assert flag.startswith("--"), words
        if flag == "--resume":
            continue
        value = rest.pop(0)
        if flag == "--set":
            changes.append(value)
        else:
            said[flag] = value
    setting = load_setting(preset, changes)
    methods, first, _, last = "fedavg,fedmrn,fedmrn-s", *said.get("--seeds", said.get("--seed", "1")).partition("-")
    if kind == "run":
        methods = said.get("--method", "fedmrn")
    for name in METHODS if said.get("--methods") == "all" else said.get("--methods", methods).split(","):
        for seed in range(int(first), int(last or first) + 1):
            experiment = setting.experiment(name, seed)
            folder = f"{said.get('--out', f'runs/{setting.name}')}"
            named = kind == "run" and "--out" in said
            yield folder if named else f"{folder}/{run_name(experiment)}", experiment


@pytest.mark.parametrize("page", PAGES)
def test_documented_commands_resolve(page: str) -> None:
    for words in commands(page):
        assert list(runs(words)), words


def test_no_result_is_in_the_way_of_another() -> None:
    seen: dict[str, Experiment] = {}
    for words in commands("docs/results.md"):
        for folder, experiment in runs(words):
            assert seen.setdefault(folder, experiment) == experiment, f"{folder}: {shlex.join(words)}"
    assert len(seen) > 50
