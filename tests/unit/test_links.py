"""Links of the documents: each leads to a file of the repository, and to a heading that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(path for path in (ROOT / "examples").rglob("*.md") if "quickstarts" not in path.parts),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them: lower case, without punctuation, hyphens for spaces."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#{1,6} (.+)$", prose, re.M)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    text = re.sub(r"^(```[\s\S]*?^```$| {4}.*)", "", page.read_text("utf-8"), flags=re.M)
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        where, _, anchor = link.partition("#")
        target = page if not where else (page.parent / where)
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# A heading: `with` (marks)\n")
    page = tmp_path / "a.md"
    code = "    some code\n\n```text\n[f](code.md)\n```\n\n"
    page.write_text(code + "[a](b.md#a-heading-with-marks) [b](b.md#no) [c](c.md) [d](https://x.y) [e](#nothing)\n")
    assert broken(page) == ["b.md#no", "c.md", "#nothing"]
