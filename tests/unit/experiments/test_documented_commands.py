"""Commands that documents give: each resolves, and none of the results' pages finds the run of another in its way."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
from typer.main import get_command

from fedmrn.cli.app import app
from fedmrn.cli.commands.arguments import parse_names, parse_seeds
from fedmrn.experiments.config import Experiment, run_name
from fedmrn.experiments.settings import load_setting
from fedmrn.methods import METHODS

RESULTS = [page for page in pages.PAGES if page.parent.name == "results"]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each `fedmrn run` and `fedmrn compare` of a page whose setting is a preset."""
    for words in pages.commands(page):
        if words[:2] in (["fedmrn", "run"], ["fedmrn", "compare"]) and not any(".toml" in word for word in words):
            yield words[1:]


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


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: str(page.relative_to(pages.ROOT)))
def test_documented_commands_resolve(page: Path) -> None:
    for words in commands(page):
        assert list(runs(words)), words


def test_commands_are_found() -> None:
    assert {page.name for page in pages.PAGES if list(commands(page))} >= {"README.md", "methods.md", "digits.md"}


def test_no_result_is_in_the_way_of_another() -> None:
    seen: dict[str, Experiment] = {}
    for words in (words for page in RESULTS for words in commands(page)):
        for folder, experiment in runs(words):
            assert folder not in seen or (seen[folder] == experiment and "--resume" in words), shlex.join(words)
            seen[folder] = experiment
    assert len(seen) > 50
