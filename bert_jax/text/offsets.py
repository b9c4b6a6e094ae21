"""Which characters of a text each token was made from; `tokenizer` calls it."""

import unicodedata

import numpy as np


def piece_spans(
    normalized: str, sources: np.ndarray, byte_counts: np.ndarray, text: str
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the characters that each piece of a normalised text was made from.

    Args:
      normalized: [m] characters; white space is "▁".
      sources: [m + 1] where each of them begins in the text; equal for those that one character
        of the text became. The last entry is where the text ends.
      byte_counts: [n] how many bytes of the UTF-8 of `normalized` each piece takes, in order.
      text: the text before it was normalised.

    Returns:
      begins and ends, [n] int32 each.
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
    # Trimming: from the first visible character at or after `first` to the last one until `last`.
    # A piece without one takes the next in the text, and behind the last one, that.
    left = np.minimum(np.searchsorted(visible, first), len(visible) - 1)
    right = np.maximum(np.searchsorted(visible, last, side="right") - 1, left)
    begins = sources[visible[left]]
    ends = sources[np.searchsorted(sources, sources[visible[right]], side="right")]
    # Characters that the normaliser dropped belong to the piece before them; some are white space.
    inked = np.array([not c.isspace() for c in text])
    ends = np.maximum.accumulate(np.arange(1, len(text) + 1) * inked)[ends - 1]
    return begins.astype(np.int32), ends.astype(np.int32)


def with_accents(text: str, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Moves each end behind the combining marks that follow it and belong to no token.

    A normaliser that strips accents leaves them out of every span: the token "cafe" would not
    cover a final accent that is a character of its own.

    Args:
      text: the text.
      begins: [n] int32, characters, never decreasing.
      ends: [n] int32, characters.

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
