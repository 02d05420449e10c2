"""What mkdocs asks of us while it builds the site: parts of pages that are made from the sources, and links out of it.

A page holds a mark where a part belongs: `<!-- made: commands -->`. Anything that cannot be made is an error.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from posixpath import dirname, normpath

from commands import commands_part
from dialect import for_mkdocs, outside_code
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from options import options_part, table

import fedmrn

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"^<!-- made: ([\w-]+) ?(\S*) -->$", re.M)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CHANGELOG = "changelog.md"
HEADLINE = ("method", "final %", "total MB", "total saved")
"""The columns of a table of results that the front page shows."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the changelog, which stands outside of docs/."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8").replace("](docs/", "](")
    files.append(File.generated(config, CHANGELOG, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the parts that are made, and take out links that lead out of the site."""
    try:
        text = _MARK.sub(lambda mark: PARTS[mark[1]](mark[2]), markdown)
    except KeyError as error:
        raise PluginError(f"{page.file.src_uri}: there is no part {error} to make") from error
    return outside_code(for_mkdocs(text), lambda prose: _led_out(prose, page.file.src_uri, config.repo_url or ""))


def _led_out(prose: str, page: str, repository: str) -> str:
    """Return prose whose links to files outside of docs/ lead to the repository; without an address, to nowhere."""

    def led(link: re.Match[str]) -> str:
        picture, words, where = link.groups()
        target = normpath(f"docs/{dirname(page)}/{where}") if not re.match(r"[a-z]+:|#", where) else "docs/"
        if picture or target.startswith("docs/"):
            return link[0]
        return f"[{words}]({repository.rstrip('/')}/blob/main/{target})" if repository else words

    return _LINK.sub(led, prose)


def _face(_: str) -> str:
    """Return the names of `import fedmrn`, each a link to where its docstring is."""
    return "\n".join(f"- [`{name}`][fedmrn.{name}]" for name in fedmrn.__all__ if name[0] != "_")


def _headline(name: str) -> str:
    """Return the columns of a table of results that matter first."""
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    lines = text.split(f"<!-- table: {name} -->\n")[1].split("\n<!-- end -->")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    kept = [head.index(column) for column in HEADLINE]
    return table(HEADLINE, ([row[i] for i in kept] for row in rows))


PARTS: Mapping[str, Callable[[str], str]] = {
    "commands": lambda _: commands_part(),
    "face": _face,
    "headline": _headline,
    "options": lambda _: options_part(),
}
"""What a mark names -> the Markdown in its place, given the mark's second word."""
