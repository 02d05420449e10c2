"""An engine that is not installed is told before anything is read or written."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fedmrn.errors import ConfigError
from fedmrn.experiments.run.runner import run
from fedmrn.experiments.settings import load_setting
from fedmrn.flower import simulation as engine


class Silent:
    """Nothing may have begun."""

    def wait(self, text: str) -> AbstractContextManager[None]:
        raise AssertionError(text)

    start = client = round = wait


@pytest.mark.parametrize("absent", ["flwr", "ray"])
def test_it_is_told_before_the_folder_is_made(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if absent == "ray":
        monkeypatch.setattr(engine, "find_spec", lambda name: None)
    else:
        monkeypatch.delitem(sys.modules, "fedmrn.flower.simulation")
        monkeypatch.setitem(sys.modules, "flwr.clientapp", None)
    experiment = load_setting("digits").experiment("fedmrn", 1)
    with pytest.raises(ConfigError, match=r"flwr\[simulation\]"):
        run(experiment, tmp_path / "run", data_dir=tmp_path, resume=False, progress=Silent(), engine="flower")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
