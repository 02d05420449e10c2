"""Settings that name data and code of a person's own: what they are called, where they are looked for, what is kept."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from own_files import modules_of, write_pictures

from fedmrn.errors import ConfigError, DataError, RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.many.cells import check
from fedmrn.experiments.many.sweep import load_sweep
from fedmrn.experiments.run.data_file import check_data, write_data
from fedmrn.experiments.run.folder import check_folder, finished, read_experiment
from fedmrn.experiments.run.prepare import prepare
from fedmrn.experiments.settings import Setting, load_setting
from fedmrn.report.naming import setting, title

MINE = """
[data]
source = "pictures"
clients = 2
min_size = 1
[model]
name = "net_of_settings:Net"
[train]
rounds = 2
clients_per_round = 1
"""
NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, classes))
"""


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[str]:
    """A setting in a folder of its own, with pictures and a module beside it."""
    with modules_of(tmp_path / "place") as folder:
        write_pictures(folder / "pictures")
        (folder / "net_of_settings.py").write_text(NET)
        (folder / "mine.toml").write_text(MINE)
        yield str(folder / "mine.toml")


def test_data_of_ones_own_are_looked_for_beside_the_file(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(mine).parent
    for where, source in ((folder, "mine.toml"), (folder.parent, "place/mine.toml"), (Path("/"), mine)):
        monkeypatch.chdir(where)
        experiment = load_setting(source).experiment("fedmrn", 1)
        assert (experiment.data.name, experiment.data.source) == ("pictures", "pictures")
        assert experiment.folder == str(folder)
        assert experiment.own
        assert experiment.code == ["net_of_settings:Net"]
    built = prepare(experiment, folder)
    assert built.dataset.class_names == ("circle", "cross", "square")
    assert built.federation.train_x.shape == (9, 1, 8, 8)
    assert built.federation.training.channels_last


def test_a_preset_looks_in_the_current_folder_and_a_sweep_in_its_own(
    mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(mine).parent
    monkeypatch.chdir(folder)
    assert load_setting("digits", ["data.source=pictures"]).experiment("fedmrn", 1).folder == str(folder)
    monkeypatch.chdir("/")
    (folder / "many.toml").write_text(
        'preset = ["digits", "mine.toml"]\nmethods = ["fedavg"]\nseeds = [1]\n[set]\ndata.source = "pictures"\n'
    )
    sweep = load_sweep(str(folder / "many.toml"))
    assert {Path(cell.experiment.folder) for cell in sweep.cells} == {folder}
    check([cell.experiment for cell in sweep.cells if cell.experiment.model.name != "cnn-digits"], folder)


def test_nothing_changes_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = load_setting("digits").experiment("fedmrn", 1)
    assert (experiment.folder, experiment.own, experiment.code, experiment.data.source) == ("", False, [], "")
    assert load_setting("digits", ["data.source=digits"]).experiment("fedmrn", 1) == experiment
    assert not any("split_seed" in key or "source" in key for key, _ in setting(experiment))


def name_of(*changes: str, text: str = "") -> tuple[str, str]:
    path = Path("s.toml")
    path.write_text(text)
    data = load_setting(str(path), changes).data
    return data.name, data.source


def test_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    birds = '[data]\nsource = "/somewhere/else/birds"\n'
    assert name_of(text=birds) == ("birds", "/somewhere/else/birds")
    assert name_of(text=birds + 'name = "birds, cut"\n') == ("birds, cut", "/somewhere/else/birds")
    assert name_of("data.source=a:load", text=birds + 'name = "x"\n') == ("a:load", "a:load")
    assert name_of("data.name=x", text=birds) == ("x", "/somewhere/else/birds")
    assert name_of("data.name=mnist", text=birds) == ("mnist", "")
    assert name_of("data.source=p/", text='[data]\nname = "mnist"') == ("p", "p/")
    assert name_of("data.source=mnist", text=birds) == ("mnist", "")
    for text, words in (
        ('name = "mnist"\nsource = "birds"', "data.name = 'mnist' is another data set"),
        ('name = "birds"\nsource = "mnist"', "data.source is 'mnist', a data set that is known"),
        ("source = 3", "data.source = 3: input should be a valid string"),
        ('image_size = "big"', "data.image_size"),
        ("test_share = 0.0", "data.test_share"),
        ("split_seed = -1", "data.split_seed"),
        ('sorce = "birds"', "unknown key data.sorce; did you mean 'data.source'"),
    ):
        with pytest.raises(ConfigError, match=words):
            name_of(text=f"[data]\n{text}\n")
    with pytest.raises(ConfigError, match="unknown key folder"):
        name_of(text='folder = "/tmp"\n')


def test_a_run_that_was_moved_is_the_same_run(mine: str, tmp_path: Path) -> None:
    here = load_setting(mine).experiment("fedmrn", 1)
    there = replace(here, folder="/elsewhere")
    assert here == there
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text(tomli_w.dumps(there.as_dict()))
    assert read_experiment(run).folder == "/elsewhere"
    check_folder(run, here, resume=True)
    assert not finished(run, here)
    with pytest.raises(RunError) as caught:
        check_folder(run, replace(here, seed=2), resume=True)
    assert "seed is 1 there and 2 here" in str(caught.value)
    assert "elsewhere" not in str(caught.value)


def test_a_configuration_from_before_is_read() -> None:
    values = load_setting("digits").experiment("fedmrn", 1).as_dict()
    del values["folder"], values["train"]["test_every"]
    for key in ("source", "image_size", "test_share", "split_seed"):
        del values["data"][key]
    assert Experiment.from_dict(values, "w") == load_setting("digits").experiment("fedmrn", 1)


def test_reports_call_data_by_their_name(mine: str) -> None:
    one = load_setting(mine).experiment("fedmrn", 1)
    assert title(one).startswith("pictures, iid, 1 of 2 clients a round")
    assert {"data.source", "data.split_seed"} <= dict(setting(one)).keys()


def test_the_data_of_a_run_are_remembered(mine: str, tmp_path: Path) -> None:
    built = prepare(load_setting(mine).experiment("fedmrn", 1), tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    digest = check_data(run, built.dataset)
    write_data(run, built.dataset, digest)
    other = replace(built.dataset, train_y=built.dataset.train_y.flip(0))
    check_data(run, other)  # nothing was run yet
    (run / "config.toml").write_text("")
    assert check_data(run, built.dataset) == digest
    with pytest.raises(RunError, match=r"holds a run of other data: pictures has SHA-256 \w{16}.* put the data back"):
        check_data(run, other)
    (run / "data.json").unlink()  # of an older version
    assert check_data(run, other) == other.digest()
    for damaged in ("", "[]", '{"sha256": 3}', '{"sha256": "zz"}', "[" * 99_999):
        (run / "data.json").write_text(damaged)
        with pytest.raises(RunError, match=r"data\.json: .*delete it") as caught:
            check_data(run, other)
        assert str(caught.value).isprintable()


def test_published_data_are_not(tmp_path: Path) -> None:
    built = prepare(load_setting("digits").experiment("fedmrn", 1), tmp_path)
    assert check_data(tmp_path, built.dataset) == ""
    write_data(tmp_path, built.dataset, "")
    assert not (tmp_path / "data.json").exists()


def test_another_process_must_load_the_same(mine: str, tmp_path: Path) -> None:
    experiment = load_setting(mine).experiment("fedmrn", 1)
    digest = prepare(experiment, tmp_path).dataset.digest()
    prepare(experiment, tmp_path, digest=digest)
    (Path(mine).parent / "pictures/cross/0.png").unlink()
    with pytest.raises(DataError, match="pictures: another process loaded other data"):
        prepare(experiment, tmp_path, digest=digest)


WIDE = """
import numpy as np
from torch import nn

def load():
    x = np.zeros((4, 3, 500, 1000), np.float32)
    return x, np.arange(4) % 2, x, np.arange(4) % 2

class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1_500_000, 2)

    def forward(self, x):
        return self.linear(x.view(len(x), -1))
"""


def test_what_a_model_cannot_take_it_does_not_get(mine: str, tmp_path: Path) -> None:
    """Images with channels-last strides, for one that calls `view`; a thousand of a megapixel, for testing."""
    (Path(mine).parent / "wide_of_settings.py").write_text(WIDE)
    changes = ["model.name=wide_of_settings:Views", "data.source=wide_of_settings:load"]
    federation = prepare(load_setting(mine, changes).experiment("fedmrn", 1), tmp_path).federation
    assert not federation.training.channels_last
    assert federation.objective.batch == 2
    small = prepare(load_setting(mine).experiment("fedmrn", 1), tmp_path).federation
    assert small.training.channels_last
    assert small.objective.batch == 1000


def test_a_setting_made_in_code_has_no_folder() -> None:
    assert Setting(name="x").experiment("fedmrn", 1).folder == ""
