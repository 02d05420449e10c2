"""The command line as Markdown, from the commands themselves."""

from collections.abc import Iterator

import click
from typer.core import TyperOption
from typer.main import get_command

from fedmrn.cli.app import app


def commands_part() -> str:
    """Return a section for each command: its help, how it is called, its arguments and options."""
    group = get_command(app)
    if not isinstance(group, click.Group):
        raise TypeError("the command line has one command only")
    return "\n\n".join("\n\n".join(_command(name, command)) for name, command in group.commands.items())


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"fedmrn {name}")
    yield f"## `fedmrn {name}`"
    yield (command.help or "").replace("\b", "").strip()
    yield f"    {command.get_usage(context).removeprefix('Usage: ')}"
    for kind, title in (("argument", "argument"), ("option", "option")):
        rows = [_row(p, context) for p in command.params if p.param_type_name == kind and "--help" not in p.opts]
        if rows:
            yield "\n".join((f"| {title} | what it is | default |", "|---|---|---|", *rows))


def _row(parameter: click.Parameter, context: click.Context) -> str:
    """Return the row of a table: how it is written, what it means, and what it is unless it is given."""
    said = str(getattr(parameter, "help", "") or "")
    words, _, told = said.partition(" [default: ")
    default, more = told.removesuffix("]"), ""
    if isinstance(parameter, TyperOption):
        written = ", ".join(parameter.opts)
        if not parameter.is_flag:
            written += f" {parameter.make_metavar(context).removesuffix(' RANGE')}"
        if parameter.multiple and "Several" not in words:
            more = " Can be given several times."
        if parameter.envvar:
            more += f" Also by the environment variable `{parameter.envvar}`."
    else:
        written = parameter.make_metavar(context)
    if not default and parameter.default not in (None, "", False):
        default = str(parameter.default)
    required = "*required*" if parameter.required else ""
    return f"| {_code(written)} | {_cell(words + more)} | {_code(default) if default else required} |"


def _code(text: str) -> str:
    """Return code in a cell; a bar in it needs no backslash, and would show one."""
    return f"`{' '.join(text.split())}`"


def _cell(text: str) -> str:
    """Return text that a cell of a table can hold."""
    return " ".join(text.split()).replace("|", "\\|")
