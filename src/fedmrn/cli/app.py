"""The command line: its commands, and how errors end it."""

import sys
from typing import Annotated

import typer

from fedmrn import __version__
from fedmrn.cli.commands.accounting import privacy_command
from fedmrn.cli.commands.calibrating import calibrate_command
from fedmrn.cli.commands.describing import layout_command
from fedmrn.cli.commands.listing import datasets_command, methods_command, presets_command
from fedmrn.cli.commands.reporting import inspect_command, report_command
from fedmrn.cli.commands.running import compare_command, run_command, sweep_command
from fedmrn.cli.commands.storing import results_command
from fedmrn.cli.say import ERR, OUT, say
from fedmrn.errors import FedmrnError, FrameError, UsageError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Federated learning at one bit per parameter: real frames, every byte counted.\n\n"
    "Start with `fedmrn compare digits`: FedAvg and FedMRN side by side, in a minute or two, nothing to download.",
)


def _show_version(asked: bool) -> None:
    if asked:
        say(OUT, f"fedmrn {__version__}")
        raise typer.Exit


@app.callback()
def _before_any_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None: ...


app.command("run")(run_command)
app.command("compare")(compare_command)
app.command("sweep")(sweep_command)
app.command("report")(report_command)
app.command("results")(results_command)
app.command("inspect")(inspect_command)
app.command("calibrate")(calibrate_command)
app.command("layout")(layout_command)
app.command("privacy")(privacy_command)
app.command("methods")(methods_command)
app.command("datasets")(datasets_command)
app.command("presets")(presets_command)


def command_line() -> None:
    """Run the command line; a mistake of the caller's ends in one line and exit code 2."""
    try:
        app()
    except (UsageError, FrameError) as error:
        kind = f"{type(error).__name__}: " if isinstance(error, FrameError) else ""
        say(ERR, f"error: {kind}{error}", style="red")
        sys.exit(2)
    except OSError as error:
        say(ERR, f"error: {error.filename or 'output'}: {error.strerror or error}", style="red")
        sys.exit(2)
    except FedmrnError as error:
        say(ERR, f"error: {error}", style="red")
        sys.exit(1)
