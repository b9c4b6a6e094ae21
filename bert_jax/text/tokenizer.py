"""Tokenizers: text to token ids and back, by SentencePiece, WordPiece or byte-level BPE.

`prepare` trains or loads a tokenizer and encodes the corpus with it; checkpoints store it as a
dictionary, from which fine-tuning and prediction rebuild it. The interface is in `interface.py`,
the kinds in `sentence_pieces.py`, `wordpiece.py` and `library.py`; what others need is imported
from here.
"""

import base64
import json
import os
import pathlib
from typing import Any

from bert_jax.errors import UserError
from bert_jax.files import given_path, read_json
from bert_jax.text.interface import (
    SETTINGS_FILE,
    Encoded,
    SpecialIds,
    Tokenizer,
    check_unicode,
)
from bert_jax.text.library import LIBRARY_FILE, LibraryTokenizer
from bert_jax.text.library_files import MERGED_VOCAB_FILE, read_library_file, read_merges
from bert_jax.text.sentence_pieces import SENTENCEPIECE_FILE, SentencePieceTokenizer
from bert_jax.text.vocabulary import VOCAB_FILE, case_note, is_cased, read_file, read_vocab
from bert_jax.text.wordpiece import AddedToken, WordPieceTokenizer

__all__ = [
    "SETTINGS_FILE",
    "AddedToken",
    "Encoded",
    "LibraryTokenizer",
    "SentencePieceTokenizer",
    "SpecialIds",
    "Tokenizer",
    "WordPieceTokenizer",
    "check_unicode",
    "load_tokenizer",
    "tokenizer_from_dict",
]


def load_tokenizer(
    path: str | os.PathLike[str],
    *,
    lower_case: bool | None = None,
    strip_accents: bool | None = None,
) -> Tokenizer:
    """Reads a tokenizer from disk.

    Args:
      path: a directory that `Tokenizer.save` made, a SentencePiece *.model file, a WordPiece
        vocabulary (*.txt, one piece a line), a tokenizer.json, or a vocab.json with merges.txt
        beside it.
      lower_case: True if a *.txt file is an uncased vocabulary; None: judged by its pieces, and
        told in `Tokenizer.notes`. A directory stores it.
      strip_accents: of a *.txt file; None: as `lower_case`.

    Raises:
      UserError: if there is no tokenizer, or it is damaged.
    """
    path = given_path(path)
    if path.is_dir():
        return _load_directory(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(read_file(path), str(path))
    if path.suffix == ".txt":
        return _load_vocab(path, lower_case, strip_accents)
    if path.name == MERGED_VOCAB_FILE:
        return read_merges(path)
    if path.suffix == ".json":
        return read_library_file(path)
    raise UserError(
        f"{str(path)!r} is not a tokenizer: give the directory of a saved tokenizer, a *.model"
        f" file, a vocab.txt, a tokenizer.json or a {MERGED_VOCAB_FILE}"
    )


def tokenizer_from_dict(values: dict[str, Any]) -> Tokenizer:
    """Builds a tokenizer from a dictionary of `Tokenizer.to_dict`.

    Raises:
      UserError: if this version does not write such a dictionary.
    """
    match values:
        case {"kind": "sentencepiece", "settings": {}, "model": str(model)}:
            try:
                return SentencePieceTokenizer(base64.b64decode(model, validate=True))
            except ValueError:
                raise UserError(
                    "the stored SentencePiece model is damaged (not base64): use another copy"
                ) from None
        case {
            "kind": "wordpiece",
            "settings": {"lower_case": bool(), **other} as settings,
            "model": list(vocab),
        } if (
            all(isinstance(piece, str) for piece in vocab)
            and other.keys() <= {"strip_accents", "split_han", "added"}
            and all(isinstance(value, bool) for name, value in other.items() if name != "added")
        ):
            try:
                added = [AddedToken(**token) for token in other.pop("added", [])]
                return WordPieceTokenizer(
                    vocab, lower_case=settings["lower_case"], added=added, **other
                )
            except TypeError:  # an added token with other fields
                pass
        case {"kind": "library", "settings": dict(settings), "model": dict(model)}:
            try:
                return LibraryTokenizer(model, SpecialIds(**settings))
            except TypeError:  # other settings
                pass
    raise UserError(
        "the stored tokenizer is damaged or was written by another version of bert_jax: use another"
        " copy, or that version"
    )


def _load_vocab(
    path: pathlib.Path, lower_case: bool | None, strip_accents: bool | None
) -> WordPieceTokenizer:
    vocab = read_vocab(path)
    cased = is_cased(vocab) if lower_case is None else not lower_case
    made = WordPieceTokenizer(
        vocab, lower_case=not cased, strip_accents=strip_accents, name=str(path)
    )
    if lower_case is None:
        made.notes = (case_note(cased), *made.notes)
    return made


def _load_directory(directory: pathlib.Path) -> Tokenizer:
    if not (directory / SETTINGS_FILE).is_file():
        raise UserError(
            f"{str(directory)!r} has no saved tokenizer (no {SETTINGS_FILE}): give the directory of"
            " a saved tokenizer, a *.model file or a vocab.txt"
        )
    try:
        values = json.loads(read_file(directory / SETTINGS_FILE))
    except ValueError:
        values = None
    match values:
        case {"kind": "sentencepiece", "settings": dict(), "fingerprint": str()}:
            model = base64.b64encode(read_file(directory / SENTENCEPIECE_FILE)).decode("ascii")
        case {"kind": "wordpiece", "settings": dict(), "fingerprint": str()}:
            model = read_vocab(directory / VOCAB_FILE)
        case {"kind": "library", "settings": dict(), "fingerprint": str()}:
            model = read_json(directory / LIBRARY_FILE)
        case _:
            raise UserError(
                f"{str(directory / SETTINGS_FILE)!r} is damaged or was written by another version"
                " of bert_jax: save the tokenizer again"
            )
    tokenizer = tokenizer_from_dict({**values, "model": model})
    if tokenizer.fingerprint != values["fingerprint"]:
        raise UserError(
            f"the vocabulary in {str(directory)!r} does not have the fingerprint in"
            f" {SETTINGS_FILE}: save the tokenizer again"
        )
    return tokenizer
