"""The house rules that no linter knows, checked against the tree: a new module or package cannot be forgotten."""

import ast
import inspect
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmrn import codecs

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "fedmrn"
MODULES = sorted(SRC.rglob("*.py"))
TREES = {path: ast.parse(path.read_text("utf-8")) for path in MODULES}
LONGEST = 300

SHARED_NAMES = {
    "attach": "a client's one call, documented: in a loop of one's own, and in a Flower app, from a message",
    "calibrate": "of batch norm's statistics: the same two calls",
    "load": "of a data set by name; and a Flower client's one call before it evaluates",
}
"""Public names that stand in more than one module -> why they must."""

DYNAMIC = {
    "fedmrn.files": "names of the module `os` that not every system has",
    "fedmrn.codecs.rotated": "a thread's own cache (threading.local), which is empty in a new thread",
}
"""Modules that ask an object for an attribute by name (getattr, hasattr) -> whose object, and why not by a type."""


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def contracts(kind: str) -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return [c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == kind]


def floors(contract: dict[str, Any]) -> set[str]:
    """The names in a layers contract."""
    return {name.strip() for layer in contract["layers"] for name in layer.replace(":", "|").split("|")}


def test_modules_are_found() -> None:
    assert len(MODULES) > 80


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_can_be_read_in_one_sitting(path: Path) -> None:
    lines = path.read_text("utf-8").count("\n")
    assert lines <= LONGEST, "split it by job"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(TREES[path])


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES}
    assert not {str(folder) for folder in folders if not (folder / "__init__.py").is_file()}


def test_no_two_modules_of_tests_share_a_name() -> None:
    """Their folders are no packages: a second one of a name could not be collected, and nothing would run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, times in names.items() if times > 1] == []


def test_contracts_of_floors_are_checked_against_the_tree() -> None:
    """With `exhaustive`, import-linter itself fails where a module of the container is not named."""
    for contract in contracts("layers"):
        assert contract["containers"], contract["name"]
        assert contract.get("exhaustive") is True, contract["name"]
        assert "exhaustive_ignores" not in contract, contract["name"]


def test_every_part_of_the_library_has_its_floor() -> None:
    (contract,) = (c for c in contracts("layers") if c["containers"] == ["fedmrn"])
    packages = {folder.name for folder in SRC.iterdir() if (folder / "__init__.py").is_file()}
    modules = {path.stem for path in SRC.glob("*.py")} - {"__init__"}
    assert floors(contract) == packages | modules


def test_floors_that_are_named_are_there() -> None:
    """No name is optional, and none is left over from before."""
    for contract in contracts("layers"):
        for container in contract["containers"]:
            folder = SRC.parent.joinpath(*container.split("."))
            for name in floors(contract):
                assert (folder / name).is_dir() or (folder / f"{name}.py").is_file(), f"{container}: {name}"


def test_no_cycle_is_allowed_for() -> None:
    (contract,) = contracts("acyclic_siblings")
    assert contract["ancestors"] == ["fedmrn"]


def public(tree: ast.Module) -> Iterator[str]:
    """Classes and functions of a module's top level."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name


def test_no_two_public_things_share_a_name() -> None:
    homes = defaultdict(list)
    for path, tree in TREES.items():
        for name in {*public(tree)}:  # an overload is one thing
            homes[name].append(module_name(path))
    shared = {name: where for name, where in homes.items() if len(where) > 1}
    assert shared.keys() == SHARED_NAMES.keys(), "\n".join(f"{n}: {', '.join(w)}" for n, w in sorted(shared.items()))


CODECS = {
    name
    for module in [codecs, *vars(codecs).values()]
    if inspect.ismodule(module)
    for name, thing in vars(module).items()
    if inspect.isclass(thing) and issubclass(thing, codecs.Codec)
}
OUTSIDE = [path for path in MODULES if not path.is_relative_to(SRC / "codecs")]


def codec_names(tree: ast.Module) -> dict[str, str]:
    """What a module calls the codec classes that it imports -> their names."""
    return {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedmrn.codecs")
        for alias in node.names
        if alias.name in CODECS
    }


