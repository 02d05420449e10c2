"""Words for people."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """Return the end of a message about an unknown word: the closest choice (with the prefix), or all of them."""
    names = sorted(choices)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {(prefix + close[0])!r}?" if close else f"; choose one of {', '.join(names)}"
