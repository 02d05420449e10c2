"""The command that calibrates the model of a run: calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from fedmrn.cli.commands.arguments import DATA, DataDir
from fedmrn.cli.say import OUT, say


def calibrate_command(
    folder: Annotated[Path, typer.Argument(metavar="RUN_FOLDER", help="Of one run, such as runs/digits/fedmrn-seed1.")],
    samples: Annotated[
        int, typer.Option(min=2, max=1_000_000_000, help="Training samples of the run's clients, at most.")
    ] = 20_000,
    data_dir: DataDir = DATA,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code of your own that the run's data or model are made by.")
    ] = False,
) -> None:
    """Set batch norm's statistics of a run's model to those of its clients' training data.

    Clients train different weights, and the mean of their statistics is not quite that of the mean of their weights.
    This runs the model forward over training samples once, and says its accuracy before and after. The weights stay.

    The model goes to `calibrated.bin` in the folder, which `fedmrn.torch.load_model(model, bytes)` reads. The run
    itself stays as it is. To have the clients of a run do it, and the bytes counted: `--set train.calibrate=last`.

    Example: `fedmrn calibrate runs/digits/fedmrn-seed1 --samples 1000`
    """
    from fedmrn.cli.progress import Bars
    from fedmrn.experiments.run.calibrate import calibrate_run
    from fedmrn.experiments.run.folder import read_experiment
    from fedmrn.report.naming import score

    name = score(read_experiment(folder))
    OUT.works = True
    with Bars(OUT, 0) as bars:
        found = calibrate_run(folder, data_dir=data_dir, samples=samples, wait=bars.wait, trust=trust)
    say(
        OUT,
        f"the model after round {found.round}: {name} {found.before:.2%} as it was, {found.after:.2%} with statistics "
        f"of {found.samples:,} training samples",
    )
    say(OUT, f"{found.path}: the calibrated model; checkpoint.bin is as it was")
