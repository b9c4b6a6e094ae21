"""The drawing of the wings is what the imports make of it."""

from docs.wings import PICTURE, arrows, draw


def test_the_drawing_is_up_to_date() -> None:
    """If this fails: python -m docs.wings, and look at docs/wings.svg."""
    assert PICTURE.read_text() == draw()


def test_arrows_that_follow_from_others_are_left_out() -> None:
    imports = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert arrows(imports) == [("a", "b"), ("a", "d"), ("b", "c")]
