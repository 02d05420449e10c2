"""Pages: what stands between marks is made from the records, nothing else changes; figures are drawn when needed."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmrn.errors import ConfigError, UsageError
from fedmrn.results.figures import draw, mark_in, mark_of, points_of
from fedmrn.results.pages import write_results
from fedmrn.results.records import Collection, read_collection, write_collection
from fedmrn.results.specs import FigureSpec, read_specs

PAGE = """# Mine

<!-- table: four -->
old
<!-- end -->
between
<!-- figure: four -->
<!-- end -->
<!-- source: four -->
<!-- end -->
"""


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_records_that_no_page_shows_get_one(store: Path) -> None:
    assert names(write_results(store)) == ["four.md", "four.png"]
    text = (store / "four.md").read_text()
    assert text.startswith(
        "# Four rounds\n\n<!-- table: four -->\n| method | lr | seeds | final % | up MB | down MB |\n"
    )
    assert "| fedmrn | 0.1 | 1-3 | 86.33±5.86 | 0.52 | 16.00 |" in text
    assert "![Four rounds; means over seeds, bands from the lowest to the highest.](four.png)" in text
    line = "[four](records/four.json): 6 runs, a processor, torch 2.0, float32, 2026-01-31, 1.0."
    assert f"--out runs/four-2\n\n{line}\nA note.\n<!-- end -->\n" in text
    assert write_results(store) == []


def test_only_what_is_between_marks_is_written(store: Path) -> None:
    (store / "page.md").write_text(PAGE)
    assert names(write_results(store)) == ["page.md", "four.png"]
    text = (store / "page.md").read_text()
    assert text.startswith("# Mine\n\n<!-- table: four -->\n| method |")
    assert "<!-- end -->\nbetween\n<!-- figure: four -->\n![" in text
    assert "old" not in text


def test_the_page_beside_the_store_is_one_of_its_pages(store: Path) -> None:
    cover = store.with_name("mine.md")
    cover.write_text(PAGE)
    assert write_results(store) == [cover, store / "four.png"]
    assert "](mine/four.png)" in cover.read_text()
    assert "[four](mine/records/four.json)" in cover.read_text()


def test_check_writes_nothing(store: Path) -> None:
    (store / "page.md").write_text(PAGE)
    assert names(write_results(store, check=True)) == ["page.md", "four.png"]
    assert (store / "page.md").read_text() == PAGE
    assert not (store / "four.png").exists()


def test_a_figure_is_drawn_again_only_if_it_shows_something_else(store: Path, collection: Collection) -> None:
    write_results(store)
    before = (store / "four.png").read_bytes()
    path = store / "records" / "four.json"
    path.write_text(path.read_text().replace("A note.", "Another note."))
    assert names(write_results(store)) == ["four.md"]
    assert (store / "four.png").read_bytes() == before
    path.write_text(path.read_text().replace("0.93", "0.94"))
    assert names(write_results(store)) == ["four.md", "four.png"]
    (store / "four.png").write_bytes(b"no picture")
    assert names(write_results(store)) == ["four.png"]


@pytest.mark.parametrize("against", ["rounds", "traffic", "upload"])
def test_figures(collection: Collection, against) -> None:
    spec = FigureSpec(records=["four"], title="a $title$", against=against, least=10.0)
    png = draw(spec, {"four": collection})
    assert draw(spec, {"four": collection}) == png
    assert mark_in(png) == mark_of(spec, {"four": collection}) != ""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    assert pixels.std() > 10


def test_a_figure_of_two_columns_of_a_table() -> None:
    rows = [["a", "32", "89.4"], ["b", "", "88"], ["c", "1.5", "nan"], ["d", "1.2", "89.1"]]
    tried = {"tried": Collection(title="x", header=["design", "bits", "%"], rows=rows)}
    spec = FigureSpec(records=["tried"], title="bits and accuracy", columns=["bits", "%"])
    assert points_of(spec, tried) == [(1, 32.0, 89.4), (4, 1.2, 89.1)]
    assert mark_in(draw(spec, tried)) == mark_of(spec, tried)
    rows[3][2] = "89.2"
    assert mark_in(draw(spec, tried)) != mark_of(FigureSpec(records=["tried"], title="t", columns=["bits", "%"]), tried)
    for columns in (["bits"], ["bits", "loss"]):
        with pytest.raises(ConfigError, match="two columns"):
            draw(FigureSpec(records=["tried"], title="t", columns=columns), tried)


def test_marks_that_wait_for_records(store: Path) -> None:
    spec = '[{kind}.later]\nrecords = ["later"]\npending = true\n'
    text = (
        "".join(spec.format(kind=kind) for kind in ("table", "source")) + spec.format(kind="figure") + 'title = "t"\n'
    )
    (store / "tables.toml").write_text(text)
    (store / "page.md").write_text(PAGE + PAGE.replace("four", "later"))
    write_results(store)
    assert "<!-- table: later -->\nNot run yet.\n<!-- end -->" in (store / "page.md").read_text()
    write_collection(store / "records" / "later.json", read_collection(store / "records" / "four.json"))
    assert names(write_results(store)) == ["page.md", "later.png"]


def test_a_bar_in_a_text_ends_no_cell(store: Path) -> None:
    write_collection(store / "records" / "five.json", Collection(title="x", header=["|u|"], rows=[["a\nb"]]))
    write_results(store)
    assert "| \\|u\\| |\n|---|\n| a b |" in (store / "five.md").read_text()


@pytest.mark.parametrize(
    ("page", "match"),
    [
        ("<!-- table: four -->\n", "has no <!-- end -->"),
        ("<!-- table: fore -->\n<!-- end -->\n", "neither in tables.toml nor the name of records; did you mean 'four'"),
        ("<!-- claims: four -->\n<!-- end -->\n", "neither in tables.toml"),
        ("<!-- table: wide -->\n<!-- end -->\n", "page.md, <!-- table: wide -->: records 'five' do not exist"),
    ],
)
def test_wrong_marks_are_named(store: Path, page: str, match: str) -> None:
    (store / "tables.toml").write_text('[table.wide]\nrecords = ["five"]\n')
    (store / "page.md").write_text(page)
    with pytest.raises(ConfigError, match=match):
        write_results(store)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[table.a]\n", "table.a.records is missing"),
        ("[tables.a]\n", "unknown key tables"),
        ('[table.a]\nrecords = ["four"]\nrows = "cells"\n', "table.a.rows"),
        ("[table", "is not valid TOML"),
        ('[figure.a]\nrecords = ["four"]\ntitle = "t"\nleast = 200\n', "figure.a.least"),
    ],
)
def test_a_wrong_key_is_named(store: Path, text: str, match: str) -> None:
    (store / "tables.toml").write_text(text)
    with pytest.raises(ConfigError, match=match):
        read_specs(store)


def test_files_that_are_none(store: Path, tmp_path: Path) -> None:
    (store / "tables.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not a text file"):
        write_results(store)
    (store / "tables.toml").unlink()
    (store / "page.md").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not a text file"):
        write_results(store)
    (store / "page.md").unlink()
    (store / "page.md").symlink_to(store / "four.md")
    with pytest.raises(UsageError, match="is a link"):
        write_results(store)
    with pytest.raises(ConfigError, match="holds no records"):
        write_results(tmp_path / "nothing")
