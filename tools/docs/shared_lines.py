"""Docstrings whose lines are shared: `choose, variances: as for ModelLayout.of` is a line for each of the names."""

import re
from typing import Any

from griffe import Extension, Object

_SHARED = re.compile(r"^( +)((?:\*{0,2}\w+, )+\*{0,2}\w+): (.+(?:\n\1 +.+)*)", re.M)


def one_each(docstring: str) -> str:
    """Return a docstring in which every parameter and error has a line of its own."""
    return _SHARED.sub(lambda line: "\n".join(f"{line[1]}{name}: {line[3]}" for name in line[2].split(", ")), docstring)


class SharedLines(Extension):
    """Splits them before they are parsed."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Take an object that was read from the sources."""
        if obj.docstring is not None:
            obj.docstring.value = one_each(obj.docstring.value)
