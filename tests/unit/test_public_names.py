"""The public names, pinned: what `import fedmrn` offers, what each package offers, and that nothing else is public."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import fedmrn
from fedmrn import errors

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "fedmrn"
MODULES = sorted(SRC.rglob("*.py"))
FACE = [
    "METHODS",
    "EmptyRoundError",
    "EncodeError",
    "FedmrnError",
    "Frame",
    "FrameError",
    "Group",
    "Held",
    "Layout",
    "Limits",
    "ModelLayout",
    "PublicGrid",
    "Selection",
    "Server",
    "TensorSpec",
    "UnusableModelError",
    "UsageError",
    "__version__",
    "attach",
    "method",
]
PUBLIC = {
    "fedmrn": FACE,
    "fedmrn.cli": ["main"],
    "fedmrn.cli.commands": [],
    "fedmrn.codecs": [
        "CHUNK",
        "CODECS",
        "DENSITY",
        "NOISE_SCALE",
        "Bernoulli",
        "Codec",
        "CodedMask",
        "EncodeKeys",
        "FitsUpdate",
        "Fixed",
        "Float8",
        "Float16",
        "InterleavedMask",
        "Levels",
        "MaskCodec",
        "MaskedNoise",
        "NoiseScale",
        "Observable",
        "Observed",
        "Opened",
        "OwnScale",
        "Plane",
        "RandomCode",
        "Raw",
        "Rotated",
        "ScaleRule",
        "ShorterMask",
        "Sign",
        "SignRule",
        "Sparse",
        "Support",
        "Ternary",
        "Told",
        "ToldScale",
        "codec_from",
    ],
    "fedmrn.codecs.mask": [],
    "fedmrn.data": [
        "DATASETS",
        "PARTITIONS",
        "SCORES",
        "Arrays",
        "Dataset",
        "FolderSource",
        "PartitionSpec",
        "RemoteFile",
        "Source",
        "Task",
        "augment",
        "by_role",
        "draw_partition",
        "find_source",
        "holdings",
        "load",
        "load_source",
        "partition",
        "plot_partition",
        "subset",
    ],
    "fedmrn.data.own": ["Wanted", "call", "find_object", "load_own", "told"],
    "fedmrn.experiments": [],
    "fedmrn.experiments.many": [],
    "fedmrn.experiments.run": [],
    "fedmrn.federation": [],
    "fedmrn.flower": ["FedMRN", "RoundReport"],
    "fedmrn.http": [
        "HttpServer",
        "Outcome",
        "Plan",
        "Tokens",
        "new_tokens",
        "open_server",
        "read_tokens",
        "write_tokens",
    ],
    "fedmrn.methods": [
        "ANY",
        "AUTO",
        "DOWN",
        "MASKED",
        "METHODS",
        "PRIVATE",
        "SIDE",
        "Accept",
        "Method",
        "Option",
        "Options",
        "ReadBy",
        "Value",
        "check_consent",
        "method",
    ],
    "fedmrn.models": [],
    "fedmrn.numerics": [],
    "fedmrn.results": ["Collection", "import_runs", "read_collection", "write_collection", "write_results"],
    "fedmrn.privacy": ["DELTA", "Mechanism", "PrivateRounds", "epsilon_of", "theta_for"],
    "fedmrn.report": ["Report", "check_formats", "check_targets", "find_runs", "write_report"],
    "fedmrn.secure": ["Collector", "SecureSum", "SumMember"],
    "fedmrn.server": ["Carried", "Clipping", "EdgeRound", "PublicGrid", "Round", "Server"],
    "fedmrn.torch": [
        "LocalData",
        "LocalRule",
        "MaskedTraining",
        "ModelLayout",
        "Selection",
        "Training",
        "answer_calibration",
        "attach",
        "calibrate",
        "default_choice",
        "evaluate",
        "load_model",
        "local_rule",
        "train",
        "train_client",
        "unwrapped",
    ],
    "fedmrn.torch.fast": [],
    "fedmrn.torch.rules": [],
    "fedmrn.tracking": [
        "TRACKERS",
        "MLflow",
        "Measured",
        "Place",
        "Point",
        "TensorBoard",
        "Tracker",
        "Tracking",
        "check_trackers",
        "find_trackers",
    ],
    "fedmrn.wire": [],
}
"""Module -> its `__all__`. An empty one: what the package holds is imported from its modules."""

EXPLAINED = {
    "fedmrn.reference": "a file to read from end to end",
}
"""Modules whose public names need no user elsewhere -> why."""

HEAVY = {
    "numpy",
    "numba",
    "constriction",
    "torch",
    "triton",
    "flwr",
    "mlflow",
    "ray",
    "tensorboard",
    "pydantic",
    "matplotlib",
    "scipy",
    "sklearn",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def in_a_fresh_process(code: str) -> set[str]:
    """The top-level modules that are loaded after some code."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split())


def test_the_face() -> None:
    assert fedmrn.__all__ == FACE
    assert dir(fedmrn) == sorted(FACE)
    for name in FACE:
        assert getattr(fedmrn, name) is not None


def test_the_names_are_those_of_the_packages() -> None:
    for name, home in [("attach", "torch"), ("Server", "server"), ("method", "methods"), ("Frame", "wire.frame")]:
        assert getattr(fedmrn, name) is getattr(import_module(f"fedmrn.{home}"), name)


