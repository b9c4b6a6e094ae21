"""The page that follows one sentence is what was measured."""

import json

from docs.walked_example import PAGE, QUESTIONS, VALUES, make_page


def test_the_page_is_up_to_date() -> None:
    """If this fails: python -m docs.walked_example."""
    assert PAGE.read_text() == make_page(json.loads(VALUES.read_text()))


def test_all_questions_were_asked() -> None:
    values = json.loads(VALUES.read_text())
    assert [each["text"] for each in values["guesses"]] == list(QUESTIONS)
    assert all(len(of["accuracies"]) == 5 for of in values["sentiment"].values())
