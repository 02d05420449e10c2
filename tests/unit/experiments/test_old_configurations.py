"""Run folders from before a method had all of its options."""

from pathlib import Path

import pytest
import tomli_w

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment, load_setting
from fedmrn.experiments.run.folder import check_folder, read_experiment


def _write(folder: Path, experiment: Experiment, drop: str) -> None:
    values = experiment.as_dict()
    del values["options"]["options"][drop]
    (folder / "config.toml").write_text(tomli_w.dumps(values))


@pytest.mark.parametrize("drop", ["noise_key", "coding", "noise"])
def test_an_option_that_is_not_there_has_its_default(tmp_path: Path, drop: str) -> None:
    experiment = load_setting("digits").experiment("fedmrn", 1)
    _write(tmp_path, experiment, drop)
    assert read_experiment(tmp_path) == experiment
    check_folder(tmp_path, experiment, resume=True)
    other = load_setting("digits", ["method.fedmrn.noise_key=round"]).experiment("fedmrn", 1)
    with pytest.raises(RunError, match="noise_key is 'client' there and 'round' here"):
        check_folder(tmp_path, other, resume=True)


def test_an_option_that_does_not_exist_is_still_refused() -> None:
    values = load_setting("digits").experiment("fedmrn", 1).as_dict()
    values["options"]["options"]["nosie_key"] = "round"
    with pytest.raises(ConfigError, match="no option 'nosie_key'"):
        Experiment.from_dict(values, "here")
