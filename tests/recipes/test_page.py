"""Every recipe of the page has a test that runs it."""

from pathlib import Path

from recipes import PAGE, headings


def test_every_recipe_is_run_by_a_test() -> None:
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert len(headings()) == 8
    assert [heading for heading in headings() if f'"{heading}"' not in tests] == []


def test_the_page_has_a_sentence_a_line() -> None:
    assert not [line for line in PAGE.read_text("utf-8").splitlines() if line.count(". ") and line[0] not in "#` "]
