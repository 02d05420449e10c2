"""The documentation site: complete, read as the pages are on GitHub, and asking no other machine for anything."""

import re
import zlib
from difflib import unified_diff
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import pytest
from commands import commands_part
from options import options_part
from pages import MARKDOWN, PAGES, ROOT

from fedmrn import errors

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("site")]

DOCS = ROOT / "docs"
PACKAGES = [
    module
    for path in sorted((ROOT / "src" / "fedmrn").rglob("__init__.py"))
    for module in [import_module(".".join(path.parent.relative_to(ROOT / "src").parts))]
    if getattr(module, "__all__", ()) and module.__name__ != "fedmrn.cli"
]
AS_IT_IS = [
    page for page in PAGES if page.is_relative_to(DOCS) and not re.search("<!-- made|:::|<div", page.read_text())
]
"""Pages of which no part is made when the site is built."""
STRUCTURE = {"h1", "h2", "h3", "h4", "li", "th", "td", "pre", "code", "em", "strong", "img"}
NOT_TEXT = {"script", "style", "button", "nav"}


class Shown(HTMLParser):
    """What a reader sees of a page: text without its spaces, and where headings, cells, items and code begin."""

    def __init__(self, html: str, inside: str = "") -> None:
        super().__init__()
        self.parts: list[str] = []
        self._inside, self._hidden = inside, ""
        self._depth = 0 if inside else 1
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._hidden:
            return
        if tag == self._inside:
            self._depth += 1
        elif self._depth and (tag in NOT_TEXT or ("class", "headerlink") in attrs):
            self._hidden = tag
        elif self._depth and tag in STRUCTURE:
            self.parts.append(f"<{tag}>")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden:
            self._hidden = "" if tag == self._hidden else self._hidden
        elif tag == self._inside:
            self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._depth and not self._hidden and (text := "".join(data.split())):
            if self.parts and not self.parts[-1].startswith("<"):
                text = self.parts.pop() + text
            self.parts.append(text)


class Asked(HTMLParser):
    """What a page makes a browser load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag != "a" and (url := said.get("src") or said.get("href") or said.get("data")):
            self.urls.append(url)


def test_every_page_is_there(site: Path) -> None:
    for page in PAGES:
        if page.is_relative_to(DOCS):
            where = page.relative_to(DOCS).with_suffix("")
            assert (site / where.parent / ("" if where.name == "index" else where.name) / "index.html").is_file(), page


@pytest.mark.parametrize("page", AS_IT_IS, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_reads_as_on_github(site: Path, page: Path) -> None:
    """No list, code or formula is lost between the two kinds of Markdown."""
    html = (site / page.relative_to(DOCS).with_suffix("") / "index.html").read_text("utf-8")
    here, there = Shown(html, "article").parts, Shown(MARKDOWN.render(page.read_text("utf-8"))).parts
    assert "\n".join(unified_diff(there, here, "GitHub", "site", n=1, lineterm="")) == ""


def test_the_reference_has_every_public_name(site: Path) -> None:
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    there = {line.split()[0] for line in inventory.splitlines() if " py:" in line}
    documented = {(name.rpartition(".")[2], id(thing)) for name in there if (thing := look_up(name)) is not None}
    missing = [
        f"{module.__name__}.{name}"
        for module in PACKAGES
        for name in module.__all__
        if name != "__version__" and (name, id(getattr(module, name))) not in documented
    ]
    assert missing == []
    own = {name for name, thing in vars(errors).items() if isinstance(thing, type)}
    assert {name for name in own if f"fedmrn.errors.{name}" not in there} == set()
    assert len(PACKAGES) > 8


def look_up(name: str) -> object:
    """What a dotted name means, or None: an attribute of instances alone is nothing here."""
    thing: object = import_module("fedmrn")
    path = "fedmrn"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        if not hasattr(thing, part):
            try:
                import_module(path)
            except ModuleNotFoundError:
                return None
        thing = getattr(thing, part)
    return thing


def test_what_is_made_is_on_its_page(site: Path) -> None:
    there = {
        name: "".join(Shown((site / "reference" / name / "index.html").read_text("utf-8"), "article").parts)
        for name in ("options", "command-line")
    }
    assert "".join(Shown(MARKDOWN.render(options_part())).parts) in there["options"]
    for command in re.findall(r"^## `(fedmrn \w+)`$", commands_part(), re.M):
        assert f"<h2><code>{command.replace(' ', '')}" in there["command-line"]
    assert "<td><code>--engine[process|flower]<td>" in there["command-line"]


def test_nothing_is_asked_of_another_machine(site: Path) -> None:
    for page in site.rglob("*.html"):
        urls = Asked(page.read_text("utf-8")).urls
        assert urls
        assert [url for url in urls if re.match(r"[a-z]+:|//", url) and not url.startswith("data:")] == [], page
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//", text), style


class TestTheChecksCanFail:
    """Each finds what it is there to find."""

    def test_what_is_shown(self) -> None:
        html = "<p>no</p><article><h2>A <a class='headerlink'>P</a>b</h2><nav>x</nav><pre>a\n b</pre></article>no"
        assert Shown(html, "article").parts == ["<h2>", "Ab", "<pre>", "ab"]

    def test_what_is_asked(self) -> None:
        html = "<a href='https://a.b'>a</a><link href='https://c.d/e.css'><script src='f.js'></script>"
        assert Asked(html).urls == ["https://c.d/e.css", "f.js"]

    def test_names(self) -> None:
        assert look_up("fedmrn.attach") is look_up("fedmrn.torch.attach")
        assert look_up("fedmrn.flower.client.reply")
        assert look_up("fedmrn.nothing") is None
