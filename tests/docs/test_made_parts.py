"""The parts of pages that are made from the sources, and what becomes of a page's own text."""

import re

import click
import hooks
import pytest
from commands import commands_part
from dialect import for_mkdocs
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from options import COMMON_WORDS, options_part
from shared_lines import one_each
from typer.main import get_command

from fedmrn.cli.app import app
from fedmrn.experiments.config import COMMON
from fedmrn.methods import METHODS

OPTIONS = options_part()
SECTIONS = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^### |\Z)", OPTIONS, re.M | re.S))


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_method_and_its_default(method: str) -> None:
    row = METHODS[method]
    (cells,) = re.findall(rf"^\| `{method}` \| (.*) \|$", OPTIONS, re.M)
    assert row.summary in cells.replace("\\|", "|")
    assert re.findall(r"\[`(\w+)`\]\(#\1\)", cells) == list(row.options)
    for option in row.options.values():
        (line,) = [part for part in SECTIONS[option.name].splitlines() if f"`{method}`" in part]
        default = f'`"{option.default}"`' if isinstance(option.default, str) else f"`{option.default!r}`"
        assert line.startswith(f"| the run's `{option.follows}` |" if option.follows else f"| {default} |")
        assert f"Read by the {option.read_by.value}." in SECTIONS[option.name]


def test_options_that_all_methods_have() -> None:
    assert list(COMMON_WORDS) == list(COMMON)
    for name in COMMON:
        assert re.search(rf"^\| `{name}` \| .+ \| `.+` \| .+ \|$", OPTIONS, re.M)
    assert '| `"float32"` | `float32`, `float16`, `levels`, `float8` |' in OPTIONS


def test_every_command_and_all_that_it_takes() -> None:
    group = get_command(app)
    assert isinstance(group, click.Group)
    made = commands_part()
    assert re.findall(r"^## `fedmrn (\w+)`$", made, re.M) == list(group.commands)
    for name, command in group.commands.items():
        section = made.split(f"## `fedmrn {name}`\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| `(.*?)` \| .+ \| .* \|$", section, re.M)
        assert len(rows) == len([parameter for parameter in command.params if "--help" not in parameter.opts])
        for parameter in command.params:
            if parameter.param_type_name == "option" and "--help" not in parameter.opts:
                assert any(row.startswith(parameter.opts[0]) for row in rows), parameter.name
    assert "| `--engine [process|flower]` |" in made
    assert "| `--out PATH` | Folder for the run. | `runs/PRESET/METHOD-seedN` |" in made
    assert "| `PRESET` | A preset (see `fedmrn presets`) or a TOML file of your own. | *required* |" in made


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("So:\n- a\n- b\n\nEnd", "So:\n\n-   a\n-   b\n\nEnd"),
        ("1. a:\n\n       code\n\n   more\n2. b", "1.  a:\n\n        code\n\n    more\n\n2.  b"),
        ("- a\n  goes on\n- b", "-   a\n    goes on\n-   b"),
        ("10. a\n    goes on", "10. a\n    goes on"),
        ("<c, u> and `<c, u>`\n\n    x < y", "&lt;c, u> and `<c, u>`\n\n    x < y"),
        ("<!-- table: x -->\n<div markdown>\n</div>", "<!-- table: x -->\n<div markdown>\n</div>"),
        ("```text\n- <a>\n   b\n```", "```text\n- <a>\n   b\n```"),
        ("*word* and -5\n-5 is no list", "*word* and -5\n-5 is no list"),
    ],
)
def test_what_mkdocs_reads(text: str, read: str) -> None:
    assert for_mkdocs(text) == read


def shown(text: str, repository: str | None = None, where: str = "results/a.md") -> str:
    """What the hook makes of a page's text."""
    config = MkDocsConfig()
    config.load_dict({"site_name": "x", "repo_url": repository})
    config.validate()
    file = File(where, "docs", "site", use_directory_urls=True)
    return hooks.on_page_markdown(text, page=Page(None, file, config), config=config, files=Files([file]))


def test_links_out_of_the_site() -> None:
    text = "[`b`](../b.md#c) [d](../../examples/d) [e](https://f.g) [h](#i) ![p](p.png) `[j](../../k)`"
    kept = "[`b`](../b.md#c) {} [e](https://f.g) [h](#i) ![p](p.png) `[j](../../k)`"
    assert shown(text) == kept.format("d")
    there = "https://forge.example/fedmrn"
    assert shown(text, there) == kept.format(f"[d]({there}/blob/main/examples/d)")


def test_lines_that_parameters_share() -> None:
    text = "Do it, now: please.\n\nArgs:\n    a, b: what\n        it is.\n    c: 1, 2: 3.\n\nRaises:\n    A, B: never."
    assert one_each(text) == (
        "Do it, now: please.\n\nArgs:\n    a: what\n        it is.\n    b: what\n        it is.\n"
        "    c: 1, 2: 3.\n\nRaises:\n    A: never.\n    B: never."
    )


def test_marks() -> None:
    assert "| fedmrn-s |" in shown("a\n\n<!-- made: headline digits -->\n\nb")
    assert "[`attach`][fedmrn.attach]" in shown("<!-- made: face -->")
    with pytest.raises(PluginError, match=r"a\.md: there is no part 'faces' to make"):
        shown("<!-- made: faces -->")
