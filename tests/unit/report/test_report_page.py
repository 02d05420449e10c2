"""The page: it stands alone, it says where everything comes from, and names from run folders are only text."""

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fedmrn.data import plot_partition
from fedmrn.errors import ConfigError
from fedmrn.report import check_formats, find_runs, write_report
from fedmrn.report.collect import collect
from fedmrn.report.figures import Studio, _split
from fedmrn.report.plots import Origin, save_figure
from run_folders import write_run

pytestmark = pytest.mark.xdist_group("report-page")  # its reports are written once

EVIL = '<script>alert(1)</script>"onload="alert(2)$\\frac$'
LAYERS = {"0.weight": 0.5, '"><img src=x onerror=alert(3)>$a': 0.3}
SMALL = {"fedavg-seed1": ("fedavg", 1), "fedavg-seed2": ("fedavg", 2), "fedmrn-seed1": ("fedmrn", 1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two settings in one folder: one plain, one with names that would be code."""
    root = tmp_path_factory.mktemp("reported")
    for name, (method, seed) in SMALL.items():
        write_run(root / "plain" / name, method, seed, held=[[3, 4], [5, 6], [7, 8], [9, 0]])
    write_run(root / "plain/late", "fedmrn", 2, accuracies=[0.3], coded=200)
    changes = [f"data.name='{EVIL}'", f"model.name='{EVIL}'"]
    write_run(root / "evil/<b>bold</b>", density=LAYERS, coded=220, changes=changes, preset=EVIL)
    return root


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    write_report(out, find_runs([folder]), formats=("png", "pdf"))
    return out


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_same_folders_give_the_same_bytes(folder: Path, written: Path, tmp_path: Path) -> None:
    write_report(tmp_path, find_runs([folder / "plain", folder / "evil"])[::-1], formats=("png", "pdf"))
    first, second = ({p.name: p.read_bytes() for p in out.iterdir()} for out in (written, tmp_path))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert {"report.html", "summary.md", "summary.json", "1-accuracy-rounds.pdf", "2-times.png"} <= first.keys()


def test_the_page_asks_for_nothing_and_runs_nothing(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"script", "iframe", "link", "object", "embed", "form", "base", "b", "svg"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert re.match("data:image/png;base64,|#|$", attributes.get("src") or attributes.get("href") or "")
    policy = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    style = (written / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert EVIL in page.text.replace("\\\\", "\\").replace('\\"', '"')  # as the text that it is


def test_every_figure_names_its_runs_and_configuration(folder: Path, written: Path) -> None:
    text = (written / "report.html").read_text()
    figures = re.findall(
        r"<figure id=\"(.*?)\"><div class=\"scroll\"><img alt=\"(.*?)\".*?<figcaption>(.*?)</figcaption>", text
    )
    stems = [stem for stem, *_ in figures]
    one = ["accuracy-traffic", "accuracy-rounds", "accuracy-bytes"]
    assert sorted(stems) == sorted(
        [f"{i}-{name}" for i in (1, 2) for name in (*one, "times")] + ["1-masks", "2-holdings", "codec-error"]
    )
    assert stems[:3] == [f"1-{name}" for name in one]  # all traffic first, right below the result
    heads = re.findall(r"<h3>(.*?)</h3>", text)
    assert heads[:3] == ["Result", "Accuracy", "Convergence"]
    for stem, alt, caption in figures:
        assert len(alt) > 20, stem
        assert "<span>Runs: " in caption
        assert "<span>Configuration: " in caption
        runs = "evil/" if stem.startswith("1-") else "plain/fedavg-seed1"
        assert runs in caption, stem
        with Image.open(written / f"{stem}.png") as picture:
            said = picture.info
        assert runs in said["Description"]
        assert "lr 0.1" in said["Description"]
        assert said["Title"]
        assert runs.encode() in (written / f"{stem}.pdf").read_bytes()
    assert text.count("data:image/png;base64,") == len(figures)


def test_tables_say_what_is_not_finished(written: Path) -> None:
    page = Page((written / "report.html").read_text())
    assert "2 settings compared" in page.text
    assert "seed 2 at round 1 of 3; its numbers are of seed 1 up to round 3" in page.text
    assert "±0.00" in page.text
    assert "90.00±0.00 (1.0x)" in page.text  # of the table of both settings
    text = (written / "summary.md").read_text()
    assert "| method | 72 %: rounds | up MB | total MB | 81 %: rounds |" in text
    assert "| fedmrn | 2 |" in text
    assert "| up MB | down MB | total MB | up saved | total saved | up bits | down bits | total bits |" in text
    saved = [(row["method"], row["saved"]) for row in json.loads((written / "summary.json").read_text())]
    assert saved == [("fedmrn", None), *((name, {"up": 1.0, "total": 1.0}) for name in ("fedavg", "fedmrn"))]


def test_the_embedded_pictures_are_the_files(written: Path) -> None:
    text = (written / "report.html").read_text()
    for stem, data in re.findall(
        r"<figure id=\"(.*?)\"><div class=\"scroll\"><img alt=\".*?\" src=\"data:image/png;base64,(.*?)\">", text
    ):
        png = b64decode(data)
        assert png == (written / f"{stem}.png").read_bytes()
        grey = np.asarray(Image.open(BytesIO(png)).convert("L"))
        assert grey.shape[1] > 1000
        assert grey[len(grey) // 3 : 2 * len(grey) // 3].std() > 5  # something is drawn in the middle


def test_a_run_that_kept_no_numbers_of_its_partition_has_its_picture(tmp_path: Path) -> None:
    run = write_run(tmp_path / "r")
    (comparison,), _ = collect([run])
    studio = Studio(run, ["png"])
    assert _split(comparison, studio, "") is None
    labels = np.arange(40) % 10
    plot_partition(labels, [np.arange(0, 20), np.arange(20, 40)], run / "partition.png", "as the run drew it")
    before = (run / "partition.png").read_bytes()
    found = _split(comparison, studio, "")
    assert found is not None
    assert (run / "partition.png").read_bytes() == before  # a report of a run into its own folder leaves the run alone
    with Image.open(BytesIO(before)) as drawn, Image.open(run / "holdings.png") as framed:
        assert framed.info["Description"].startswith(f"runs: {tmp_path.name}/r\n")
        assert framed.height > 0.7 * drawn.height * framed.width / drawn.width


def test_the_foot_is_cut_where_the_metadata_goes_on(tmp_path: Path) -> None:
    heights = {}
    for words in (1, 100, 10_000):
        origin = Origin("title", "run " * words, "configuration")
        png = save_figure(Figure(figsize=(8, 3), layout="constrained"), tmp_path / "f", origin, [])
        with Image.open(BytesIO(png)) as picture:
            heights[words] = picture.height
            assert picture.info["Description"].count("run ") == words
    assert 450 < heights[1] < heights[100] < heights[10_000] < 700
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "score"),
    [("shakespeare", "next-character accuracy"), ("voc", "mean IoU")],
)
def test_a_page_says_the_score_of_its_task(tmp_path: Path, name: str, score: str) -> None:
    run = write_run(tmp_path / "r", scales=[{"a": 0.25}] * 3, changes=[f"data.name={name}"])
    write_report(tmp_path, [run])
    text = Page((tmp_path / "report.html").read_text()).text
    assert f"final %: {score} of the global model on the test samples after the last round" in text
    assert f"The first round after which the test {score} was at least" in text
    assert f"{score[0].upper()}{score[1:]} against rounds. " in text
    assert "images" not in text
    assert "Scale of the noise that clients chose, by layer and round. " in text
    assert (tmp_path / "scale.png").is_file()


def test_formats() -> None:
    assert check_formats("png, pdf,png") == ("png", "pdf")
    with pytest.raises(ConfigError, match="'svg' is not one of png, pdf"):
        check_formats("png,svg")
