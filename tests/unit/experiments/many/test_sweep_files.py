"""Sweep files: what they resolve to, each experiment once; mistakes are told before anything runs."""

from collections import Counter
from pathlib import Path

import pytest

from fedmrn.errors import ConfigError
from fedmrn.experiments.many.blocks import sweeps
from fedmrn.experiments.many.sweep import Cell, Sweep, load_sweep
from fedmrn.experiments.settings import load_setting, presets
from fedmrn.methods import METHODS

HEAD = 'preset = "digits"\nmethods = ["fedmrn"]\nseeds = [1]\n'


def load(folder: Path, text: str, *changes: str) -> Sweep:
    (folder / "mine.toml").write_text(text)
    return load_sweep(str(folder / "mine.toml"), changes)


def folders(cells: list[Cell]) -> list[str]:
    return [str(cell.folder) for cell in cells]


def test_a_product_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        'description = "d"\npreset = "digits"\nmethods = ["fedmrn", "fedavg"]\nseeds = [2, 1]\n'
        '[set]\ntrain.rounds = 3\n"train.local_epochs" = 1\n'
        '[axes]\nmethod.lr = [0.1, 0.25]\ndata.partition = ["iid", "labels"]\n',
    )
    assert (found.name, found.description) == ("mine", "d")
    assert folders(found.cells) == [
        f"lr={lr},partition={kind}/{method}-seed{seed}"
        for lr in ("0.1", "0.25")
        for kind in ("iid", "labels")
        for method in ("fedmrn", "fedavg")
        for seed in (2, 1)
    ]
    assert [cell for table in found.tables.values() for cell in table] == found.cells
    for cell in found.cells:
        e = cell.experiment
        assert (e.train.rounds, e.train.local_epochs) == (3, 1)
        assert f"lr={e.options.lr},partition={e.data.partition}/{e.method}-seed{e.seed}" == str(cell.folder)


def test_a_cell_is_what_a_run_with_the_same_changes_is(tmp_path: Path) -> None:
    """But for the threads: results do not depend on the cores of a machine."""
    text = HEAD + '[axes]\nmethod.noise = ["gaussian"]\nmethod.fedmrn.scale = [0.02]\n[set]\nmethod.lr = 0.3\n'
    (cell,) = load(tmp_path, text, "data.alpha=0.7").cells
    words = ["method.noise=gaussian", "method.fedmrn.scale=0.02", "method.lr=0.3", "data.alpha=0.7"]
    assert cell.experiment == load_setting("digits", [*words, "train.threads=1"]).experiment("fedmrn", 1)
    (other,) = load(tmp_path, HEAD, "train.threads=3").cells
    assert other.experiment.train.threads == 3
    for said in (load(tmp_path, HEAD, "train.threads=0"), load(tmp_path, HEAD + "set.train.threads = 0\n")):
        assert said.cells[0].experiment.train.threads == 0


def test_blocks_take_what_they_do_not_say_from_the_file(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        HEAD + "[set]\nmethod.lr = 0.1\ntrain.rounds = 2\n"
        '[[block]]\nmethods = ["fedavg"]\nset.method.lr = 0.5\n'
        "[[block]]\naxes.method.scale = [0.01, 0.02]\n"
        '[[block]]\nname = "long"\nset.train.rounds = 9\n',
    )
    assert folders(found.cells) == [
        "fedavg-seed1", "scale=0.01/fedmrn-seed1", "scale=0.02/fedmrn-seed1", "long/fedmrn-seed1",
    ]  # fmt: skip
    assert [c.experiment.options.lr for c in found.cells] == [0.5, 0.1, 0.1, 0.1]
    assert [c.experiment.train.rounds for c in found.cells] == [2, 2, 2, 9]


def test_an_experiment_in_two_tables_is_one_cell(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        HEAD + "[set]\nmethod.scale = 0.01\n[[block]]\naxes.method.scale = [0.01, 0.02]\n"
        '[[block]]\naxes.method.noise = ["uniform", "gaussian"]\n'
        "[[block]]\naxes.method.scale = [0.01]\n",
    )
    assert folders(found.cells) == [f"{t}/fedmrn-seed1" for t in ("scale=0.01", "scale=0.02", "noise=gaussian")]
    assert found.tables["noise=uniform"] == found.tables["scale=0.01"] == found.cells[:1]


