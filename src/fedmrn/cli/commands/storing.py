"""The command that keeps results: run folders -> records, tables and figures of pages."""

from pathlib import Path
from typing import Annotated

import typer

from fedmrn.cli.say import OUT, say
from fedmrn.errors import ConfigError


def results_command(
    store: Annotated[Path, typer.Argument(help="Folder with records/, tables.toml and pages; made if runs are added.")],
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Add the runs of a folder to the records NAME. Several can be given."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if something would change.")
    ] = False,
    title: Annotated[str, typer.Option(help="What was run, for new records.")] = "",
    processor: Annotated[str, typer.Option(help="Of runs whose folders do not say it.")] = "",
    code: Annotated[str, typer.Option(help="Version or commit that the runs were made with.")] = "",
    date: Annotated[str, typer.Option(help="Of the runs, such as 2026-01-31.")] = "",
) -> None:
    """Keep the curves of runs in a few kilobytes, and write tables and figures of pages from them.

    Records are `STORE/records/NAME.json`. Pages are the Markdown files of STORE, and STORE.md beside it.
    What stands between marks such as `<!-- table: NAME -->` and `<!-- end -->` is written from the records.
    Which columns a table has says `STORE/tables.toml`.
    Records that no page shows get a page with a table, a figure and the commands that run them again.

    Examples: `fedmrn results mine --add lr=runs/lr`

    `fedmrn results docs/results --check`
    """
    from fedmrn.results import Collection, import_runs, read_collection, write_collection, write_results
    from fedmrn.results.records import FOLDER, Provenance

    if check and add:
        raise ConfigError("--check writes nothing: leave --add away")
    for text in add or ():
        name, equals, folder = text.partition("=")
        if not equals or not folder or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ConfigError(f"--add {text!r} is not of the form NAME=FOLDER, such as lr=runs/lr")
        path = store / FOLDER / f"{name}.json"
        known = read_collection(path) if path.exists() else Collection(title=title or name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_collection(
            path, import_runs(known, [Path(folder)], Provenance(processor=processor, code=code, date=date))
        )
        say(OUT, f"{path}: {folder}")
    changed = write_results(store, check=check)
    for each in changed:
        say(OUT, f"{each}: {'would change' if check else 'written'}")
    if check and changed:
        raise typer.Exit(1)
    if not changed:
        say(OUT, f"{store}: all pages and figures are what the records say")
