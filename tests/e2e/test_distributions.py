"""Wheel and source distribution: built from the tracked files, checked, and installed where nothing else is."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import fedmrn

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "support" / "server_alone.py"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NOT_SHIPPED = {".gitignore"}
FEW = 400
"""Megabytes that a server's installation takes at most."""


def ran(*command: str | Path, folder: Path | None = None, seconds: int = 600) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


def skip_without_registry(done: subprocess.CompletedProcess[str]) -> None:
    """Skip where pip found nobody to ask; any other failure is one."""
    said = done.stdout + done.stderr
    if done.returncode and ("NewConnectionError" in said or "No matching distribution found" in said):
        pytest.skip(f"pip cannot reach a registry: {said.strip().splitlines()[-1]}")
    assert done.returncode == 0, said


def python(version: str) -> str | None:
    """An interpreter of this version: on the path, or one of pyenv's."""
    found = [f"python{version}"]
    if pyenv := shutil.which("pyenv"):
        names = [n for n in ran(pyenv, "versions", "--bare").stdout.split() if n.startswith(f"{version}.")]
        found += [ran(pyenv, "prefix", name).stdout.strip() + "/bin/python" for name in names]
    for name in filter(shutil.which, found):
        done = ran(name, "-c", "import sys, venv, ensurepip; print('{}.{}'.format(*sys.version_info))")
        if done.stdout.strip() == version:
            return name
    return None


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """What git tracks, by paths from the root."""
    done = ran("git", "ls-files", "-z", folder=ROOT) if shutil.which("git") else None
    if done is None or done.returncode:
        pytest.skip("this is no clone: nobody knows which files are the project's")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions; the wheel is built from the source distribution, as pip would."""
    folder = tmp_path_factory.mktemp("distributions")
    for name in tracked:
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / "tree" / name)
    skip_without_registry(ran(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "tree"))
    return folder / "dist"


@pytest.mark.long
class TestTheDistributions:
    def test_pass_the_checks_of_an_index(self, built: Path) -> None:
        done = ran(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("PASSED") == 2

    def test_the_source_has_every_file_of_the_project(self, built: Path, tracked: set[str]) -> None:
        (path,) = built.glob("*.tar.gz")
        with tarfile.open(path) as archive:
            names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
        assert tracked - names == NOT_SHIPPED

    def test_the_wheel_has_the_library_and_no_other_file(self, built: Path, tracked: set[str]) -> None:
        (path,) = built.glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
        assert {"fedmrn/py.typed", "fedmrn/experiments/presets/digits.toml", "fedmrn/numerics/gaussian.bin"} <= names

    @pytest.mark.parametrize("version", PYTHONS)
    def test_a_server_runs_where_nothing_else_is(self, version: str, built: Path, tmp_path: Path) -> None:
        interpreter = python(version)
        if interpreter is None:
            pytest.skip(f"there is no Python {version} on this machine")
        env = tmp_path / "env"
        assert ran(interpreter, "-m", "venv", env).returncode == 0
        bare = size(env)
        (wheel,) = built.glob("*.whl")
        skip_without_registry(ran(env / "bin/pip", "install", "--quiet", "--disable-pip-version-check", wheel))
        ran(env / "bin/python", "-I", SCRIPT, folder=tmp_path)  # bytecode and kernels are made once
        done = ran(env / "bin/python", "-I", SCRIPT, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        found["megabytes"] = round((size(env) - bare) / 1e6)
        sys.stdout.write(f"\nPython {version}: {json.dumps(found)}\n")
        assert found["version"] == fedmrn.__version__
        assert found["unwanted"] == []
        assert found["off"] < 2**-23 + 2**-25, "one rounding of a mean below 1 to float32, and one of a state below 4"
        assert found["likeness"] > 0.5, "signed masks hand over most of an update"
        assert found["bytes"]["fedmrn-s"] < found["bytes"]["fedavg"] / 8
        assert found["megabytes"] < FEW
        said = ran(env / "bin/fedmrn", "--version", folder=tmp_path)
        assert (said.returncode, said.stderr.count("\n")) == (2, 1)
        assert 'pip install "fedmrn[cli]"' in said.stderr


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_version_stands_in_one_place_and_the_citation_agrees() -> None:
    assert f"version: {fedmrn.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {fedmrn.__version__} (" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_hooks_before_a_commit_are_the_checks_of_make() -> None:
    lines = (ROOT / "Makefile").read_text("utf-8").partition("\ncheck:")[2].splitlines()[1:]
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in lines[: lines.index("")]]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8").splitlines()
    assert [line.partition("entry: ")[2] for line in hooks if "entry: " in line] == checks
