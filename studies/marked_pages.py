"""Tables of studies in pages: between a mark and the next `<!-- end -->`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

END = "<!-- end -->"


def fill(page: Path, mark: str, header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> None:
    """Write a table between a page's marks; its first `texts` columns are aligned to the left.

    Raises:
        ValueError: the page lacks the marks.
    """
    before, begin, rest = page.read_text("utf-8").partition(mark)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks {mark} ... {END}")
    page.write_text(before + begin + "\n" + "\n".join(markdown(header, lines, texts)) + "\n" + end + after, "utf-8")


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> list[str]:
    """Return a table's lines; its first `texts` columns are aligned to the left."""
    table = [f"| {' | '.join(header)} |", "|" + "---|" * texts + "---:|" * (len(header) - texts)]
    return table + [f"| {' | '.join(row)} |" for row in lines]