def test_tables_have_readable_names_that_tell_them_apart(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('description = "d"\n[data]\nclients = 4\n[train]\nclients_per_round = 2\n')
    text = 'preset = ["digits", "own.toml"]\nmethods = ["fedmrn"]\nseeds = [1]\n[axes]\n'
    found = load(tmp_path, text + 'train.graphs = [false]\nmethod.fedmrn.scale = [1e-5]\nmodel.name = ["cnn-digits"]\n')
    names = [f"{preset},graphs=false,scale=1e-05,name=cnn-digits" for preset in ("digits", "own")]
    assert list(found.tables) == names
    assert found.tables[names[1]][0].experiment.data.clients == 4
    two = 'methods = ["fedmrn", "fedmrn-s"]\nseeds = [1]\npreset = "digits"\n[axes]\n'
    found = load(tmp_path, two + "method.fedmrn.scale = [0.01]\nmethod.fedmrn-s.scale = [0.02]\nmethod.lr = [0.1]\n")
    assert list(found.tables) == ["fedmrn.scale=0.01,fedmrn-s.scale=0.02,lr=0.1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods = [", ["not valid TOML"]),
        ('methods = ["fedmrn"]\nseeds = [1]', ["sweep mine: preset is missing"]),
        (HEAD + 'methdos = "all"', ["unknown key methdos", "did you mean 'methods'"]),
        (HEAD + "[[block]]\nsede = [2]", ["block 1", "did you mean 'seeds'"]),
        (HEAD + "block = 3", ["[[block]]"]),
        (HEAD.replace("[1]", "[1, 1]"), ["seeds", "twice"]),
        (HEAD.replace("[1]", "[]"), ["seeds"]),
        (HEAD.replace("[1]", "[true]"), ["seeds"]),
        (HEAD.replace("[1]", "[-1]"), ["sweep mine", "seed", "greater than or equal to 0"]),
        (HEAD.replace("digits", "digit"), ["did you mean 'digits'"]),
        (HEAD.replace("digits", "own.toml"), ["no configuration file", "own.toml"]),
        (HEAD.replace("fedmrn", "fedmnr"), ["sweep mine", "'fedmnr'", "did you mean 'fedmrn'"]),
        (HEAD + "set = 3", ["set must be a table"]),
        (HEAD + "[set]\ntrain.round = 3", ["sweep mine", "unknown key train.round", "did you mean 'train.rounds'"]),
        (HEAD + "[set]\ntrain.rounds = [3]", ["train.rounds"]),
        (HEAD + "[axes]\ntrain.rounds = 3", ["axes.train.rounds", "list"]),
        (HEAD + "[axes]\ntrain.rounds = []", ["axes.train.rounds"]),
        (HEAD + "[axes]\nrounds = [3]", ["set or axes: 'rounds=3'", "did you mean train.rounds"]),
        (HEAD + "[axes]\nmethod.scale = [0.1, 0]", ["noise scale 0"]),
        (HEAD + "[axes]\nmethod.scale = [0.1, 0.1]", ["axes.method.scale", "twice"]),
        (HEAD + "[axes]\nmethod.levels = [3, 7]", ["fedmrn is the same in levels=3 and in levels=7", "[[block]]"]),
        *((HEAD + f'[[block]]\nname = "{name}"', [f"'{name}' cannot be the folder"]) for name in (".", "..", "tune")),
        (HEAD + "[[block]]\n[[block]]\nset.train.rounds = 9", ["the table without a name: train.rounds is 20"]),
        (HEAD + "[[block]]\n[[block]]\nset.method.lr = 9", ["the folder fedmrn-seed1: options.lr is 0.1"]),
        (HEAD + f"[axes]\ntrain.rounds = {list(range(1, 10_002))}", ["10,001 cells; at most 10,000"]),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_mistakes_in_what_is_given_beside_the_file(tmp_path: Path) -> None:
    for source in ("paperr", "nothing.toml"):
        with pytest.raises(ConfigError, match=r"did you mean 'paper'|no sweep file nothing"):
            load_sweep(source)
    with pytest.raises(ConfigError, match=r"--set 'rounds=3': .*train.rounds"):
        load(tmp_path, HEAD, "rounds=3")
    with pytest.raises(ConfigError, match=r"--set method.scale=1: method.scale is what sweep mine varies"):
        load(tmp_path, HEAD + "[axes]\nmethod.scale = [0.1, 0.2]", "method.scale=1")
    for axis, change in (("method.scale", "method.fedmrn.scale"), ("method.fedmrn.scale", "method.scale")):
        with pytest.raises(ConfigError, match=rf"--set {change}=1: {axis} is what sweep mine varies"):
            load(tmp_path, HEAD + f"[axes]\n{axis} = [0.1, 0.2]", f"{change}=1")


@pytest.mark.parametrize("name", ["/etc", "../x", "a/../../x"])
def test_a_name_stays_in_the_folder_of_the_sweep(tmp_path: Path, name: str) -> None:
    (cell,) = load(tmp_path, HEAD + f'[[block]]\nname = "{name}"').cells
    assert cell.folder == Path(name.replace("/", "-")) / "fedmrn-seed1"


def test_what_one_method_is_given_beside_an_axis_of_another(tmp_path: Path) -> None:
    text = HEAD.replace('["fedmrn"]', '["fedmrn", "fedavg"]') + "[[block]]\naxes.method.fedmrn.lr = [0.2]\n"
    found = load(tmp_path, text, "method.fedavg.lr=0.3", "data.alpha=0.7")
    assert [cell.experiment.options.lr for cell in found.cells] == [0.2, 0.3]


@pytest.mark.parametrize("name", sweeps())
def test_ready_sweeps(name: str) -> None:
    found = load_sweep(name)
    assert found.description
    assert name not in presets()  # their folders are beside one another
    assert len(set(folders(found.cells))) == len(found.cells)
    for table in found.tables.values():
        methods = Counter(cell.experiment.method for cell in table)
        assert len(set(methods.values())) == 1  # all with the same seeds


@pytest.mark.parametrize("name", ["paper", *(name for name in sweeps() if name.startswith("ablation-"))])
def test_sweeps_at_the_published_length(name: str) -> None:
    found = load_sweep(name)
    for table in found.tables.values():
        assert len(table) >= 2
        for train, data in ((cell.experiment.train, cell.experiment.data) for cell in table):
            assert (data.name, data.clients, train.rounds) == ("fashion-mnist", 100, 100)


@pytest.mark.parametrize(
    ("name", "partition", "rounds"),
    [
        ("fmnist-tuning", "iid", 4),
        ("fmnist-methods", "iid", 20),
        ("fmnist-methods-labels", "labels", 20),
        ("fmnist-ablation", "iid", 10),
        ("cifar10-tuning", "iid", 5),
    ],
)
def test_sweeps_for_a_cpu(name: str, partition: str, rounds: int) -> None:
    cells = [cell.experiment for cell in load_sweep(name).cells]
    assert {(e.data.clients, e.data.partition, e.train.rounds) for e in cells} == {(100, partition, rounds)}


def test_the_preset_of_both_ways_among_the_methods() -> None:
    (cell,) = (c for c in load_sweep("fmnist-methods").cells if c.experiment.method == "fedmrn-s-mrc")
    assert cell.experiment.options == load_setting("fmnist-both").experiment("fedmrn-s-mrc", 1).options


def test_the_rates_of_both_splits() -> None:
    iid, labels = (
        {(c.experiment.method, c.experiment.options.lr) for c in load_sweep(name).cells}
        for name in ("fmnist-methods", "fmnist-methods-labels")
    )
    assert labels <= iid


def test_the_sweep_of_all() -> None:
    found = load_sweep("paper")
    assert len(found.cells) == 3 * 5 * len(METHODS)
    assert list(found.tables) == ["fmnist-iid", "fmnist-dirichlet", "fmnist-labels"]
    assert {c.experiment.seed for c in found.cells} == {1, 2, 3, 4, 5}
