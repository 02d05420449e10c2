"""The study of scale in small: a tree of processes is one server, a stop loses nothing, the page is the data's."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from math import ldexp
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "studies"))

import scale
import scale_fit
import scale_page
from scale_edge import STOPPED, Edge, Stop
from scale_fit import PARTS, TERMS
from scale_frames import MOST, RAW, ROUND, Case, Maker, weight_of

from fedmrn.numerics.kernels import NEAR
from fedmrn.wire.layout import Group

STUDIES = Path(scale.__file__).parent
TINY = Case("fedmrn", RAW, 1 << 16, 7)
DATA = scale.load(scale.DATA)


def test_a_tree_of_processes_is_one_server(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    command = [sys.executable, "-W", "error", str(STUDIES / "scale.py"), "fit", "--quick"]
    command += ["--data", str(data), "--work", str(tmp_path / "work")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(data.read_text())
    assert len(found["fit"]) == len(scale.QUICK)
    for record in found["fit"].values():
        assert record["state"] == record["single server"]
        assert all(seconds > 0 for seconds in record["cpu"].values())
        assert record["bytes"]["broadcast"] > 4 * record["case"]["parameters"]
    assert not any((tmp_path / "work").iterdir())
    before = data.read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (again.returncode, again.stdout, data.read_bytes()) == (0, "", before), "what is done is not done again"


def states(tmp_path: Path, case: Case, stop: Stop) -> np.ndarray:
    """The state after a round of one edge, which is stopped after each frame if asked from the start."""
    (tmp_path / "case.json").write_text(json.dumps(asdict(case)))
    round_ = case.server().begin(ROUND, range(case.clients))
    (tmp_path / "edge-0.assigned").write_bytes(round_.assign({"edge-0": range(case.clients)})["edge-0"])
    starts = 1
    while (code := Edge(tmp_path, 0).run(Stop(stop.asked))) == STOPPED:
        starts += 1
    assert (code, starts) == (0, 1 + case.clients * stop.asked)
    found = round_.merge("edge-0", (tmp_path / "edge-0.partial").read_bytes())
    assert found.members.tolist() == list(range(case.clients))
    return round_.finish()


def test_an_edge_that_was_stopped_goes_on(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    case = Case("fedmrn", RAW, 1 << 16, 3)
    np.testing.assert_array_equal(states(whole, case, Stop()), states(parts, case, Stop(asked=True)))
    kept = json.loads((parts / "edge-0.json").read_text())
    assert kept["folded"] == case.clients
    assert kept["bytes"] == json.loads((whole / "edge-0.json").read_text())["bytes"]
    (parts / "edge-0.json").write_text(json.dumps({**kept, "assignment": "another"}))
    assert Edge(parts, 0).state["folded"] == 0, "what was kept of another round does not count"


def test_clients_have_frames_of_their_own() -> None:
    round_ = TINY.server().begin(ROUND, range(TINY.clients))
    maker = Maker(TINY, round_.broadcast_frame(0))
    frames = [maker.frame(client, round_.broadcast_frame(client).noise_key) for client in range(TINY.clients)]
    assert len(set(frames)) == TINY.clients
    for client, frame in enumerate(frames):
        assert round_.add(client, frame).noise_key == round_.broadcast_frame(client).noise_key


def test_a_fit_finds_the_constants_that_made_the_figures() -> None:
    cases = [Case("fedmrn", RAW, d, n, t) for d, n, t in [*CASES]]
    made = {
        part: {what: {term: 1 + i for i, term in enumerate(t)} for what, t in w.items()} for part, w in PARTS.items()
    }
    records = [{"case": asdict(case), **scale_fit.predicted(made, case)} for case in cases]
    found = scale_fit.fitted(records)
    for part, whats in made.items():
        for what, terms in whats.items():
            assert found[part][what] == pytest.approx(terms, rel=1e-4), (part, what)


CASES = [(d, n, t) for d in (1 << 10, 1 << 14, 1 << 23, 1 << 25) for n in (3, 60, 9000) for t in (1, 64)]


@pytest.mark.parametrize("clients", [7, 50, 300, 3000])
@pytest.mark.parametrize("method", scale.METHODS)
def test_who_is_rounded_by_the_slower_kernel(method: str, clients: int) -> None:
    case = Case(method, RAW, 1 << 10, clients)
    aggregator = case.server().begin(ROUND, range(clients)).aggregator
    assert aggregator.plan.max_weight == MOST
    unit, *_ = aggregator.sums.sums[Group.CODED].units
    products = [unit.bound * ldexp(min(weight_of(client), MOST), unit.exponent) for client in range(clients)]
    assert scale_fit.slow(case) == pytest.approx(np.mean([product >= NEAR for product in products]))


def test_negative_constants_are_left_out() -> None:
    case = Case("fedmrn", RAW, 1 << 16, 30)
    cases = [Case("fedmrn", RAW, 1 << 16, n) for n in (30, 300, 3000)]
    figures = {part: dict.fromkeys(whats, 1.0) for part, whats in PARTS.items()}
    records = [{"case": asdict(c), **figures, "memory": {"root": 9 - i, "edge": 1}} for i, c in enumerate(cases)]
    found = scale_fit.fitted(records)["memory"]["root"]
    assert all(value >= 0 for value in found.values())
    assert found.keys() <= TERMS.keys()
    assert scale_fit.evaluate(found, case) > 0


def test_the_tables_of_the_page_are_those_of_the_data(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    shutil.copy(scale_page.PAGE, page)
    scale_page.publish(DATA, page)
    assert page.read_text() == scale_page.PAGE.read_text(), "python studies/scale_page.py"


def test_large_rounds_were_predicted_before_and_are_not_after() -> None:
    assert DATA["large"].keys() <= DATA["predicted"].keys()
    assert {case.name for case in scale.LARGE} == DATA["predicted"].keys()
    with pytest.raises(SystemExit, match="is measured already"):
        scale.predict(DATA, scale.LARGE)


@pytest.mark.parametrize("record", [*DATA["fit"].values(), *DATA["large"].values()], ids=lambda r: r["state"])
def test_what_one_server_was_given_too_came_to_the_same(record) -> None:
    assert record.get("single server", record["state"]) == record["state"]
    assert record["bytes"]["broadcast"] > 4 * record["case"]["parameters"]


@pytest.mark.parametrize(
    ("number", "text"), [(999, "999 B"), (1000, "1 kB"), (4_000_150, "4 MB"), (1.25e17, "125 PB"), (2.5e9, "2.5 GB")]
)
def test_sizes_for_people(number: float, text: str) -> None:
    assert scale_page.size(number) == text


@pytest.mark.parametrize(("number", "text"), [(0.5, "0.5 s"), (179, "179 s"), (180, "3 min"), (1.2e6, "13.9 days")])
def test_seconds_for_people(number: float, text: str) -> None:
    assert scale_page.seconds(number) == text
