"""What a node keeps of public models: a file for each node and run, since Flower starts a process for each message.

The files lie in the user's cache folder; the environment's FEDMRN_CACHE names another one. Whatever happens to them
costs one whole model: the server is told, and sends it.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from logging import WARNING, getLogger
from pathlib import Path

from flwr.app import Message
from platformdirs import user_cache_path

from fedmrn.errors import RunError
from fedmrn.files import clear_scraps, read_file, write_atomic
from fedmrn.wire.frame import Frame
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Layout
from fedmrn.wire.public import is_public, run_tag

log = getLogger("flwr").log
FOLDER = "FEDMRN_CACHE"
"""The environment variable that names the folder of what nodes keep."""
_OLD = 60 * 60 * 24 * 30.0
"""Seconds after which a file is taken to be of a run that is over."""
_MOST = 1 << 34
_NAME = re.compile(r"[0-9a-f]{16}-\d+(\.bin|-\d+\.memory)")
"""Of a node's file: what is named otherwise is not ours, wherever the folder is."""


def folder() -> Path:
    """Return the folder of what nodes keep."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else user_cache_path("fedmrn", appauthor=False) / "public-models"


@contextmanager
def keeping(
    frame: Frame, message: Message, layout: Callable[[], Layout], *, keep: bool = True
) -> Iterator[Held | None]:
    """Yield what the node that a message is for keeps of the frame's run; write it back where that has changed.

    Args:
        frame: the message's; None is yielded where it leads to no public model.
        message: says which node this is.
        layout: returns that of the model.
        keep: whether to write it back.
    """
    if not is_public(frame):
        yield None
        return
    path = folder() / f"{run_tag(frame).hex()}-{message.metadata.dst_node_id}.bin"
    before = b""
    try:
        before = read_file(path, _MOST) or b""
    except RunError as error:
        log(WARNING, "fedmrn: what this node keeps is lost, and it will be sent the whole model: %s", error)
    held = Held.from_bytes(before, layout())
    yield held
    after = held.to_bytes() if keep else before
    if after != before:
        put_away(path, after)


def put_away(path: Path, data: bytes) -> None:
    """Write a node's file that its owner alone can read, and delete those of runs that are over."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, data, private=True)
    except (OSError, RunError) as error:
        text = "fedmrn: this node can keep nothing from round to round: %s; set %s to a folder for it"
        log(WARNING, text, error, FOLDER)
        return
    oldest = time.time() - _OLD
    clear_scraps(path.parent)
    with suppress(OSError):
        for other in filter(lambda file: _NAME.fullmatch(file.name), path.parent.iterdir()):
            with suppress(OSError):
                if other.stat().st_mtime < oldest:
                    other.unlink()
