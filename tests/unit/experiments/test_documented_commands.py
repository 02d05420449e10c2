"""Commands that documents give: each resolves, and none of the results' pages finds the run of another in its way."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from fedmrn.cli.app import app
from fedmrn.cli.commands.arguments import parse_names, parse_seeds
from fedmrn.experiments.config import Experiment, run_name
from fedmrn.experiments.settings import load_setting
from fedmrn.methods import METHODS

ROOT = Path(__file__).parents[3]
RESULTS = tuple(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs" / "results").glob("*.md")))
PAGES = ("README.md", "docs/methods.md")


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
    """The folder and the experiment of each run of a command, as the command line reads it, without tuning."""
    kind, *rest = words
    said = get_command(app).commands[kind].make_context(kind, list(rest)).params  # type: ignore[attr-defined]
    setting = load_setting(said["preset"], said["set_"] or [])
    folder = Path(said["out_dir"] or Path("runs", setting.name))
    if kind == "run":
        experiment = setting.experiment(said["method"], said["seed"])
        yield str(folder if said["out_dir"] else folder / run_name(experiment)), experiment
        return
    for name in METHODS if said["methods"] == "all" else parse_names(said["methods"]):
        for seed in parse_seeds(said["seeds"]):
            experiment = setting.experiment(name, seed)
            yield str(folder / run_name(experiment)), experiment


@pytest.mark.parametrize("page", [*PAGES, *RESULTS])
def test_documented_commands_resolve(page: str) -> None:
    found = list(commands(page))
    assert found or page in RESULTS
    for words in found:
        assert list(runs(words)), words


def test_no_result_is_in_the_way_of_another() -> None:
    seen: dict[str, Experiment] = {}
    for words in (words for page in RESULTS for words in commands(page)):
        for folder, experiment in runs(words):
            assert folder not in seen or (seen[folder] == experiment and "--resume" in words), shlex.join(words)
            seen[folder] = experiment
    assert len(seen) > 50
