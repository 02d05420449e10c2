"""What a setting names as module:name, a function that returns data or a class of models: found, and called.

The folder of the setting's file is searched last: a file of the name of a module that is there already hides nothing,
and is told instead.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedmrn.errors import ConfigError
from fedmrn.text import nearest, printable

_MOST = 500  # characters of what code of others says
_GIVEN = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def find_object(name: str, folder: Path | None, key: str) -> Callable[..., Any]:
    """Import a module, and return what it has under a name.

    Args:
        name: such as "loader:load"; the module may be in packages, "pkg.loader:load".
        folder: of the setting's file; None if there is none.
        key: of the setting, for messages.

    Raises:
        ConfigError: it is not of this form, the module is not there, hidden by another or cannot be imported, or has
            nothing of this name that can be called.
    """
    what = f"{key} = {printable(name)!r}"
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        stem = Path(module).stem if module.endswith(".py") else "my_module"
        example = attribute if attribute.isidentifier() else "load"
        raise ConfigError(f"{what} is not module:name, such as {stem}:{example} for {example} in {stem}.py")
    _check_place(module.partition(".")[0], folder, what)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise _no_module(what, module, folder) from error
        raise ConfigError(f"{what}: module {module} cannot be imported: {told(error, folder)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{what}: module {module} cannot be imported: {told(error, folder)}") from error
    names = {n: value for n, value in vars(found).items() if callable(value)}
    if attribute not in names:
        it_is = "cannot be called" if attribute in vars(found) else "does not exist"
        public = [n for n in names if not n.startswith("_")]
        hint = nearest(attribute, public) if public else "; it has nothing that can be called"
        raise ConfigError(f"{what}: {attribute} {it_is} in {vars(found).get('__file__') or module}{hint}")
    chosen: Callable[..., Any] = names[attribute]
    return chosen


def call(target: Callable[..., Any], offered: Mapping[str, Any], what: str, *, otherwise: str = "") -> Any:
    """Call a function or class with those of the offered arguments that it takes.

    Args:
        target: what is called.
        offered: names and values of arguments.
        what: it is, for messages.
        otherwise: the one that it is given by `**kwargs`, where it has these and takes none of those offered.

    Raises:
        ConfigError: it needs others. Its own errors are not caught.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # written in C
        return target()
    more = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in _GIVEN and parameter.default is inspect.Parameter.empty and name not in offered
    ]
    if more:
        raise ConfigError(f"{what} needs {', '.join(more)}: give them defaults; it is given {', '.join(offered)} only")
    taken = [name for name in offered if name in parameters]
    if not taken and otherwise and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        taken = [otherwise]
    return target(**{name: offered[name] for name in taken})


def told(error: BaseException, folder: Path | None) -> str:
    """Return in a line what code of a person's own raised, and where: the last line of it that lies in a folder."""
    kind, text = type(error).__name__, error.msg if isinstance(error, SyntaxError) else str(error)
    said = " ".join(f"{kind}: {text}".split()) if text else kind
    if isinstance(error, SyntaxError):
        return printable(f"{Path(error.filename or '?').name}, line {error.lineno}: {said}", _MOST)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if folder is not None and Path(f.filename).is_relative_to(folder)]
    place = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
    return printable(place + said, _MOST)


def _check_place(top: str, folder: Path | None, what: str) -> None:
    """Make modules beside a setting's file importable, and refuse one there that Python would not take."""
    if folder is None:
        return
    if str(folder) not in sys.path:  # processes that are started get a copy
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    here = next((p for p in (folder / f"{top}.py", folder / top / "__init__.py") if p.is_file()), None)
    if here is None:
        return
    try:
        found = find_spec(top)
    except ValueError:  # of a module without a specification
        found = None
    origin = Path(found.origin) if found is not None and found.has_location and found.origin else None
    if origin is None or not origin.samefile(here):
        raise ConfigError(
            f"{what}: Python takes {top} to be {origin or 'a module of its own'}, not {here}: rename the latter"
        )


def _no_module(what: str, module: str, folder: Path | None) -> ConfigError:
    if folder is None:
        return ConfigError(f"{what}: there is no module {module} that is installed")
    beside = sorted(path.stem for path in folder.glob("*.py"))
    hint = nearest(module, beside) if 0 < len(beside) < 20 else f"; put {module.replace('.', '/')}.py there"
    return ConfigError(f"{what}: there is no module {module}, neither in {folder} nor installed{hint}")
