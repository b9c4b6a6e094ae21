"""The table of results in README.md is what the committed logs say."""

from docs.results import BEGIN, README, make_table, with_table


def test_the_table_is_up_to_date() -> None:
    """If this fails: python -m docs.results, and read what has changed."""
    assert BEGIN + make_table() in README.read_text()


def test_the_table_is_replaced_between_its_markers() -> None:
    page = README.read_text()
    stale = page.replace(make_table(), "| old |\n")
    assert stale != page
    assert with_table(stale) == page
