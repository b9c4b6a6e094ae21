"""The page of decoded rows is what the code makes of its text."""

from docs.formats.make_page import PAGE, combinations, make_page, title


def test_the_page_is_up_to_date() -> None:
    """If this fails: python -m docs.formats.make_page, and read what has changed."""
    assert PAGE.read_text() == make_page()


def test_the_page_has_every_valid_combination() -> None:
    titles = [title(config) for config in combinations()]
    assert len(titles) == len(set(titles)) == 10
    assert all(f"## {each}\n" in PAGE.read_text() for each in titles)
