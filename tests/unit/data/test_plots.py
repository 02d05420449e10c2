import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from fedmrn.data import PartitionSpec, partition, plot_partition
from fedmrn.data.plots import _bars, _heat_map

LABELS = np.tile(np.arange(10), 300)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(("clients", "classes"), [(1, 10), (12, 10), (30, 20), (31, 10), (100, 10), (5, 100), (3, 1)])
def test_writes_a_picture(tmp_path, clients, classes):
    labels = np.arange(3000) % classes
    parts = partition(labels, PartitionSpec("dirichlet", alpha=1.0, min_size=1), clients, 0)
    path = tmp_path / "parts.png"
    plot_partition(labels, parts, path, "a title")
    assert path.read_bytes().startswith(PNG)
    image = imread(path)
    assert image.shape[1] > 1000
    assert image.std() > 0.05  # something is drawn
    assert list(tmp_path.iterdir()) == [path]  # no temporary file stays


HELD = np.array([[1, 0, 4], [0, 7, 2], [3, 3, 3], [0, 9, 0]])


def test_bars_show_every_holding():
    axes = _bars(HELD).axes[0]
    widths = np.array([[bar.get_width() for bar in container] for container in axes.containers])
    starts = np.array([[bar.get_x() for bar in container] for container in axes.containers])
    np.testing.assert_array_equal(widths.T, HELD)
    np.testing.assert_array_equal(starts.T, np.cumsum(HELD, 1) - HELD)
    assert [text.get_text() for text in axes.texts] == ["5", "9", "9", "9"]


def test_heat_map_orders_rows_by_main_label():
    figure = _heat_map(HELD)
    cells = figure.axes[0].images[0].get_array()
    np.testing.assert_array_equal(cells.filled(0), HELD[[2, 3, 1, 0]])
    assert (cells.mask == (HELD[[2, 3, 1, 0]] == 0)).all()
    assert [bar.get_width() for bar in figure.axes[1].containers[0]] == [9, 9, 9, 5]


def test_replaces_an_old_picture_only_when_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "parts.png"
    path.write_bytes(b"old")
    parts = partition(LABELS, PartitionSpec(), 3, 0)

    def fail(self, stream, **_):
        stream.write(PNG)
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("matplotlib.figure.Figure.savefig", fail)
        with pytest.raises(OSError, match="disk full"):
            plot_partition(LABELS, parts, path, "t")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    plot_partition(LABELS, parts, path, "t")
    assert path.read_bytes().startswith(PNG)


def test_leaves_global_state_alone(tmp_path):
    # In a process of its own: other tests may have imported pyplot.
    code = (
        "import sys, numpy as np; from pathlib import Path; from fedmrn.data import plot_partition\n"
        "plot_partition(np.arange(4), [np.arange(2), np.arange(2, 4)], Path(sys.argv[1]), 't')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.png")], check=True)
    before = dict(mpl.rcParams)
    plot_partition(LABELS, partition(LABELS, PartitionSpec(), 3, 0), tmp_path / "p.png", "t")
    assert dict(mpl.rcParams) == before


def test_no_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one part"):
        plot_partition(LABELS, [], tmp_path / "p.png", "t")
