"""What numba makes of a kernel: with a cache where one can be written, and without it where none can.

A read-only installation, a full disk or a damaged cache costs a minute in each process and no more: it is logged once,
with the name of the file or folder, and NUMBA_CACHE_DIR as the cure. To import this module imports the compiler.
"""

import logging
import multiprocessing
from collections.abc import Callable
from typing import Any

import numba as nb
from numba.core.caching import FunctionCache

_LOG = logging.getLogger(__name__)
_told: list[str] = []


def dispatcher(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Return what compiles a function for the types that it is called with, and runs it without Python's lock.

    Args:
        function: a kernel; every other kernel that it names is compiled already.
        options: of `numba.njit`, besides `nogil` and `cache`.
    """
    made = nb.njit(nogil=True, **options)(function)
    try:
        cache = _Forgiving(function)  # type: ignore[no-untyped-call]
        made._cache = cache  # noqa: SLF001 - what njit(cache=True) does, with another class
    except RuntimeError:  # numba finds no folder that can be written
        _tell("no folder for compiled kernels can be written")
    return made


class _Forgiving(FunctionCache):
    """A cache whose faults do not stop the program."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what is kept for a signature, or None; also where it cannot be read."""
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # bytes of a damaged file can fail in any way at all
            self._fault(error, "cannot be read")
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for a signature, if it can be."""
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except OSError as error:
            self._fault(error, "cannot be written")

    def _fault(self, error: Exception, what: str) -> None:
        where, why = self.cache_path, str(error)
        if isinstance(error, OSError):
            where, why = error.filename or where, error.strerror or why
        _tell(f"the cache of compiled kernels {where} {what} ({why})")


def _tell(what: str) -> None:
    """Log once, and not again in each worker process, that kernels are compiled anew."""
    if not _told and multiprocessing.parent_process() is None:
        _LOG.warning(
            "%s: they are compiled anew in each process, for about a minute; set NUMBA_CACHE_DIR to a folder that "
            "can be written and has room",
            what,
        )
    _told.append(what)
