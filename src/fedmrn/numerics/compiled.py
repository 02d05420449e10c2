"""Kernels that are compiled when they are first called; to import them does not import the compiler.

numba takes longer to import than all the rest of a server. So a decorator of this module puts a `Deferred` in a
function's place, and the first call makes what numba calls a dispatcher, with those of every kernel that it names.
Modules with kernels take the decorators, and numba's names, from here.
"""

import threading
from collections.abc import Callable, Iterator
from functools import update_wrapper
from importlib import import_module
from types import CodeType
from typing import TYPE_CHECKING, Any

_LOCK = threading.RLock()
_overloads: list[tuple[Callable[..., Any], Callable[..., Any]]] = []
"""Those that numba has not been told yet."""


class Deferred:
    """What numba makes of a function, made when it is first needed; it is called as the function is.

    Args:
        function: of a module; what it names is looked up there.
        make: given the function, returns what numba makes of it.
    """

    def __init__(self, function: Callable[..., Any], make: Callable[[Any], Any]) -> None:
        update_wrapper(self, function)
        self._function, self._make = function, make
        self._made = self._ready = None

    def __call__(self, *args: Any) -> Any:
        """Run it; the first time it is made before."""
        ready = self._ready
        if ready is None:
            ready = self.made()
        return ready(*args)

    def __getattr__(self, name: str) -> Any:
        """Return what numba's object has under this name, such as `py_func` or `signatures`."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.made(), name)

    def made(self) -> Any:
        """Return what numba makes of the function: the same each time."""
        with _LOCK:
            if self._made is None:
                self._made = self._make(self._function)
                _settle(self._function)  # after it: a function may name itself
                self._ready = self._made
            return self._made


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a function with numba; it releases Python's lock.

    Args:
        options: of `numba.njit`, besides `nogil` and `cache`.
    """

    def make(function: Callable[..., Any]) -> Any:
        while _overloads:
            target, implementation = _overloads.pop()
            import_module("numba.extending").overload(target)(implementation)
            _settle(implementation)
        return import_module("fedmrn.numerics.cached").dispatcher(function, options)

    return lambda function: Deferred(function, make)


if TYPE_CHECKING:
    import numba.core.cgutils
    import numba.extending

    types, cgutils = numba.types, numba.core.cgutils
    intrinsic, overload = numba.extending.intrinsic, numba.extending.overload
else:

    class _Later:
        """A module that is imported when something is taken from it."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self._name), name)

    types, cgutils = _Later("numba.core.types"), _Later("numba.core.cgutils")

    def intrinsic(function: Callable[..., Any]) -> Deferred:
        """Let kernels call a function that writes instructions of its own, as `numba.extending.intrinsic` does."""
        return Deferred(function, lambda f: import_module("numba.extending").intrinsic(f))

    def overload(target: Callable[..., Any]) -> Callable[..., Any]:
        """Return a decorator for what kernels run in the place of `target`, as `numba.extending.overload` does."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            _overloads.append((target, function))
            return function

        return decorate


def _settle(function: Any) -> None:
    """Put what numba made in the place of each `Deferred` that a function names: the compiler knows its own only."""
    names = function.__globals__
    for name in _names(function.__code__):
        if isinstance(names.get(name), Deferred):
            names[name] = names[name].made()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
