"""What a client keeps from round to round: public models, and its memory where its method has one.

Whatever is lost of public models costs one whole model; a memory that is lost is a client's first round again.
"""

from logging import getLogger
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmrn.errors import RunError
from fedmrn.files import make_folder, read_file, write_atomic
from fedmrn.wire.held import Held
from fedmrn.wire.layout import Layout

_log = getLogger(__name__)
_MOST = 1 << 34


class ClientStore:
    """What a client keeps of one run.

    Args:
        folder: of this client alone; made if it is not there. None: what is kept ends with the process.

    Attributes:
        memory: of the method, float32, shape (coded parameters,); None before the first round.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder, self._run = folder, ""
        self._held: Held | None = None
        self.memory: NDArray[np.float32] | None = None
        if folder is not None:
            make_folder(folder)

    def of(self, run: str, layout: Layout) -> Held:
        """Return what is kept of a run's public models; what was kept of another run is forgotten."""
        if self._held is None or run != self._run:
            held, memory = self._read("held", run), self._read("memory", run)
            self._run = run
            self._held = Held.from_bytes(held, layout) if held else Held(layout)
            self.memory = np.frombuffer(memory, "<f4").astype(np.float32) if memory and not len(memory) % 4 else None
        return self._held

    def keep_held(self) -> None:
        """Put what is kept of public models away."""
        if self._held is not None:
            self._write("held", self._held.to_bytes())

    def keep_memory(self, memory: NDArray[np.float32]) -> None:
        """Keep a method's memory, once the update that it belongs to was taken."""
        self.memory = memory
        self._write("memory", memory.astype("<f4").tobytes())

    def _path(self, what: str, run: str) -> Path | None:
        return None if self._folder is None or not run.isalnum() else self._folder / f"{what}-{run[:32]}.bin"

    def _read(self, what: str, run: str) -> bytes:
        path = self._path(what, run)
        try:
            return b"" if path is None else read_file(path, _MOST) or b""
        except RunError as error:
            _log.warning("what this client kept is lost: %s", error)
            return b""

    def _write(self, what: str, data: bytes) -> None:
        path = self._path(what, self._run)
        if path is not None:
            write_atomic(path, data, private=True)
