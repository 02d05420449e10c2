"""`fedmrn layout`: what it writes is the layout of the model, whether it is known or one's own."""

from pathlib import Path

from command import Cli, refused_in_one_line

from fedmrn import ModelLayout
from fedmrn.models.catalogue import build_model
from fedmrn.wire.layout import Layout


def test_the_layout_of_a_known_model(cli: Cli, tmp_path: Path) -> None:
    model = build_model("cnn4", shape=(1, 28, 28), classes=10, seed=1)
    shown = cli("layout", "cnn4", "--data", "fashion-mnist")
    assert shown.returncode == 0, shown.stderr
    assert Layout.from_json(shown.stdout) == ModelLayout.of(model).layout
    assert "variance: 480 values in 4 tensors: 1.running_var" in shown.stderr
    written = cli("layout", "cnn4", "--shape", "1,28,28", "--classes", "10", "--out", "layout.json")
    assert written.returncode == 0, written.stderr
    assert (tmp_path / "layout.json").read_text("utf-8") == shown.stdout
    assert written.stdout == ""
    assert Layout.from_json(shown.stdout).digest.hex() in written.stderr


def test_the_layout_of_a_model_of_ones_own(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, classes))\n"
        "        self[0].bias.requires_grad_(False)\n"
    )
    done = cli("layout", "own_nets:Net", "--shape", "3", "--classes", "7", fresh=True)
    assert done.returncode == 0, done.stderr
    tensors = {t.name: t.shape for t in Layout.from_json(done.stdout).tensors}
    assert tensors == {"0.weight": (5, 3), "2.weight": (7, 5), "2.bias": (7,), "1.weight": (5,), "1.bias": (5,)}
    assert "frozen, not sent: 0.bias" in done.stderr


def test_a_layout_that_nobody_can_write(cli: Cli) -> None:
    rows = (
        (["cnn5", "--shape", "1,28,28", "--classes", "10"], ["cnn5", "did you mean 'cnn"]),
        (["cnn4"], ["--data DATASET", "--shape", "--classes"]),
        (["cnn4", "--shape", "1,28,28"], ["--classes"]),
        (["cnn4", "--data", "mnits"], ["'mnits'", "did you mean 'mnist'"]),
        (["cnn4", "--data", "mnist", "--classes", "3"], ["leave --shape and --classes out"]),
        (["cnn4", "--shape", "1,x", "--classes", "3"], ["--shape '1,x'", "such as 3,32,32"]),
        (["cnn4", "--shape", "0", "--classes", "3"], ["--shape '0'"]),
        (["cnn4", "--shape", "3,32", "--classes", "3"], ["--shape is CHANNELS,HEIGHT,WIDTH, got 3,32"]),
        (["lstm", "--shape", "3,8,8", "--classes", "3"], ["is for text", "--shape is LENGTH, got 3,8,8"]),
        (["cnn4", "--shape", "1,9,9", "--classes", "3"], ["cnn4", "16 pixels"]),
    )
    for args, words in rows:
        refused_in_one_line(cli("layout", *args), words)
