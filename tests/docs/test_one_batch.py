"""The page that follows one batch to the loss is what the code prints today."""

import re

import pytest

from docs.one_batch import PAGE, make_page

_DECIMAL = r"-?\d+\.\d\d"


def test_the_page_is_up_to_date() -> None:
    """If this fails: python -m docs.one_batch, and read what has changed."""
    page, made = PAGE.read_text(), make_page()
    blank = [re.sub(rf" *{_DECIMAL}", "#", text) for text in (page, made)]
    assert blank[0] == blank[1]
    # Machines round differently.
    decimals = [[float(each) for each in re.findall(_DECIMAL, text)] for text in (page, made)]
    assert decimals[0] == pytest.approx(decimals[1], abs=0.02)


def test_the_page_needs_few_files() -> None:
    assert len(set(re.findall(r"\.\./bert_jax/[\w/]+\.py", PAGE.read_text()))) <= 8
