"""From the Markdown that GitHub shows to the one that mkdocs reads, where the two differ and our pages use it."""

import re
from collections.abc import Callable, Iterator

_CODE = re.compile(r"(^```[\s\S]*?^```$|^ {4}.*$|`[^`\n]+`)", re.M)
_ITEM = re.compile(r"(?:[-*]|\d+\.) +(?=\S)")
_NO_TAG = re.compile(r"<(?!!--|/?(?:div|figure|span|https?:)\b)")


def for_mkdocs(text: str) -> str:
    """Return a page whose lists and angle brackets mkdocs takes as GitHub does."""
    return outside_code("\n".join(_lists(text)), lambda prose: _NO_TAG.sub("&lt;", prose))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return the text with what is no code changed."""
    parts = _CODE.split(text)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def _lists(text: str) -> Iterator[str]:
    """Yield lines: an empty one before a list and after an item of several parts; an item's parts moved in by four."""
    inside, parted, fenced, before = 0, False, False, ""
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        item = None if fenced else _ITEM.match(line)
        if item:
            if before.strip() and (parted or not inside):
                yield ""
            inside, parted = item.end(), False
            yield line[:inside].rstrip().ljust(4) + line[inside:]
        elif inside and line.startswith(" " * inside):
            yield " " * (4 - inside) + line
            parted |= not before.strip()
        else:
            inside = 0 if line.strip() else inside
            yield line
        before = line
