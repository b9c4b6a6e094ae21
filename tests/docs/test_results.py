"""The tables of results are what the committed logs say."""

from docs.results import BEGIN, README, make_tables, with_tables
from docs.results_index import INDEX, PAGE, entries, make_index, make_page


def test_the_tables_are_up_to_date() -> None:
    """If this fails: python -m docs.results, and read what has changed."""
    assert BEGIN + make_tables() in README.read_text()


def test_the_tables_are_replaced_between_their_markers() -> None:
    page = README.read_text()
    stale = page.replace(make_tables(), "| old |\n")
    assert stale != page
    assert with_tables(stale) == page


def test_the_index_is_up_to_date() -> None:
    """If this fails: python -m docs.results_index."""
    assert make_index() == INDEX.read_text()
    assert make_page() == PAGE.read_text()


def test_every_study_has_an_answer_a_cost_and_a_picture() -> None:
    studies = [entry for entry in entries() if entry.cost]
    assert studies and all(entry.answer and entry.picture for entry in studies)
