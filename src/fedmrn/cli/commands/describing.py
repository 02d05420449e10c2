"""The command that describes a model: layout."""

from pathlib import Path
from typing import Annotated

import typer

from fedmrn.cli.say import ERR, say
from fedmrn.errors import ConfigError

_IMAGE = ("CHANNELS", "HEIGHT", "WIDTH")
_SHAPES = {"images": _IMAGE, "segmentation": _IMAGE, "text": ("LENGTH",), "sentences": ("LENGTH",)}


def layout_command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="One of the presets' models, timm:NAME, or your own, module:Class of this folder."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Shape and classes are those of this data set; see `fedmrn datasets`."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Of a sample, such as 3,32,32; in place of --data.")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, max=1 << 24, help="Outputs; in place of --data.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for the layout. [default: standard output]", show_default=False),
    ] = None,
) -> None:
    """Write the layout of a model as JSON: names, shapes and groups of the tensors that travel.

    A client in another language needs it, and so does a server without torch: `Layout.from_json` reads it.
    What is coded, what travels as floats and what stays is told on standard error.

    Examples: `fedmrn layout cnn4 --data fashion-mnist --out layout.json`

    `fedmrn layout my_models:Net --shape 3,32,32 --classes 10`
    """
    from fedmrn.files import write_atomic
    from fedmrn.models.catalogue import MODELS, build_model
    from fedmrn.torch import ModelLayout

    sizes, outputs = _of_samples(data, shape, classes)
    row = MODELS.get(model)
    task = row.task if row is not None and row.task is not None else "images"
    if row is not None and data is None and len(sizes) != len(_SHAPES[task]):
        found, wanted = ",".join(map(str, sizes)), ",".join(_SHAPES[task])
        raise ConfigError(f"model {model} is for {task}: --shape is {wanted}, got {found}")
    built = build_model(model, shape=sizes, classes=outputs, seed=0, task=task, folder=Path.cwd())
    view = ModelLayout.of(built)
    say(ERR, view.describe())
    text = view.layout.to_json()
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_atomic(out, text.encode())
        say(ERR, f"{out}: {len(view.layout.tensors)} tensors, digest {view.layout.digest.hex()}")


def _of_samples(data: str | None, shape: str | None, classes: int | None) -> tuple[tuple[int, ...], int]:
    """Return the shape of a sample and the number of classes.

    Raises:
        ConfigError: neither a data set says them nor both options, or both do.
    """
    if data is not None:
        from fedmrn.data import find_source

        if shape is not None or classes is not None:
            raise ConfigError("--data says shape and classes: leave --shape and --classes out")
        source = find_source(data)
        return source.shape, source.classes
    if shape is None or classes is None:
        raise ConfigError("give --data DATASET, or both --shape, such as 3,32,32, and --classes")
    try:
        sizes = tuple(int(size) for size in shape.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > 1 << 20:
        raise ConfigError(f"--shape {shape!r}: give whole numbers with commas between, such as 3,32,32")
    return sizes, classes
