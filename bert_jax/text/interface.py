"""Interface of all kinds of tokenizers.

Text never becomes one of the five special tokens: the characters "[MASK]" in a document are encoded
as ordinary text. Special tokens are added by callers, as ids.
"""

import abc
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.errors import UserError
from bert_jax.files import write_atomically

SETTINGS_FILE = "tokenizer_settings.json"


@dataclasses.dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids of the special tokens, and how these stand around texts.

    A text is [CLS] A [SEP]; a pair is [CLS] A [SEP] B [SEP], or with two separators
    [CLS] A [SEP] [SEP] B [SEP], as RoBERTa has it.
    """

    pad: int
    unk: int  # the only one that text can become
    cls: int
    sep: int
    mask: int
    separators: int = 1  # [SEP] between the texts of a pair
    segments: bool = True  # False: the second text is in segment 0, too

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids alone."""
        return tuple(self.roles.values())

    @property
    def roles(self) -> dict[str, int]:
        """The role of each special token -> its id."""
        return {role: getattr(self, role) for role in ("pad", "unk", "cls", "sep", "mask")}

    @property
    def of_pair(self) -> int:
        """Number of special tokens of a pair."""
        return 2 + self.separators


class Encoded(NamedTuple):
    """Tokens with offsets: token i was made from `text[begins[i]:ends[i]]`."""

    ids: np.ndarray  # [n] int32
    begins: np.ndarray  # [n] int32, in characters, ascending
    ends: np.ndarray  # [n] int32, in characters, greater than begins


class Tokenizer(abc.ABC):
    """Interface of all kinds. Make one with `load_tokenizer` or `tokenizer_from_dict`."""

    kind: str  # "sentencepiece", "wordpiece" or "library"
    vocab_size: int
    special: SpecialIds
    fingerprint: str  # hexadecimal digest of everything that the ids depend on
    notes: tuple[str, ...] = ()  # lines for a reader: what was assumed when its files were read

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Encodes one text, without adding special tokens.

        Returns:
          [n] int32; n is 0 for a text without visible characters. `unk` is the only special id that
          can occur.

        Raises:
          UserError: if the text has half of a surrogate pair, which is not valid Unicode.
        """

    def encode_continuation(self, text: str) -> np.ndarray:
        """Encodes text that stands right behind another token, such as "." behind a mask.

        As `encode`, but no word begins at its first character, unless white space is before it.
        """
        return self.encode(text)

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes many texts, faster than `encode`, on one thread; do not modify the arrays."""

    def encode_words(self, words: Sequence[str]) -> list[np.ndarray]:
        """Encodes words that are given apart, each as it is inside of a text."""
        return self.encode_batch(words)

    def running_text(self, sentences: Sequence[str]) -> list[str]:
        """Returns the sentences of a document as they stand in it, to be encoded one by one.

        Where a piece holds the space before its word, that space goes with the sentence after it.
        """
        return list(sentences)

    @abc.abstractmethod
    def encode_with_offsets(self, text: str) -> Encoded:
        """Encodes one text, with the offsets of each token.

        The ids are those of `encode`. A span is never empty and has no white space at its ends. The
        span of a token made from part of a character is the whole character, so spans may overlap.
        That of a token made from white space is the next character, or at the end of the text the
        last one. If the model sees only white space, the span of every token is the whole text.
        """

    @abc.abstractmethod
    def id_to_piece(self, id: int) -> str:
        """Returns a piece as it is in the vocabulary, e.g. "##ing" or "▁the"."""

    @abc.abstractmethod
    def word_starts(self) -> np.ndarray:
        """Returns [V] bool, True for pieces that begin a word; special pieces do.

        With SentencePiece, words are separated by spaces, even in scripts that do not use them.

        Raises:
          UserError: if the pieces mark the ends of words, not the begins.
        """

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Returns the whole tokenizer, ready for JSON; the inverse is `tokenizer_from_dict`."""

    @abc.abstractmethod
    def _decode_text(self, ids: list[int]) -> str:
        """Decodes ordinary tokens to text."""

    @abc.abstractmethod
    def model_file(self) -> tuple[str, bytes]:
        """Returns the name and the content of the vocabulary's file."""

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes tokens to text; special ids become their pieces: "[CLS] a b [SEP]".

        Raises:
          IndexError: if an id is outside the vocabulary.
        """
        ids = [int(id) for id in ids]
        for id in ids:
            self._check_id(id)
        special = frozenset(self.special.ids)
        parts = []
        for is_special, run in itertools.groupby(ids, special.__contains__):
            if is_special:
                parts.extend(self.id_to_piece(id) for id in run)
            else:
                parts.append(self._decode_text(list(run)).strip())
        return " ".join(part for part in parts if part)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the vocabulary and `tokenizer_settings.json`; the inverse is `load_tokenizer`.

        The settings are written last, so a directory with them is complete.

        Raises:
          UserError: if the files cannot be written.
        """
        directory = pathlib.Path(directory)
        name, content = self.model_file()
        settings = {
            "kind": self.kind,
            "settings": self.to_dict()["settings"],
            "fingerprint": self.fingerprint,
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(directory / name, content)
            write_atomically(
                directory / SETTINGS_FILE, f"{json.dumps(settings, indent=2)}\n".encode()
            )
        except OSError as error:
            raise UserError(
                f"cannot save the tokenizer in {str(directory)!r}: {error.strerror}"
            ) from None

    def _starts(self, by_piece: list[bool]) -> np.ndarray:
        starts = np.array(by_piece)
        starts[list(self.special.ids)] = True
        return starts

    def _check_id(self, id: int) -> None:
        if not 0 <= id < self.vocab_size:
            raise IndexError(f"token id {id} is outside the vocabulary of {self.vocab_size}")


def fingerprint(values: dict[str, Any]) -> str:
    """Returns the digest of a dictionary of `Tokenizer.to_dict`, in hexadecimal."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_unicode(texts: Sequence[str]) -> None:
    """Raises UserError for half of a surrogate pair, which JSON escapes can write."""
    try:
        "".join(texts).encode()  # all at once; halves in two texts do not join to a pair
    except UnicodeEncodeError:
        for text in texts:
            _check_text(text)


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"character {error.start} of a text is {text[error.start]!a}, half of a surrogate pair,"
            " which is not valid Unicode: correct the text"
        ) from None
