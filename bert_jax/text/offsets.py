"""Maps tokens to the characters of the text that they were made from."""

import unicodedata

import numpy as np


def piece_spans(
    normalized: str, sources: np.ndarray, byte_counts: np.ndarray, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the characters of the text that each piece of its normalised form was made from.

    Args:
      normalized: the normalised text, m characters; white space is "▁".
      sources: [m + 1] int, offset in the text of each of them, equal for those that come from one
        character; the last is the length of the text.
      byte_counts: [n] int, bytes in UTF-8 of each piece of the normalised text, in order.
      text: the text.

    Returns:
      The begin and the end of each piece in the text, [n] int32 each.
    """
    utf8 = np.frombuffer(normalized.encode(), np.uint8)
    char_of_byte = np.cumsum((utf8 & 0xC0) != 0x80) - 1
    byte_ends = np.cumsum(byte_counts)
    first = char_of_byte[byte_ends - byte_counts]  # [n]
    last = char_of_byte[byte_ends - 1]  # [n], inclusive

    visible = np.flatnonzero(
        [
            not (c == "▁" or text[source].isspace())
            for c, source in zip(normalized, sources[:-1].tolist(), strict=True)
        ]
    )
    if not len(visible):
        whole = text.strip() or text
        begins = np.full_like(first, text.index(whole), np.int32)
        return begins, begins + np.int32(len(whole))
    # Trims white space: from the first visible character at or after `first` to the last one at or
    # before `last`. A piece without any takes the next visible character, or else the last one.
    left = np.minimum(np.searchsorted(visible, first), len(visible) - 1)
    right = np.maximum(np.searchsorted(visible, last, side="right") - 1, left)
    begins = sources[visible[left]]
    ends = sources[np.searchsorted(sources, sources[visible[right]], side="right")]
    # Characters that the normaliser dropped belong to the piece before, except white space.
    inked = np.array([not c.isspace() for c in text])
    ends = np.maximum.accumulate(np.arange(1, len(text) + 1) * inked)[ends - 1]
    return begins.astype(np.int32), ends.astype(np.int32)


def with_accents(text: str, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Extends spans by the combining marks that follow them and belong to no token.

    A normaliser that strips accents drops them, so that the token "cafe" would not cover a final
    accent that is a character of its own.

    Args:
      text: the text.
      begins: [n] int32, in characters, ascending.
      ends: [n] int32, in characters.

    Returns:
      The new ends, [n] int32.
    """
    moved = ends.copy()
    if text.isascii():
        return moved
    for i, limit in enumerate([*begins, len(text)][1:]):
        while moved[i] < limit and unicodedata.category(text[moved[i]]) == "Mn":
            moved[i] += 1
    return moved


def without_space(text: str, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns spans without the white space at their ends, none of them empty.

    One of white space alone, or of nothing, becomes the next character that is not white space, or
    at the end of the text the last one; in a text of white space all become the whole of it.

    Args:
      text: the text.
      begins: [n] int32, in characters, ascending.
      ends: [n] int32, in characters.

    Returns:
      The new begins and ends, [n] int32 each.
    """
    inked = np.flatnonzero([not character.isspace() for character in text])
    if not len(inked):
        return np.zeros_like(begins), np.full_like(ends, len(text))
    first = np.searchsorted(inked, begins)
    last = np.searchsorted(inked, ends) - 1
    first = np.minimum(first, len(inked) - 1)
    last = np.maximum(last, first)
    return inked[first].astype(np.int32), (inked[last] + 1).astype(np.int32)


def trimmed(text: str, begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns spans without the white space at their ends; one of white space alone stays.

    Args:
      text: the text.
      begins: [n] int32, in characters.
      ends: [n] int32, in characters.

    Returns:
      The new begins and ends, [n] int32 each.
    """
    begins, ends = begins.copy(), ends.copy()
    for i, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        if inked := text[begin:end].strip():
            begins[i] = begin + text[begin:end].index(inked)
            ends[i] = begins[i] + len(inked)
    return begins, ends
