"""The committed pages are what the committed records say, and they keep to the house's rules for pages."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedmrn.results.pages import write_results
from fedmrn.results.records import read_collection

DOCS = Path(__file__).parents[3] / "docs"
PAGES = [DOCS / "results.md", *sorted((DOCS / "results").glob("*.md"))]
RECORDS = sorted((DOCS / "results" / "records").glob("*.json"))


def test_pages_and_figures_are_what_the_records_say() -> None:
    assert write_results(DOCS / "results", check=True) == [], "make results"


def test_there_are_pages_and_records() -> None:
    assert len(PAGES) > 8
    assert len(RECORDS) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_has_a_sentence_a_line_and_tables_that_one_can_read(page: Path) -> None:
    text = re.sub(r"<!-- source: .*?<!-- end -->", "", page.read_text("utf-8"), flags=re.S)
    lines = text.splitlines()
    assert not [line for line in lines if re.search(r"[a-z)]\. [A-Z]", line) and line[0] not in "|-!# "]
    widest = max((line.replace(r"\|", "").count("|") - 1 for line in lines if line.startswith("|")), default=0)
    assert widest <= 9


def test_the_first_page_is_short_and_its_tables_have_seven_columns_at_most() -> None:
    lines = (DOCS / "results.md").read_text("utf-8").splitlines()
    assert len(lines) < 160
    assert max(line.replace(r"\|", "").count("|") - 1 for line in lines if line.startswith("|")) == 7
    assert lines.index("## The paper's claims") < 20


def test_the_cover_has_the_table_of_the_first_page() -> None:
    readme, page = ((DOCS / name).read_text("utf-8") for name in ("../README.md", "results.md"))
    (shown,) = re.findall(r"<!-- table: digits -->.*?<!-- end -->", readme, re.S)
    assert shown in page
    assert len(readme.splitlines()) <= 120


def test_five_seeds_on_all_three_splits_by_plain_means() -> None:
    """The headline's differences by a loop, from the records: what the page says is what the curves say."""
    runs = read_collection(DOCS / "results" / "records" / "fmnist-gpu.json").runs
    page = (DOCS / "results.md").read_text("utf-8")
    for setting, split in (("fmnist-iid", "IID"), ("fmnist-labels", "30 % of the labels")):
        curves = {(run.method, run.seed): np.mean(run.accuracy[15:30]) for run in runs if run.setting == setting}
        apart = [100 * (curves["fedmrn", seed] - curves["fedavg", seed]) for seed in range(1, 6)]
        half = 2.7764451 * np.std(apart, ddof=1) / 5**0.5
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {split} | fedmrn |")]
        assert f"| {np.mean(apart):+.2f}±{half:.2f} |" in row
