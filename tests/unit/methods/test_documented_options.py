"""docs/methods.md: the tables of options are those of the rows."""

import re
from pathlib import Path

import pytest

from fedmrn.methods import METHODS, ReadBy

DOCUMENT = (Path(__file__).parents[3] / "docs" / "methods.md").read_text("utf-8")
TABLE = DOCUMENT.split("| method | options and defaults | values |\n")[1].split("\n\n")[0]
DEFAULTS = {
    name: line.split(" | ")[1]
    for line in TABLE.splitlines()[1:]
    for name in re.findall(r"`([\w-]+)`", line.split(" | ")[0])
}
"""By name of the method: the options and defaults of its row in the table."""


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.options])
def test_the_table_has_every_option_and_its_default(name: str) -> None:
    cell = DEFAULTS[name]
    found = dict(re.findall(r"`(\w+)(?: = ([^`]+))?`", cell))
    if cell.startswith("the same"):
        before = list(DEFAULTS)[list(DEFAULTS).index(name) - 1]
        found = {**dict(re.findall(r"`(\w+)(?: = ([^`]+))?`", DEFAULTS[before])), **found}
    options = METHODS[name].options
    assert list(found) == list(options)
    for option, written in found.items():
        default = options[option].default
        expected = f'"{default}"' if isinstance(default, str) else repr(default)
        assert written == ("" if options[option].follows else expected), option


def test_methods_without_options_have_no_row() -> None:
    assert {name for name, row in METHODS.items() if row.options} == set(DEFAULTS)


def test_who_reads_an_option_is_told() -> None:
    rows = {"local rule": ReadBy.CLIENT, "server rule": ReadBy.RULE, "scheme": ReadBy.SCHEME}
    options = {option.name: option.read_by for row in METHODS.values() for option in row.options.values()}
    for words, reader in rows.items():
        (line,) = re.findall(rf"^\| the {words} \| (.+?) \|", DOCUMENT, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", line)) == {name for name, by in options.items() if by is reader}
