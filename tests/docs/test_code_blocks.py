"""Every code block of README and docs: its language is one with a check, and the check passes.

Some are run, elsewhere: the recipes, the quickstarts, the method that is added, the wire format's examples.
"""

import ast
import inspect
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from pages import PAGES, ROOT, SHELL, Block, blocks, commands, inline_commands
from typer.main import get_command

from fedmrn.cli.app import app

BLOCKS = [block for page in PAGES for block in blocks(page)]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
OTHERS = {"torchvision", "timm", "datasets", "httpx", "tensorflow"}
"""Libraries that a page may import and that no test needs."""
READERS = {
    *("net", "loader", "model", "task", "app", "client_app", "server_app"),
    *("pytorchexample", "pytorchlightning_example", "huggingface_example"),  # of Flower's quickstarts
    "fedmrn.codecs.half",  # which the page adds
    "fedmrn.torch.rules.averaged",
}
"""Modules that are the reader's own."""


def python(text: str) -> None:
    """Parse it; find what it imports; find the arguments that it gives to what it imports from here."""
    tree = ast.parse(text)
    known = dict(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found(node, known)
        elif isinstance(node, ast.Call) and (thing := found(node.func, known)) is not None:
            check_arguments(node, thing)


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """Yield each name that is imported, and what it is; those of others and of the reader are left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if there(alias.name):
                    module = import_module(alias.name)
                    name = alias.asname or alias.name.partition(".")[0]
                    yield name, module if alias.asname else import_module(name)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level and there(node.module):
            module = import_module(node.module)
            for alias in node.names:
                thing = getattr(module, alias.name, None)
                yield alias.asname or alias.name, thing or import_module(f"{node.module}.{alias.name}")


def there(module: str) -> bool:
    root = module.partition(".")[0]
    if {root, module} & READERS or (root in OTHERS and find_spec(root) is None):
        return False
    assert find_spec(root), f"no module {root}"
    return True


def found(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """What an expression such as `fedmrn.flower.client.attach` is, if it starts with something of ours."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    owner = found(node.value, known)
    if isinstance(owner, ModuleType) and owner.__name__.startswith("fedmrn"):
        inner = f"{owner.__name__}.{node.attr}"
        return import_module(inner) if find_spec_of(inner) else getattr(owner, node.attr)
    return getattr(owner, node.attr) if inspect.isclass(owner) and owner.__module__.startswith("fedmrn") else None


def find_spec_of(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def check_arguments(call: ast.Call, thing: Any) -> None:
    """Bind a call's arguments to the signature; where it unpacks some, only the names that it gives."""
    if not callable(thing) or not (getattr(thing, "__module__", "") or "").startswith("fedmrn"):
        return
    try:
        signature = inspect.signature(thing)
    except ValueError:  # of an exception, which Python itself makes
        return
    elided = any(
        isinstance(arg, ast.Starred) or (isinstance(arg, ast.Constant) and arg.value is ...) for arg in call.args
    )
    names = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    if elided or len(names) < len(call.keywords):
        signature.bind_partial(**names)
    else:
        signature.bind(*call.args, **names)


def diff(text: str) -> None:
    """What is there after the change imports what exists, where its lines can be read alone."""
    for line in text.splitlines():
        if re.match(r"[+ ]\s*(?:from [\w.]+ import [\w, ]+|import [\w.]+)$", line):
            dict(imported(ast.parse(line[1:].strip())))


def indented(text: str) -> None:
    """A table of a configuration that stands in an indented block is TOML; commands have a test of their own."""
    for part in re.findall(r"(?:^\[[\w.-]+\]\n(?:[\w-]+ = .*\n)+)", text, re.M):
        tomllib.loads(part)


def javascript(text: str) -> None:
    """Node parses it, as a module."""
    if node := shutil.which("node"):
        done = subprocess.run([node, "--input-type=module", "--check", "-"], input=text, text=True, check=False)
        assert done.returncode == 0


def free(text: str) -> None:
    """Output, or a format that tests of its own read."""
    assert text.strip()


CHECKS: Mapping[str, Callable[[str], None]] = {
    "python": python,
    "diff": diff,
    "toml": lambda text: tomllib.loads(text) and None,
    "json": lambda text: json.loads(text) and None,
    "js": javascript,
    "javascript": javascript,
    "": indented,
    "text": free,
    "http": free,
    "hex": free,  # with `layout`: tests/golden/test_wire_document.py
    "layout": free,
    **dict.fromkeys(SHELL - {""}, free),
}
"""Language -> what has to pass."""


def test_there_are_blocks() -> None:
    assert len(BLOCKS) > 100


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_right(block: Block) -> None:
    language = block.language.split()[0] if block.language else ""
    assert language in CHECKS, "a language without a check: say which in CHECKS"
    CHECKS[language](block.text)


def check_command(words: list[str]) -> None:
    """Parse a command as the program would that it calls; run nothing."""
    match words:
        case ["fedmrn"] | ["fedmrn", "--version" | "--help"]:
            pass
        case ["fedmrn", kind, *rest]:
            group = get_command(app)
            assert isinstance(group, click.Group)
            assert kind in group.commands, f"there is no command {kind}"
            command = group.commands[kind]
            if "--help" in rest:
                return
            command.make_context(kind, list(rest))
        case ["pip", "install", *rest]:
            named = {name for word in rest for name in re.findall(r"(?:fedmrn|\.)\[([\w,-]+)\]", word)}
            extras = {extra for names in named for extra in names.split(",")}
            assert extras <= EXTRAS.keys()
        case ["make", *rest]:
            targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
            assert {word for word in rest if "=" not in word} <= targets
        case ["python", "-m", module, *_]:
            assert find_spec(module)
        case ["python", script, *_] if "/" in script:
            assert (ROOT / script).is_file()


@pytest.fixture(autouse=True)
def _no_path_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    for words in [*commands(page), *inline_commands(page)]:
        try:
            check_command(words)
        except click.MissingParameter:
            assert words in [*inline_commands(page)]  # text may name a command without what it works on
        except (click.ClickException, AssertionError) as error:
            said = error.format_message() if isinstance(error, click.ClickException) else error
            pytest.fail(f"{' '.join(words)}: {said}")


class TestTheChecksCanFail:
    """Each finds what it is there to find."""

    @pytest.mark.parametrize(
        "text",
        [
            "x = (",
            "import no_such_module",
            "from fedmrn import atach",
            "import fedmrn\nfedmrn.flower.client.atach",
            "from fedmrn import Server\nServer.strat",
            "from fedmrn import attach\nattach(model, optimizer, broadcast, step=3)",
            "from fedmrn import attach\nattach(model, optimizer)",
            "from fedmrn.flower import FedMRN\nFedMRN(..., calibrat=True)\nFedMRN(*a, b=1)\nFedMRN.begn",
        ],
    )
    def test_python(self, text: str) -> None:
        with pytest.raises((SyntaxError, ImportError, AttributeError, TypeError, AssertionError)):
            python(text)

    def test_an_import_of_a_diff(self) -> None:
        with pytest.raises(ImportError):
            diff("-from fedmrn import gone\n+from fedmrn.flower import FedMNR\n")

    @pytest.mark.parametrize(
        "command",
        [
            "fedmrn rum digits",
            "fedmrn run digits --sed 1",
            "fedmrn run digits --seed one",
            "fedmrn inspect",
            "pip install -e .[clii]",
            "make tset",
            "python bench/suit.py",
        ],
    )
    def test_a_command(self, command: str) -> None:
        with pytest.raises((click.ClickException, AssertionError)):
            check_command(command.split())

    def test_commands_are_found(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text(
            'Say `fedmrn presets`.\n\n    common="--seed 3"\n    fedmrn run digits $common   a remark\n\n'
            "1. *So*:\n\n       make run  # a remark\n\n"
            "```sh\nfor s in 1 2; do fedmrn run digits \\\n  --seed $s; done && A=1 pip install .\n```\n"
        )
        assert list(commands(page)) == [
            ["fedmrn", "run", "digits", "--seed", "3"],
            ["make", "run"],
            ["for", "s", "in", "1", "2"],
            ["fedmrn", "run", "digits", "--seed", "$s"],
            ["done"],
            ["pip", "install", "."],
        ]
        assert list(inline_commands(page)) == [["fedmrn", "presets"]]
