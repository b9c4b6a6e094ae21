"""Labels of texts and of words: one spelling of each, and those that stand for no label."""

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal

from bert_jax.errors import UserError

_UNLABELLED = frozenset({"-", "-1"})
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
_SHOWN = 10  # labels in a message, at most


@functools.lru_cache(maxsize=4096)  # a file has few labels, each many times
def clean_label(text: str) -> str:
    """Returns the one spelling of a label: Unicode's NFC, with single spaces inside it only."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def is_blank(text: str) -> bool:
    """Returns True for a text without a visible character."""
    return all(character.isspace() or not _prints(character) for character in text)


def _prints(character: str) -> bool:
    """Returns False for control and format characters, and for variation selectors."""
    hidden = ord(character) in _VARIATION_SELECTORS
    return not hidden and unicodedata.category(character) not in ("Cc", "Cf")


def _visible(text: str) -> str:
    return "".join(filter(_prints, text))


def check_distinct(labels: Iterable[str], source: str) -> None:
    """Raises UserError if two labels of a source are the same number, or look the same."""
    seen: dict[str | Decimal, str] = {}
    for label in labels:
        is_number = _NUMBER.fullmatch(label)
        key = Decimal(label) if is_number else _visible(label)
        other = seen.setdefault(key, label)
        if other != label:
            same = "are the same number" if is_number else "look the same"
            raise UserError(
                f"{source} has the labels {ascii(other)} and {ascii(label)}, which {same}:"
                " write one of them throughout"
            )


def unlabelled(found: Collection[str]) -> frozenset[str]:
    """Returns which labels of a training file stand for no label.

    "-" does, as in SNLI, unless "+" is a label too. "-1" does, as in exported datasets, where the
    others are the numbers 0, 1, 2 and on; beside 0 and 1 alone it may be a class of its own.
    """
    others = set(found) - _UNLABELLED
    numbered = len(others) > 2 and others == {str(number) for number in range(len(others))}
    classes = {"-"} if "+" in found else set()
    return _UNLABELLED - classes if numbered else _UNLABELLED - classes - {"-1"}


def unlabelled_beside(classes: Collection[str]) -> frozenset[str]:
    """Returns which labels stand for no label in a file of a task with these classes."""
    return _UNLABELLED - frozenset(classes)


def choices(labels: Sequence[str]) -> str:
    """Formats labels for a message, the first ones of many."""
    more = ", ..." if len(labels) > _SHOWN else ""
    return ", ".join(map(repr, labels[:_SHOWN])) + more
