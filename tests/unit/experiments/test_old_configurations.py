"""Run folders from before a method had all of its options."""

from pathlib import Path

import pytest
import tomli_w

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.run.folder import check_folder, read_experiment
from fedmrn.experiments.settings import load_setting


def _write(folder: Path, experiment: Experiment, drop: str) -> None:
    values = experiment.as_dict()
    del values["options"]["specific"][drop]
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


def test_the_table_of_a_method_s_options_may_have_its_old_name(tmp_path: Path) -> None:
    experiment = load_setting("digits", ["method.fedmrn.scale=0.02"]).experiment("fedmrn", 1)
    values = experiment.as_dict()
    values["options"]["options"] = values["options"].pop("specific")
    text = tomli_w.dumps(values)
    assert "[options.options]" in text
    (tmp_path / "config.toml").write_text(text)
    assert read_experiment(tmp_path) == experiment
    check_folder(tmp_path, experiment, resume=True)
    values["options"]["specific"] = {}
    with pytest.raises(ConfigError, match=r"unknown key options\.options; did you mean"):  # one of the two, not both
        Experiment.from_dict(values, "here")


def test_an_option_that_does_not_exist_is_still_refused() -> None:
    values = load_setting("digits").experiment("fedmrn", 1).as_dict()
    values["options"]["specific"]["nosie_key"] = "round"
    with pytest.raises(ConfigError, match="no option 'nosie_key'"):
        Experiment.from_dict(values, "here")
