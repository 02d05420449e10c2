"""Commands that list what there is: methods, datasets, presets."""

from fedmrn.cli.commands.arguments import DATA, DataDir
from fedmrn.cli.say import OUT


def methods_command() -> None:
    """List the methods that can be compared."""
    from fedmrn.cli.show import show_table
    from fedmrn.experiments.config import COMMON
    from fedmrn.methods import METHODS, Method

    def options(row: Method) -> str:
        return ", ".join(f"{o.name}=" + ("the run's" if o.follows else f"{o.default}") for o in row.options.values())

    rows = [(m.name, m.summary, options(m), str(m.id)) for m in METHODS.values()]
    caption = (
        f"All take {', '.join(COMMON)} too. "
        "To set one: --set method.topk.density=0.01. With --set method.scale=auto each client chooses its noise scale."
    )
    show_table(OUT, ("method", "what it sends", "options", "id"), rows, caption=caption)


def datasets_command(data_dir: DataDir = DATA) -> None:
    """List the data sets, and which are here already."""
    from fedmrn.cli.show import show_table
    from fedmrn.data import DATASETS, FolderSource
    from fedmrn.data.files import is_here

    rows = []
    for s in DATASETS.values():
        if isinstance(s, FolderSource):
            state = "here" if s.find(data_dir) else f"put {s.expects} into {data_dir / s.name}"
            rows.append((s.name, s.description, "-", s.licence, "your own", state))
            continue
        here = is_here(s, data_dir)
        size = f"{s.download_bytes / 1e6:.0f} MB" if s.files else "-"
        state = "ships with a dependency" if not s.files else "here" if here else f"not in {data_dir}"
        rows.append((s.name, s.description, f"{s.train:,} + {s.test:,}", s.licence, size, state))
    caption = (
        "Your own: data.source names a folder of pictures, an .npz file or module:function; see docs/your-data.md."
    )
    header = ("data set", "what it is", "train + test", "licence", "download", "state")
    show_table(OUT, header, rows, caption=caption)


def presets_command() -> None:
    """List the presets."""
    from fedmrn.cli.show import show_table
    from fedmrn.experiments.settings import presets

    show_table(OUT, ("preset", "what it is"), list(presets().items()))
