"""Write what a server starts with into a folder: the model's layout and values, and a token for each client."""

import argparse
from pathlib import Path

import numpy as np
from digits_task import make_model

from fedmrn import ModelLayout
from fedmrn.http import new_tokens, write_tokens


def write_start(folder: Path, clients: int) -> None:
    """Write `layout.json`, `start.npy` and `tokens.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    view = ModelLayout.of(make_model())
    (folder / "layout.json").write_text(view.layout.to_json())
    np.save(folder / "start.npy", view.read())
    write_tokens(folder / "tokens.txt", new_tokens(clients))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clients", type=int, default=5, metavar="N")
    args = parser.parse_args()
    write_start(args.folder, args.clients)


if __name__ == "__main__":
    main()