def asked_for(tree: ast.Module) -> Iterator[tuple[int, ast.expr]]:
    """(line, class) wherever code asks what class something is of: isinstance, issubclass, match, `type(x) is`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in {"isinstance", "issubclass"}:
                yield from ((node.lineno, part) for part in ast.walk(node.args[1]) if isinstance(part, ast.expr))
        elif isinstance(node, ast.MatchClass):
            yield node.cls.lineno, node.cls
        elif isinstance(node, ast.Compare) and any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
            yield from ((node.lineno, part) for part in (node.left, *node.comparators))


def questions(tree: ast.Module) -> list[str]:
    names = codec_names(tree)
    found = []
    for line, part in asked_for(tree):
        called = part.id if isinstance(part, ast.Name) else part.attr if isinstance(part, ast.Attribute) else ""
        if called in names or (isinstance(part, ast.Attribute) and called in CODECS):
            found.append(f"line {line}: {called}")
    return found


@pytest.mark.parametrize("path", OUTSIDE, ids=module_name)
def test_nobody_asks_what_class_a_codec_is_of(path: Path) -> None:
    assert not questions(TREES[path]), "let the codec answer: a method or a property of fedmrn.codecs.Codec"


def private_imports(tree: ast.Module) -> list[str]:
    """Private names that are imported from elsewhere."""
    return [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]


SCRIPTS = sorted(
    path for folder in ("bench", "studies", "examples", "tools", "vectors") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", [*MODULES, *SCRIPTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_private_is_imported(path: Path) -> None:
    assert not private_imports(ast.parse(path.read_text("utf-8")))


def asks_by_name(tree: ast.Module) -> list[int]:
    """Lines with getattr or hasattr of a name that is written out; a module may be asked for what a system lacks."""
    modules = {a.asname or a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"getattr", "hasattr"}
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
        and not (isinstance(node.args[0], ast.Name) and node.args[0].id in modules)
    ]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_protocol_by_getattr(path: Path) -> None:
    lines = asks_by_name(TREES[path])
    assert bool(lines) == (module_name(path) in DYNAMIC), f"lines {lines}: say it by a class with that method"


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_scripts_that_pages_name_are_there(page: Path) -> None:
    named = set(re.findall(r"\b(?:bench|studies|examples|tests)/[\w/.-]+\.py\b", page.read_text("utf-8")))
    assert not {name for name in named if not (ROOT / name).is_file()}


class TestTheChecksCanFail:
    """Each finds what it is there to find."""

    def test_codec_classes_are_known(self) -> None:
        assert {"Codec", "MaskedNoise", "Bernoulli", "RandomCode", "Float16"} <= CODECS
        assert "EncodeKeys" not in CODECS

    @pytest.mark.parametrize(
        "code",
        [
            "from fedmrn.codecs import MaskedNoise\nisinstance(c, MaskedNoise)",
            "from fedmrn.codecs import MaskedNoise as M, RandomCode\nisinstance(c, (int, M))",
            "from fedmrn.codecs import MaskedNoise as M, RandomCode\nisinstance(c, M | RandomCode)",
            "from fedmrn import codecs\nisinstance(c, codecs.MaskedNoise)",
            "from fedmrn.codecs.raw import Raw\nmatch c:\n    case Raw():\n        pass",
            "from fedmrn.codecs import Sparse\ntype(c) is Sparse",
        ],
    )
    def test_questions_are_found(self, code: str) -> None:
        assert questions(ast.parse(code))

    @pytest.mark.parametrize(
        "code",
        [
            "from fedmrn.torch import MaskedNoise\nisinstance(c, MaskedNoise)",
            "from fedmrn.codecs import Codec\nx: dict[str, Codec] = {}\nisinstance(c, int)",
            "from fedmrn.codecs import Float16\nc = Float16()\nc is None",
        ],
    )
    def test_other_classes_may_be_asked_for(self, code: str) -> None:
        assert not questions(ast.parse(code))

    def test_attributes_by_name_are_found(self) -> None:
        assert asks_by_name(ast.parse("f = getattr(reader, 'fold', None)\nhasattr(reader, 'mask')")) == [1, 2]
        assert not asks_by_name(ast.parse("import os\ngetattr(config, name)\nhasattr(os, 'fork')"))

    def test_public_things(self) -> None:
        code = "class A: ...\ndef f(): ...\ndef _g(): ...\n@cache\ndef h(): ..."
        assert [*public(ast.parse(code))] == ["A", "f", "h"]

    def test_private_imports_are_found(self) -> None:
        assert private_imports(ast.parse("from fedmrn.wire import frame, _hidden")) == ["_hidden"]
        assert not private_imports(ast.parse("from fedmrn.wire import frame\nfrom fedmrn import __version__"))
