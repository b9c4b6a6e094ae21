"""WordPiece with BERT's splitting into words, and with tokens that were added to a vocabulary."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from bert_jax.errors import UserError
from bert_jax.text.interface import Encoded, SpecialIds, Tokenizer, check_unicode, fingerprint
from bert_jax.text.offsets import trimmed, with_accents
from bert_jax.text.vocabulary import (
    SPECIAL_PIECES_OF_WORDPIECE,
    VOCAB_FILE,
    check_marks,
    live_rows,
    row_notes,
)


@dataclasses.dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in the text before it is split into words, as transformers adds it."""

    content: str
    id: int
    special: bool = False  # for transformers: left out of decoded text
    normalized: bool = True  # found in the normalised text: "NEW" is "new" if it is lower-cased
    single_word: bool = False  # found between characters that are not letters or digits alone
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space after it

    def for_library(self) -> tokenizers.AddedToken:
        """Returns it as `tokenizers` has it, which gives out ids itself."""
        flags = dataclasses.asdict(self)
        del flags["id"]
        return tokenizers.AddedToken(**flags)


class WordPieceTokenizer(Tokenizer):
    """A WordPiece vocabulary with BERT's splitting into words."""

    kind = "wordpiece"

    def __init__(
        self,
        vocab: Sequence[str],
        *,
        lower_case: bool,
        strip_accents: bool | None = None,
        split_han: bool = True,
        added: Sequence[AddedToken] = (),
        name: str = "WordPiece vocabulary",
    ):
        """Builds the tokenizer from its pieces.

        Args:
          vocab: the pieces in the order of their ids. Of equal ones the last counts; "" is none.
          lower_case: True lower-cases text, as in BERT uncased.
          strip_accents: True strips accents; None means as `lower_case`.
          split_han: True makes each Chinese character a word.
          added: tokens besides the five special ones, with ids in the vocabulary or behind it.
          name: of the vocabulary in error messages.

        Raises:
          UserError: if a special piece is missing, the pieces are not WordPiece's, or an added
            token has an id that the vocabulary does not give it.
        """
        check_marks(vocab, name)
        self.notes = tuple(row_notes(vocab))
        self._vocab = live_rows(vocab)
        ids = {piece: id for id, piece in enumerate(self._vocab)}
        missing = [piece for piece in SPECIAL_PIECES_OF_WORDPIECE.values() if piece not in ids]
        if missing:
            raise UserError(
                f"{name} has no {', '.join(missing)}: add a line for each of them at its end, or"
                " give another vocabulary"
            )
        self.lower_case = lower_case
        self.strip_accents = lower_case if strip_accents is None else strip_accents
        self.split_han = split_han
        self.added = tuple(sorted(added, key=lambda token: token.id))
        # Special pieces are not registered with the library, or text would match them. Words end at
        # brackets, so no word is looked up as "[MASK]" either.
        self._tokenizer = self.library_tokenizer()
        self._tokenizer.add_tokens([token.for_library() for token in self.added])
        self._check_added(name)
        self.vocab_size = max([len(self._vocab), *(token.id + 1 for token in self.added)])
        special: Any = {role: ids[piece] for role, piece in SPECIAL_PIECES_OF_WORDPIECE.items()}
        self.special = SpecialIds(**special)
        self._added_pieces = {token.id: token.content for token in self.added}
        self.fingerprint = fingerprint(self.to_dict())

    def library_tokenizer(self) -> tokenizers.Tokenizer:
        """Returns the steps and the pieces in `tokenizers`, without special and added tokens."""
        rows = dict(enumerate(self._vocab))
        rows |= {token.id: token.content for token in self.added if token.id in rows}
        # A row without a piece has one here that no word is, so that the library, which counts
        # pieces, gives added tokens the ids behind the last row.
        ids = {piece or f" {id}": id for id, piece in rows.items()}
        made = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
        )
        made.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=self.lower_case,
            strip_accents=self.strip_accents,
            handle_chinese_chars=self.split_han,
        )
        made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        made.decoder = tokenizers.decoders.WordPiece()
        return made

    def _check_added(self, name: str) -> None:
        normalize = self._tokenizer.normalizer.normalize_str
        for token in self.added:
            if token.normalized and not normalize(token.content):
                raise UserError(
                    f"{name}: the added token {token.content!a} is found in normalised text, which"
                    " never has it: remove it"
                )
            found = self._tokenizer.token_to_id(token.content)
            row = self._vocab[token.id] if token.id < len(self._vocab) else ""
            if found != token.id or row not in ("", token.content):
                raise UserError(
                    f"{name}: the added token {token.content!r} has the id {token.id}, and with"
                    f" this vocabulary it is {found} ({row or token.content!r}): copy all files of"
                    " the tokenizer again"
                )

    def encode(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_batch`."""
        check_unicode(texts)
        # The library's batch call starts threads, whose number only an environment variable can
        # set; on one thread it is slower than this loop.
        encode = self._tokenizer.encode
        return [np.array(encode(t, add_special_tokens=False).ids, np.int32) for t in texts]

    def encode_with_offsets(self, text: str) -> Encoded:
        """See `Tokenizer.encode_with_offsets`; an added token of white space has its own span."""
        check_unicode([text])
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        begins, ends = np.array(encoding.offsets, np.int32).reshape(-1, 2).T
        if self.added:
            begins, ends = trimmed(text, begins, ends)
        return Encoded(
            np.array(encoding.ids, np.int32),
            begins.copy(),
            with_accents(text, begins, ends),
        )

    def id_to_piece(self, id: int) -> str:
        """See `Tokenizer.id_to_piece`; "" for a row that no text becomes."""
        self._check_id(id)
        return self._added_pieces.get(id) or self._vocab[id]

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`; an added token is a word."""
        added = self._added_pieces
        return self._starts(
            [id in added or not self._vocab[id].startswith("##") for id in range(self.vocab_size)]
        )

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`; the model is the list of pieces."""
        settings: dict[str, Any] = {"lower_case": self.lower_case}
        # Only if they differ from BERT's own, since the settings are part of the fingerprint.
        if self.strip_accents != self.lower_case:
            settings["strip_accents"] = self.strip_accents
        if not self.split_han:
            settings["split_han"] = False
        if self.added:
            settings["added"] = [dataclasses.asdict(token) for token in self.added]
        return {"kind": self.kind, "settings": settings, "model": list(self._vocab)}

    def _decode_text(self, ids: list[int]) -> str:
        ids = [id for id in ids if self.id_to_piece(id)]
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def model_file(self) -> tuple[str, bytes]:
        """See `Tokenizer.model_file`."""
        return VOCAB_FILE, "".join(f"{piece}\n" for piece in self._vocab).encode()


@functools.cache
def _cleaner() -> tokenizers.normalizers.BertNormalizer:
    return tokenizers.normalizers.BertNormalizer(lowercase=False, handle_chinese_chars=False)


def is_removed(character: str) -> bool:
    """Returns True for a character that BERT leaves out of every text, cased or not.

    These are control and format characters, such as the byte order mark, the zero-width space, the
    soft hyphen and bidirectional marks; white space is none of them.
    """
    return not _cleaner().normalize_str(character)
