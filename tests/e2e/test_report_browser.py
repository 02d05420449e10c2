"""The report in a real browser: what a reader sees, on a desk and on a phone."""

import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import BROWSED, browse
from numpy.typing import NDArray

from fedmrn.report import find_runs, write_report
from run_folders import write_run

pytestmark = BROWSED
# The page allows no scripts: it is looked at from around it. An error that it logs is seen in the browser's own log.
LOOK = """
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const found = {
    images: [...page.images].map(i => [(i.closest("figure") || i).id, i.complete && i.naturalWidth]),
    wide: [page.documentElement.scrollWidth, page.documentElement.clientWidth],
    outside: [...page.body.querySelectorAll("*")].filter(
      e => !e.closest(".scroll, pre") && e.getBoundingClientRect().right > page.documentElement.clientWidth + 1
    ).map(e => e.tagName),
    small: [...page.body.querySelectorAll("p, td, th, figcaption, summary, h1, h2, h3")].filter(
      e => parseFloat(page.defaultView.getComputedStyle(e).fontSize) < 11.5
    ).map(e => e.tagName),
    headings: [...page.querySelectorAll("h1, h2, h3")].map(e => e.textContent),
    cells: [...page.querySelectorAll("td")].map(e => e.textContent),
  };
  document.body.dataset.found = JSON.stringify(found);
});
"""


def look(
    page: str, folder: Path, width: int, height: int = 1600
) -> tuple[dict[str, Any], NDArray[np.uint8], list[str]]:
    """Return what a page is like in a window of this width: a frame, since a browser's own cannot be that narrow."""
    frame = f'<iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{escape(page)}"></iframe>'
    around = folder / "around.html"
    around.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin:0">{frame}<script>{LOOK}</script>')
    text, screen, logged = browse(around.as_uri(), folder, width, height)
    found = re.search('data-found="(.*?)"', text)
    assert found, text[-1000:]
    return json.loads(unescape(found[1])), screen, logged


def faults(found: dict[str, Any], screen: NDArray[np.uint8], logged: list[str]) -> list[str]:
    """What is wrong with a page that was looked at."""
    wrong = [f"image {name} is not shown" for name, natural in found["images"] if not natural]
    wrong += [f"{tag} reaches out of the page" for tag in found["outside"]]
    if found["wide"][0] > found["wide"][1]:
        wrong.append(f"the page is {found['wide'][0]} wide in a window of {found['wide'][1]}")
    wrong += [f"{tag} is too small to read" for tag in found["small"]]
    wrong += [f"logged: {line}" for line in logged]
    wrong += [f"band {i} is blank" for i, band in enumerate(np.array_split(screen, 4)) if band.std() < 5]
    return wrong


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two settings with everything in it, and a long label."""
    runs = tmp_path_factory.mktemp("runs")
    long = ["method.fedmrn.scale=0.0123", "method.fedmrn.coding=entropy", "method.fedmrn.side=float16"]
    masks = {"0.weight": 0.41, "4.weight": 0.36, "8.weight": 0.45, "13.weight": 0.5}
    held = [[40, 0, 7], [3, 30, 0], [9, 9, 9], [0, 1, 60]]
    for method in ("fedavg", "fedmrn"):
        for seed, last in ((1, 0.91), (2, 0.89)):
            curve = [0.3, 0.6, 0.8, last]
            write_run(runs / f"{method}-seed{seed}", method, seed, curve, rounds=4, density=masks, held=held)
    write_run(runs / "coded", accuracies=[0.5, 0.8], rounds=4, density=masks, coded=220, changes=long)
    write_run(runs / "labels", accuracies=[0.5, 0.6, 0.7], changes=["data.partition=labels"])
    out = tmp_path_factory.mktemp("report")
    write_report(out, find_runs([runs]))
    return out / "report.html"


def test_the_page_itself_on_a_desk(report: Path, tmp_path: Path) -> None:
    text, screen, logged = browse(report.as_uri(), tmp_path, 1280, 2000)
    assert logged == []
    assert screen.shape == (2000, 1280, 3)
    for band in np.array_split(screen, 5):  # text and figures all the way down
        assert band.std() > 5
    assert '<h2 id="setting-2">' in text
    assert (screen[:, :8] == screen[0, 0]).all(), "nothing touches the edge"


@pytest.mark.parametrize("width", [1280, 390])
def test_what_a_reader_sees(report: Path, tmp_path: Path, width: int) -> None:
    found, screen, logged = look(report.read_text(), tmp_path, width)
    assert faults(found, screen, logged) == []
    names = [name for name, _ in found["images"]]
    curves = ("accuracy-traffic", "accuracy-rounds", "accuracy-bytes")
    assert names == [
        *(f"1-{name}" for name in (*curves, "holdings", "masks", "times")),
        *(f"2-{name}" for name in (*curves, "times")),
        "codec-error",
    ]
    for heading in ("2 settings compared", "Result", "Convergence", "Partition", "Masks", "Time", "Bytes", "Codecs"):
        assert heading in found["headings"]
    for cell in ("90.00±1.41", "2 of 4", "up, mask", "fedmrn, side float16, scale 0.0123, coding entropy"):
        assert cell in found["cells"], cell


def test_faults_are_seen(report: Path, tmp_path: Path) -> None:
    """The same checks on a page with a broken image, a wide element, small print and an error."""
    page = report.read_text()
    start = page.index("base64,") + len("base64,")
    broken = page[:start] + "AAAA" + page[start + 4 :]
    broken = broken.replace("</h1>", '</h1><p style="font-size:6px"><img src="https://example.invalid/x.png"></p>', 1)
    broken = broken.replace("</h1>", '</h1><div style="width:3000px">wide</div>', 1)
    found = "\n".join(faults(*look(broken, tmp_path, 390)))
    assert "image 1-accuracy-traffic is not shown" in found
    assert "DIV reaches out of the page" in found
    assert "in a window of 390" in found
    assert "P is too small to read" in found
    assert "logged: " in found  # the page's own policy refuses the picture of another machine
