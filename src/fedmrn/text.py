"""Texts for people: suggestions for misspelt words, text made safe to show, ranges of numbers."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, choices: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean ...?" with the choice closest to an unknown word, or all choices if none is close."""
    names = sorted(choices)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {(prefix + close[0])!r}?" if close else f"; choose one of {', '.join(names)}"


def printable(text: str, most: int = 200) -> str:
    """Return a text from outside, safe to show: without control characters, cut to `most` characters."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def spans(numbers: Iterable[int]) -> str:
    """Return whole numbers as text with ranges: 1, 2, 3, 7 become "1-3, 7"."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)
