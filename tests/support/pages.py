"""The pages of the documentation, their code blocks, and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = {"", "sh", "bash", "shell", "console"}
"""Languages of blocks that may hold commands; the first is that of indented blocks."""
_END = re.compile(r"^[;|&<>()]+$")
MARKDOWN = MarkdownIt("commonmark").enable("table")


class Block(NamedTuple):
    """A code block: its language ("" where it is only indented), its text, its page, and the line it starts in."""

    language: str
    text: str
    page: Path
    line: int

    def __str__(self) -> str:
        """Return where it is, for the name of a test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def tokens(page: Path) -> Iterator[Token]:
    """Yield the tokens of a page, inline ones too."""
    text = re.sub(r"\A---\n.*?\n---\n", lambda head: "\n" * head[0].count("\n"), page.read_text("utf-8"), flags=re.S)
    for token in MARKDOWN.parse(text):
        yield token
        yield from token.children or ()


def blocks(page: Path) -> Iterator[Block]:
    for token in tokens(page):
        if token.type in {"fence", "code_block"}:
            yield Block(token.info.strip(), token.content, page, (token.map or [0])[0] + 1)


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in blocks that may hold some, with variables that the page sets put in."""
    known: dict[str, str] = {}
    for block in blocks(page):
        if block.language in SHELL:
            yield from _commands(block.text, known)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of what a page's text calls a command of ours: `fedmrn run digits`."""
    for token in tokens(page):
        if token.type == "code_inline" and token.content.startswith("fedmrn "):
            yield from _commands(token.content, {})


def _commands(text: str, known: dict[str, str]) -> Iterator[list[str]]:
    for line in re.sub(r" *\\\n *", " ", text).splitlines():
        said = re.split(r"(?<=\S) {2,}|\s#", line.strip())[0]  # what follows is a remark
        if found := re.fullmatch(r'(\w+)="?([^"]*)"?', said):
            known[found[1]] = found[2]
            continue
        said = re.sub(r"\$(\w+)", lambda name: known.get(name[1], name[0]), said)
        if re.match(r"(?:\$ )?(?:fedmrn|make|pip|python|mkdocs|flwr|for|cd) ", said):
            yield from _split(said)


def _split(said: str) -> Iterator[list[str]]:
    """Yield the words of each command of a line."""
    lexer = shlex.shlex(said, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if not _END.match(word):
            command.append(word)
        elif command:
            yield _without_start(command)
            command = []


def _without_start(command: list[str]) -> list[str]:
    """Return a command without what a shell takes itself: keywords, variables, a prompt."""
    while command and (command[0] in {"do", "then", "time", "nohup", "$"} or re.fullmatch(r"\w+=.*", command[0])):
        command = command[1:]
    return command
