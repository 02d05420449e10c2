"""The site in a real browser: nothing reaches out of a page, on a phone and on a desk."""

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSED, browse

pytestmark = [*BROWSED[:1], pytest.mark.slow, pytest.mark.xdist_group("site")]

SAMPLED = (
    "",
    "tutorial/first-run/",
    "tutorial/your-loop/",
    "reference/",
    "reference/api/client/",
    "reference/api/flower/",
    "reference/command-line/",
    "reference/options/",
    "wire-format/",
    "methods/",
    "results/",
    "results/uneven-splits/",
    "deployment/",
)
# Each page in a frame of the wanted width, one after the other: a window of the browser's own cannot be that narrow.
LOOK = """
const found = {};
const wait = ms => new Promise(done => setTimeout(done, ms));
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.style = `border:0;width:${width}px;height:1200px`;
  const loaded = new Promise(done => frame.onload = done);
  frame.src = "/" + page;
  document.body.append(frame);
  await loaded;
  await wait(500);  // tables get their scrolling frames by a script
  const inside = frame.contentDocument, root = inside.documentElement;
  const article = inside.querySelector("article");
  found[`${page} ${width}`] = {
    wide: root.scrollWidth - root.clientWidth,
    outside: [...article.querySelectorAll("*")].filter(
      e => !e.closest("pre, .md-typeset__scrollwrap, .headerlink") && e.getBoundingClientRect().right > width + 1
    ).map(e => `${e.tagName} ${e.textContent.slice(0, 60)}`),
    images: [...article.querySelectorAll("img")].filter(i => !i.naturalWidth).map(i => i.src),
    high: article.getBoundingClientRect().height,
    scheme: inside.body.dataset.mdColorScheme,
  };
  frame.remove();
}
(async () => {
  for (const page of PAGES) for (const width of [390, 1280]) await look(page, width);
  document.body.dataset.found = JSON.stringify(found);
})();
"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing about it."""

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def served(site: Path, tmp_path: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def faults(served: str, site: Path, folder: Path, pages: tuple[str, ...]) -> list[str]:
    """What is wrong with these pages."""
    script = LOOK.replace("PAGES", json.dumps(pages))
    (site / "around.html").write_text(f'<!doctype html><meta charset="utf-8"><body><script>{script}</script>')
    text, _, logged = browse(f"{served}around.html", folder, 1300, 1300, ("--virtual-time-budget=100000",))
    (site / "around.html").unlink()
    said = re.search('data-found="(.*?)"', text)
    assert said, text[-1000:]
    found = json.loads(unescape(said[1]))
    assert len(found) == 2 * len(pages)
    wrong = [f"logged: {line}" for line in logged]
    for page, seen in found.items():
        assert seen["high"] > 40, page
        assert seen["scheme"] in {"default", "slate"}, page
        wrong += [f"{page}: wider than the window by {seen['wide']}"] if seen["wide"] > 0 else []
        wrong += [f"{page}: reaches out: {what}" for what in seen["outside"]]
        wrong += [f"{page}: not shown: {image}" for image in seen["images"]]
    return wrong


def test_nothing_reaches_out_of_a_page(served: str, site: Path, tmp_path: Path) -> None:
    assert faults(served, site, tmp_path, SAMPLED) == []


def test_faults_are_seen(served: str, site: Path, tmp_path: Path) -> None:
    page = (site / "data" / "index.html").read_text("utf-8")
    broken = '</h1><p style="width:3000px">wide</p><img src="no.png"><script>console.error("no")</script>'
    (site / "broken.html").write_text(page.replace("</h1>", broken, 1).replace("../", "/"))
    found = "\n".join(faults(served, site, tmp_path, ("broken.html",)))
    (site / "broken.html").unlink()
    assert "broken.html 390: reaches out: P wide" in found
    assert "broken.html 1280: wider than the window" in found
    assert "not shown: " in found
    assert "logged: " in found
