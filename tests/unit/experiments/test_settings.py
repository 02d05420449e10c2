"""Settings: whatever a file or `--set` says, a mistake ends in one typed, printable line; nothing is ignored."""

from pathlib import Path

import pytest

from fedmrn.errors import ConfigError, RunError
from fedmrn.experiments.config import Experiment
from fedmrn.experiments.many.sweep import load_sweep
from fedmrn.experiments.many.tune import Grid
from fedmrn.experiments.run.folder import read_experiment
from fedmrn.experiments.settings import check_used, load_setting

LONG = "1" * 5_000
HEX = "0x" + "f" * 5_000
DEEP = "[" * 5_000


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("method.server=[1]", "server = [1]: it does not exist; choose one of adam, mean, momentum"),
        ("method.server=true", "server = True: it does not exist; choose one of adam, mean, momentum"),
        ("method.server=maen", "server = 'maen': it does not exist; did you mean 'mean'?"),
        ("method.optimizer=sdg", "optimizer = 'sdg': it does not exist; did you mean 'sgd'?"),
        ("method.side=float", "side = 'float': it does not exist; did you mean 'float"),
        ("method.down=eden9", "down = 'eden9': it does not exist; did you mean 'eden"),
        ("data.partition=role", "data.partition = 'role': it does not exist; did you mean 'roles'?"),
        *((f"train.rounds={value}", "train.rounds = '") for value in (LONG, HEX, DEEP)),
        *((f"method.{key}={value}", key) for key in ("lr", "noise", "scale") for value in (LONG, HEX, DEEP)),
        ("train.rounds" + ".a" * 5_000 + "=1", "key=value"),
        ("train.ro\x1b[2Junds=3", "unknown key train.ro?[2Junds"),
        ("method.\x1b=3", "method.? does not exist"),
        ("method.fedmrn.\x1b=3", "method.fedmrn.? does not exist"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_changes_that_are_none(change: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_setting("digits", [change]).experiment("fedmrn", 1)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text", [f"x = {LONG}", f"x = {HEX}", f"x = {DEEP}", "x" + ".a" * 1_200 + " = 1"], ids=lambda text: ascii(text[:8])
)
def test_files_that_no_reader_of_them_takes(tmp_path: Path, text: str) -> None:
    source = write(tmp_path, text)
    for load in (load_setting, load_sweep):
        with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML"):
            load(source)
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(RunError, match=r"config\.toml cannot be read \(it is not valid TOML"):
        read_experiment(tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "..", ".x", "a\\\\b", "a\\u0000b", "\\u001b[2J"])
def test_a_setting_s_name_is_one_that_a_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"name = .*: a folder has this name") as caught:
        load_setting(write(tmp_path, f'name = "{name}"\n'))
    assert str(caught.value).isprintable()


def test_descriptions_are_shown_without_what_a_terminal_would_obey(tmp_path: Path) -> None:
    text = 'description = "a\\u001b[2J\\nb"\n'
    assert load_setting(write(tmp_path, text)).description == "a?[2J?b"
    cells = 'preset = "digits"\nmethods = ["fedavg"]\nseeds = [1]\n'
    assert load_sweep(write(tmp_path, text + cells)).description == "a?[2J?b"


@pytest.mark.parametrize("table", ["", "[data]\n", "[method]\n", "[method.fedmrn]\n"])
def test_keys_are_shown_without_what_a_terminal_would_obey(tmp_path: Path, table: str) -> None:
    source = write(tmp_path, f'{table}"\\u001b[2J\\nx" = 1\n')
    with pytest.raises(ConfigError, match=r"\?\[2J\?x") as caught:
        load_setting(source)
    assert str(caught.value).isprintable()


def test_values_of_a_grid_are_compared_whatever_they_are() -> None:
    assert Grid.parse("lr=[1],[2]", 1, 1).values == ("[1]", "[2]")
    for twice in ("[1],[1]", "0.1,0.10"):
        with pytest.raises(ConfigError, match="each once"):
            Grid.parse(f"lr={twice}", 1, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["server_beta=0.5"], "server is 'mean', and server_beta is an option of momentum and adam only"),
        (["server=momentum", "server_tau=0.1"], "server is 'momentum', and server_tau is an option of adam only"),
        (["server=momentum", "fedmrn.server_beta2=0.5"], "server_beta2 is an option of adam only"),
        (["fedmrn.server=mean", "fedmrn.server_beta=0.5"], "server_beta is an option of"),
    ],
)
def test_an_option_of_another_server_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_setting("digits", [f"method.{change}" for change in changes]).experiment("fedmrn", 1)
    assert words in str(caught.value)


def test_an_option_of_another_server_is_taken_where_it_is_for_other_methods_or_the_default() -> None:
    changes = ["server=adam", "server_beta2=0.5", "fedmrn.server=momentum", "fedmrn-s.server_beta2=0.99"]
    changes += ["fedmrn-s.server=mean", "fedmrn-no-pm.server=mean"]
    setting = load_setting("digits", [f"method.{change}" for change in changes])
    found = {name: setting.experiment(name, 1) for name in ("fedavg", "fedmrn", "fedmrn-s", "fedmrn-no-pm")}
    assert {name: (e.options.server, e.options.server_lr) for name, e in found.items()} == {
        "fedavg": ("adam", 0.01),
        "fedmrn": ("momentum", 1.0),
        "fedmrn-s": ("mean", 1.0),
        "fedmrn-no-pm": ("mean", 1.0),
    }
    for experiment in found.values():
        assert Experiment.from_dict(experiment.as_dict(), "again") == experiment


@pytest.mark.parametrize(
    ("change", "names", "words"),
    [
        (
            "method.noise_key=round",
            ["fedmrn-mrc"],
            "would change nothing: fedmrn-mrc has no option noise_key; it is one",
        ),
        ("method.density=0.1", ["fedavg", "drive"], "would change nothing: fedavg, drive have no option density"),
        ("method.budget=0.1", ["fedmrn"], "it is one of fedmrn-mrc, fedmrn-s-mrc$"),
    ],
)
def test_an_option_that_no_method_of_a_run_has_is_refused(change: str, names: list[str], words: str) -> None:
    load_setting("digits", [change])  # it is one of some method
    with pytest.raises(ConfigError, match=words):
        check_used([change], names)
    check_used([change], [*names, "fedmrn-s", "topk", "fedmrn-s-mrc"])
    check_used(["method.lr=0.1", "method.topk.density=0.1", "train.rounds=2"], names)


def test_a_sweep_refuses_options_that_no_method_of_a_block_has(tmp_path: Path) -> None:
    text = 'preset = ["digits"]\nseeds = [1]\n[[block]]\nmethods = ["fedavg"]\n'
    with pytest.raises(ConfigError, match=r"--set 'method\.density=0\.1' would change nothing"):
        load_sweep(write(tmp_path, text), ["method.density=0.1"])
    with pytest.raises(ConfigError, match=r"set: 'method\.density=0\.1' would change nothing"):
        load_sweep(write(tmp_path, text + 'set = { "method.density" = 0.1 }\n'))
