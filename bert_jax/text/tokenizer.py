"""Tokenizers: text to token ids and back, by SentencePiece or WordPiece.

`prepare` trains or loads a tokenizer and encodes the corpus with it; checkpoints store it as a
dictionary, from which fine-tuning and prediction rebuild it.

Text never becomes a special token: the characters "[MASK]" in a document are encoded as ordinary
text. Special tokens are added by callers, as ids.
"""

import abc
import base64
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
import tokenizers

from bert_jax.errors import UserError
from bert_jax.files import given_path, write_atomically
from bert_jax.text.offsets import piece_spans, with_accents

SETTINGS_FILE = "tokenizer_settings.json"
SENTENCEPIECE_FILE = "sentencepiece.model"
VOCAB_FILE = "vocab.txt"

# The names that each special piece may have in a SentencePiece model, the preferred one first. The
# unknown piece is found without a name: every model has exactly one.
_PIECE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_SPACE = "▁"  # SentencePiece's character for a space, so before a word
SPECIAL_PIECES_OF_WORDPIECE = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}


@dataclasses.dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids of the special tokens."""

    pad: int
    unk: int  # the only one that text can become
    cls: int
    sep: int
    mask: int


class Encoded(NamedTuple):
    """Tokens with offsets: token i was made from `text[begins[i]:ends[i]]`."""

    ids: np.ndarray  # [n] int32
    begins: np.ndarray  # [n] int32, in characters, ascending
    ends: np.ndarray  # [n] int32, in characters, greater than begins


class Tokenizer(abc.ABC):
    """Interface of both kinds. Make one with `load_tokenizer` or `tokenizer_from_dict`."""

    kind: str  # "sentencepiece" or "wordpiece"
    vocab_size: int
    special: SpecialIds
    fingerprint: str  # hexadecimal digest of everything that the ids depend on

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Encodes one text, without adding special tokens.

        Returns:
          [n] int32; n is 0 for a text without visible characters. `unk` is the only special id that
          can occur.

        Raises:
          UserError: if the text has half of a surrogate pair, which is not valid Unicode.
        """

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes many texts, faster than `encode`, on one thread; do not modify the arrays."""

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
        special = frozenset(dataclasses.astuple(self.special))
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
        starts[list(dataclasses.astuple(self.special))] = True
        return starts

    def _check_id(self, id: int) -> None:
        if not 0 <= id < self.vocab_size:
            raise IndexError(f"token id {id} is outside the vocabulary of {self.vocab_size}")


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, trained here or elsewhere."""

    kind = "sentencepiece"

    def __init__(self, model: bytes, name: str = "SentencePiece model"):
        """Reads a serialised model.

        Args:
          model: the content of a *.model file.
          name: of the model in error messages.

        Raises:
          UserError: if it is not a SentencePiece model, lacks a special piece, or has one that text
            can become.
        """
        try:
            # SentencePiece would load an empty model, without any piece.
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model or b"\0")
        except RuntimeError:
            raise UserError(
                f"{name} is not a SentencePiece model: give a *.model file that SentencePiece wrote"
            ) from None
        self._model = model
        self.vocab_size = self._processor.get_piece_size()
        self.special = self._find_special(name)
        self.fingerprint = _fingerprint(self.to_dict())

    def _find_special(self, name: str) -> SpecialIds:
        processor = self._processor
        found = {"unk": processor.unk_id()}
        for role, pieces in _PIECE_NAMES.items():
            piece = next(
                (p for p in pieces if processor.id_to_piece(processor.piece_to_id(p)) == p),
                None,
            )
            if piece is None:
                raise UserError(
                    f"{name} has no {role} piece (none of {', '.join(pieces)}): train it with"
                    f" {pieces[0]} in control_symbols"
                )
            id = processor.piece_to_id(piece)
            if not processor.is_control(id):
                raise UserError(
                    f"{name} has {piece} as a piece that text can become: train it with {piece} in"
                    " control_symbols"
                )
            found[role] = id
        return SpecialIds(**found)

    def encode(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode`."""
        return self.encode_batch([text])[0].copy()

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_batch`."""
        try:
            return self._processor.encode(list(texts), return_type="numpy", num_threads=1)
        except (TypeError, RuntimeError):  # without saying which text is wrong, and why
            check_unicode(texts)
            raise

    def encode_with_offsets(self, text: str) -> Encoded:
        """See `Tokenizer.encode_with_offsets`."""
        ids = self.encode(text)
        if not len(ids):
            return Encoded(ids, ids, ids)
        # In SentencePiece's own offsets, parts of a split character are empty and words include the
        # white space before them. So spans are made from the alignment of its normalised text.
        normalized, sources = self._processor.normalize(text, with_offsets=True)
        pieces = self._processor.encode(text, return_type=str)
        is_byte = self._processor.is_byte(ids.tolist())
        byte_counts = [
            1 if byte else len(piece.encode()) for piece, byte in zip(pieces, is_byte, strict=True)
        ]
        begins, ends = piece_spans(normalized, np.asarray(sources), np.asarray(byte_counts), text)
        return Encoded(ids, begins, ends)

    def id_to_piece(self, id: int) -> str:
        """See `Tokenizer.id_to_piece`."""
        self._check_id(id)
        return self._processor.id_to_piece(int(id))

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`."""
        pieces = self._processor.id_to_piece(list(range(self.vocab_size)))
        longer = [piece for piece in pieces if piece != _SPACE]
        if not any(piece.startswith(_SPACE) for piece in longer) and any(
            piece.endswith(_SPACE) for piece in longer
        ):
            raise UserError(
                "the SentencePiece model marks the ends of words, not the begins: set"
                " --config.masking.strategy=tokens, or train a model without"
                " treat_whitespace_as_suffix"
            )
        return self._starts([piece.startswith(_SPACE) for piece in pieces])

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`; the model is in base64."""
        return {
            "kind": self.kind,
            "settings": {},
            "model": base64.b64encode(self._model).decode("ascii"),
        }

    def _decode_text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def model_file(self) -> tuple[str, bytes]:
        """See `Tokenizer.model_file`."""
        return SENTENCEPIECE_FILE, self._model


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
        name: str = "WordPiece vocabulary",
    ):
        """Builds the tokenizer from its pieces.

        Args:
          vocab: the pieces in the order of their ids.
          lower_case: True lower-cases text, as in BERT uncased.
          strip_accents: True strips accents; None means as `lower_case`.
          split_han: True makes each Chinese character a word.
          name: of the vocabulary in error messages.

        Raises:
          UserError: for an empty or repeated piece, or if a special piece is missing.
        """
        ids: dict[str, int] = {}
        for id, piece in enumerate(vocab):
            if not piece:
                raise UserError(f"{name}: line {id + 1} is empty: every line must hold one piece")
            if piece in ids:
                raise UserError(
                    f"{name}: line {id + 1} repeats {piece!r} of line {ids[piece] + 1}: remove one"
                )
            ids[piece] = id
        missing = [piece for piece in SPECIAL_PIECES_OF_WORDPIECE.values() if piece not in ids]
        if missing:
            raise UserError(f"{name} has no {', '.join(missing)}: add a line for each of them")
        self._vocab = list(vocab)
        self.lower_case = lower_case
        self.strip_accents = lower_case if strip_accents is None else strip_accents
        self.split_han = split_han
        # Special pieces are not registered with the library, or text would match them. Words end at
        # brackets, so no word is looked up as "[MASK]" either.
        self._tokenizer = tokenizers.Tokenizer(
            tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
        )
        self._tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=lower_case,
            strip_accents=self.strip_accents,
            handle_chinese_chars=split_han,
        )
        self._tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        self._tokenizer.decoder = tokenizers.decoders.WordPiece()
        self.vocab_size = len(self._vocab)
        self.special = SpecialIds(
            **{role: ids[p] for role, p in SPECIAL_PIECES_OF_WORDPIECE.items()}
        )
        self.fingerprint = _fingerprint(self.to_dict())

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
        """See `Tokenizer.encode_with_offsets`."""
        check_unicode([text])
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        begins, ends = np.array(encoding.offsets, np.int32).reshape(-1, 2).T
        return Encoded(
            np.array(encoding.ids, np.int32),
            begins.copy(),
            with_accents(text, begins, ends),
        )

    def id_to_piece(self, id: int) -> str:
        """See `Tokenizer.id_to_piece`."""
        self._check_id(id)
        return self._vocab[id]

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`."""
        return self._starts([not piece.startswith("##") for piece in self._vocab])

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`; the model is the list of pieces."""
        settings = {"lower_case": self.lower_case}
        # Only if they differ from BERT's own, since the settings are part of the fingerprint.
        if self.strip_accents != self.lower_case:
            settings["strip_accents"] = self.strip_accents
        if not self.split_han:
            settings["split_han"] = False
        return {"kind": self.kind, "settings": settings, "model": list(self._vocab)}

    def _decode_text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def model_file(self) -> tuple[str, bytes]:
        """See `Tokenizer.model_file`."""
        return VOCAB_FILE, "".join(f"{piece}\n" for piece in self._vocab).encode()


def load_tokenizer(path: str | os.PathLike[str], *, lower_case: bool = True) -> Tokenizer:
    """Reads a tokenizer from disk.

    Args:
      path: a directory that `Tokenizer.save` made, a SentencePiece *.model file, or a WordPiece
        vocabulary (*.txt, one piece a line).
      lower_case: True if a *.txt file is an uncased vocabulary; a directory stores it.

    Raises:
      UserError: if there is no tokenizer, or it is damaged.
    """
    path = given_path(path)
    if path.is_dir():
        return _load_directory(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(_read_file(path), str(path))
    if path.suffix == ".txt":
        return WordPieceTokenizer(read_vocab(path), lower_case=lower_case, name=str(path))
    raise UserError(
        f"{str(path)!r} is not a tokenizer: give the directory of a saved tokenizer, a *.model file"
        " or a vocab.txt"
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
            and other.keys() <= {"strip_accents", "split_han"}
            and all(isinstance(value, bool) for value in other.values())
        ):
            return WordPieceTokenizer(vocab, **settings)
    raise UserError(
        "the stored tokenizer is damaged or was written by another version of bert_jax: use another"
        " copy, or that version"
    )


def _load_directory(directory: pathlib.Path) -> Tokenizer:
    if not (directory / SETTINGS_FILE).is_file():
        raise UserError(
            f"{str(directory)!r} has no saved tokenizer (no {SETTINGS_FILE}): give the directory of"
            " a saved tokenizer, a *.model file or a vocab.txt"
        )
    try:
        values = json.loads(_read_file(directory / SETTINGS_FILE))
    except ValueError:
        values = None
    match values:
        case {"kind": "sentencepiece", "settings": dict(), "fingerprint": str()}:
            model = base64.b64encode(_read_file(directory / SENTENCEPIECE_FILE)).decode("ascii")
        case {"kind": "wordpiece", "settings": dict(), "fingerprint": str()}:
            model = read_vocab(directory / VOCAB_FILE)
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


def read_vocab(path: pathlib.Path) -> list[str]:
    """Reads the pieces of a vocab.txt.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        text = _read_file(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{str(path)!r} is not UTF-8 at byte {error.start}: save it as UTF-8"
        ) from None
    # Only a line feed ends a line; pieces may have other characters that str.splitlines splits at.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _read_file(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r} of the tokenizer: {error.strerror}") from None


def _fingerprint(values: dict[str, Any]) -> str:
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