def test_importing_the_library_imports_nothing_heavy() -> None:
    loaded = in_a_fresh_process("import fedmrn\nassert dir(fedmrn)\nassert fedmrn.FrameError")
    assert "fedmrn" in loaded
    assert not loaded & HEAVY


def test_the_servers_names_import_neither_a_compiler_nor_a_training_framework() -> None:
    loaded = in_a_fresh_process("from fedmrn import METHODS, Frame, Group, Layout, Limits, Server, TensorSpec, method")
    assert "numpy" in loaded
    assert not loaded & (HEAVY - {"numpy", "constriction"})


def test_the_compiler_comes_with_the_first_kernel() -> None:
    loaded = in_a_fresh_process("from fedmrn.numerics.rng import Stream\nStream(0, 0).words(0, 1)")
    assert "numba" in loaded


@pytest.mark.parametrize("command", ["", "run ", "sweep "])
def test_the_command_lines_help_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys; from fedmrn.cli import main; sys.argv = '{command}--help'.split()\nsys.argv.insert(0, 'fedmrn')"
    )
    loaded = in_a_fresh_process(code + "\ntry:\n main()\nexcept SystemExit:\n pass")
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_the_clients_names_import_torch() -> None:
    assert "torch" in in_a_fresh_process("from fedmrn import ModelLayout, attach")


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Sever': it has METHODS, .*Server, .*method; the rest"):
        fedmrn.Sever  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ImportError, match="Sever"):
        exec("from fedmrn import Sever")  # noqa: S102


def test_the_roots_of_the_errors_are_in_the_face() -> None:
    """All but the one of worker processes, which the command line alone has."""
    roots = {e for e in vars(errors).values() if isinstance(e, type) and e.__base__ is errors.FedmrnError}
    assert {"FedmrnError", *(root.__name__ for root in roots)} - {"WorkerError"} == {n for n in FACE if "Error" in n}


def test_every_package_says_what_it_offers() -> None:
    packages = {module_name(path) for path in MODULES if path.name == "__init__.py"}
    assert packages <= PUBLIC.keys()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_what_a_module_offers(path: Path) -> None:
    name = module_name(path)
    if name == "fedmrn.__main__":
        return
    if name.startswith("fedmrn.flower"):
        pytest.importorskip("flwr")
    if name == "fedmrn.torch.fast.gpu":
        pytest.importorskip("triton")
    if name.startswith("fedmrn.http"):
        pytest.importorskip("httpx")
        pytest.importorskip("starlette")
        pytest.importorskip("uvicorn")
    module = import_module(name)
    assert getattr(module, "__all__", None) == PUBLIC.get(name)
    assert {n for n in PUBLIC.get(name, []) if not hasattr(module, n)} == set()


def public(tree: ast.Module) -> set[str]:
    """Public names that a module's top level makes: classes, functions, constants, names of types."""
    targets: list[ast.expr] = []
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    parts = (part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target]))
    names |= {part.id for part in parts if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def asked_of_others(tree: ast.AST) -> Iterator[str]:
    """Names that a file imports, reads as an attribute, or sets by its name, as tests do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            words = (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
            yield from (word.rpartition(".")[2] for word in words)


def types_told(tree: ast.Module) -> Iterator[str]:
    """Names in annotations, and in what names of types are made of: whoever reads a signature may look them up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            told = node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            told = node.returns
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript | ast.BinOp):
            told = node.value
        else:
            continue
        for part in ast.walk(told):
            if isinstance(part, ast.Name):
                yield part.id
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


TREES = {
    path: ast.parse(path.read_text("utf-8"))
    for folder in ("src", "tests", "bench", "studies", "examples", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
ASKED = {path: set(asked_of_others(tree)) for path, tree in TREES.items()}
ASKING = Counter(name for names in ASKED.values() for name in names)
"""Name -> how many files ask others for it."""


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_what_only_its_module_uses_is_private(path: Path) -> None:
    if module_name(path) in EXPLAINED:
        return
    alone = {name for name in public(TREES[path]) if ASKING[name] <= (name in ASKED[path])}
    free = alone - {*types_told(TREES[path]), *PUBLIC.get(module_name(path), [])}
    assert not free, "give it a leading underscore, or delete it"


class TestTheChecksCanFail:
    """Each finds what it is there to find."""

    def test_public_names(self) -> None:
        code = "class A: ...\ndef f(): ...\ndef _g(): ...\nX = 1\nY, _Z = 1, 2\nT: int = 3\n_C[a] = b.c = 4\nimport os"
        assert public(ast.parse(code)) == {"A", "f", "X", "Y", "T"}

    def test_names_asked_of_others(self) -> None:
        code = "from a.b import c as d, e\nimport f\nf.g.h(i)\np.setattr('a.J', 1)\np.setattr(m, 'K', 'l')"
        assert {*asked_of_others(ast.parse(code))} >= {"c", "e", "g", "h", "J", "K"}
        assert not {"a", "b", "d", "f", "i"} & {*asked_of_others(ast.parse(code))}

    def test_types_told(self) -> None:
        code = "def f(a: A, *b: list[B]) -> 'C': ...\nx: D = d\nE = dict[str, F]\ny = z"
        assert {"A", "B", "C", "D", "F"} <= {*types_told(ast.parse(code))}
        assert not {"f", "d", "y", "z"} & {*types_told(ast.parse(code))}
