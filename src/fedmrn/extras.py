"""What is installed by which extra: a library that is missing is told with the command that brings it."""

from collections.abc import Mapping
from types import MappingProxyType

_CLI = ("click", "filelock", "matplotlib", "PIL", "pooch", "pydantic", "rich", "scipy", "sklearn", "tomli_w", "tqdm")
_HTTP = ("httpx", "starlette", "uvicorn")
_EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "torch": "torch",
        "triton": "gpu",
        "flwr": "flower",
        "typer": "cli",
        "cryptography": "secure",
        "Crypto": "secure",
        "dp_accounting": "privacy",
        **dict.fromkeys(_CLI, "cli"),
        **dict.fromkeys(_HTTP, "http"),
    }
)
"""The library's name in an import -> the extra that brings it."""


def explained(error: ModuleNotFoundError, what: str) -> ModuleNotFoundError:
    """Return the error with what to install, if an extra brings the missing library; else as it is.

    Args:
        error: of an import.
        what: needs the library, for the message.
    """
    library = (error.name or "").partition(".")[0]
    if library not in _EXTRAS or "pip install" in str(error):
        return error
    return ModuleNotFoundError(f'{what} needs {library}: pip install "fedmrn[{_EXTRAS[library]}]"', name=library)
