"""Without an optional library: one line that says what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

BLOCK = """
import sys

BLOCKED = sys.argv.pop(1).split(",")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""
COMMAND = "from fedmrn.cli import main\nmain()"


def without(libraries: str, code: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", BLOCK + code, libraries, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [
        ("typer", ["methods"], "cli"),
        ("click", ["methods"], "cli"),
        ("rich", ["--help"], "cli"),
        ("pydantic", ["presets"], "cli"),
        ("matplotlib", ["report", "."], "cli"),
        ("torch", ["run", "fmnist-iid", "--data-dir", "absent"], "torch"),
        ("tomli_w", ["run", "fmnist-iid", "--data-dir", "absent"], "cli"),
        ("typer,rich,torch,pydantic,matplotlib,flwr,sklearn", [], "cli"),
    ],
)
def test_a_command(library: str, arguments: list[str], extra: str) -> None:
    code, err = without(library, COMMAND, *arguments)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: the command line needs ")
    assert f'pip install "fedmrn[{extra}]"' in err


@pytest.mark.parametrize(
    ("library", "code", "words"),
    [
        ("torch", "import fedmrn\nfedmrn.attach", 'fedmrn.torch needs torch: pip install "fedmrn[torch]"'),
        ("torch", "import fedmrn.torch.rules.through", 'fedmrn.torch needs torch: pip install "fedmrn[torch]"'),
        ("flwr", "import fedmrn.flower", 'fedmrn.flower needs flwr: pip install "fedmrn[flower]"'),
        ("flwr", "import fedmrn.flower.client", 'fedmrn.flower needs flwr: pip install "fedmrn[flower]"'),
    ],
)
def test_an_import(library: str, code: str, words: str) -> None:
    _, err = without(library, code)
    assert err.strip().splitlines()[-1] == f"ModuleNotFoundError: {words}"


@pytest.mark.parametrize("command", ["run", "compare"])
@pytest.mark.parametrize("tracker", ["tensorboard", "mlflow"])
def test_a_tracker(command: str, tracker: str) -> None:
    code, err = without(tracker, COMMAND, command, "digits", "--out", "nowhere", "--track", tracker)
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith(f"error: tracking by {tracker} needs what is not installed")
    assert f'pip install "fedmrn[{tracker}]"' in err
    assert not Path("nowhere").exists()


def test_a_server_needs_none_of_them() -> None:
    libraries = "torch,typer,rich,pydantic,matplotlib,flwr,sklearn,scipy,filelock,tomli_w,tensorboard,mlflow"
    code = "import fedmrn.server, fedmrn.codecs, fedmrn.wire.frame, fedmrn.methods, fedmrn.files; fedmrn.Server"
    assert without(libraries, code) == (0, "")


def test_another_fault_of_an_import_is_not_hidden() -> None:
    code, err = without("fedmrn.cli.app", COMMAND.replace("from", "sys.modules['fedmrn.cli.app'] = None\nfrom"))
    assert code == 1
    assert "ModuleNotFoundError" in err
