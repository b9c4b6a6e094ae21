"""Text to token ids and back: SentencePiece and WordPiece behind one small interface.

`prepare` trains or loads a tokenizer and encodes the corpus with it; a checkpoint carries it as a
dictionary; fine-tuning and prediction build it again from there.

Text can never become a special token: the characters "[MASK]" in a document are encoded as the
ordinary text that they are. Only callers that hold ids add special tokens.
"""

import abc
import base64
import contextlib
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
from bert_jax.text.offsets import piece_spans, with_accents

SETTINGS_FILE = "tokenizer_settings.json"
SENTENCEPIECE_FILE = "sentencepiece.model"
VOCAB_FILE = "vocab.txt"

# The names that each special piece may have in a SentencePiece model, the preferred one first.
# Its unknown piece needs no name: every model has exactly one, and knows it.
_PIECE_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
_SPACE = "▁"  # what SentencePiece writes for a space, so before a word
SPECIAL_PIECES_OF_WORDPIECE = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}


@dataclasses.dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids of the tokens that have a meaning of their own."""

    pad: int
    unk: int  # the one that text can produce
    cls: int
    sep: int
    mask: int


class Encoded(NamedTuple):
    """Tokens with their place in the text: token i was made from `text[begins[i]:ends[i]]`."""

    ids: np.ndarray  # [n] int32
    begins: np.ndarray  # [n] int32, characters, never decreasing
    ends: np.ndarray  # [n] int32, characters, above begins


class Tokenizer(abc.ABC):
    """What both kinds can do. Build one with `load_tokenizer` or `tokenizer_from_dict`."""

    kind: str  # "sentencepiece" or "wordpiece"
    vocab_size: int
    special: SpecialIds
    fingerprint: str  # hexadecimal digest of everything that decides the ids

    @abc.abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Encodes one text, without adding special tokens.

        Returns:
          [n] int32; n is 0 for a text without visible characters. Of the special ids only
          `unk` can occur.

        Raises:
          UserError: if the text holds half a surrogate pair, which no UTF-8 text can.
        """

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encodes many texts as `encode` does, faster, on one thread; to be read only."""

    @abc.abstractmethod
    def encode_with_offsets(self, text: str) -> Encoded:
        """Encodes one text and says where each token comes from.

        The ids are those of `encode`. A span has no white space at its ends and is never empty. A
        token made from part of a character takes the whole character, so spans may overlap. A
        token made from white space alone takes the character that follows it, or, at the end, the
        one before; where the model sees nothing but white space, every token takes all the text.
        """

    @abc.abstractmethod
    def id_to_piece(self, id: int) -> str:
        """Returns the piece as the vocabulary has it, e.g. "##ing" or "▁the"."""

    @abc.abstractmethod
    def word_starts(self) -> np.ndarray:
        """Says which pieces begin a word, and which go on with one; special pieces begin one.

        In text without spaces, SentencePiece's words reach from one space to the next.

        Returns:
          [V] bool.

        Raises:
          UserError: if the pieces mark where words end, not where they begin.
        """

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Returns the whole tokenizer, ready for JSON; `tokenizer_from_dict` is the inverse."""

    @abc.abstractmethod
    def _decode_text(self, ids: list[int]) -> str:
        """Joins ordinary tokens to text."""

    @abc.abstractmethod
    def model_file(self) -> tuple[str, bytes]:
        """Returns the name and the content of the file that holds the vocabulary."""

    def decode(self, ids: Sequence[int]) -> str:
        """Joins tokens to text; special ids are shown as their pieces: "[CLS] a b [SEP]".

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
        """Writes the vocabulary and `tokenizer_settings.json`; `load_tokenizer` is the inverse.

        The settings come last, so a directory that has them is complete.

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
            _write_file(directory / name, content)
            _write_file(directory / SETTINGS_FILE, f"{json.dumps(settings, indent=2)}\n".encode())
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
          name: what error messages call it.

        Raises:
          UserError: if it is no SentencePiece model, lacks a special piece, or holds one that
            text could produce.
        """
        try:
            # An empty model would load, as one without any piece.
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
                    f"{name} has {piece} as a piece that text can produce: train it with {piece} in"
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
        except (TypeError, RuntimeError):  # which do not say what is wrong with which text
            check_unicode(texts)
            raise

    def encode_with_offsets(self, text: str) -> Encoded:
        """See `Tokenizer.encode_with_offsets`."""
        ids = self.encode(text)
        if not len(ids):
            return Encoded(ids, ids, ids)
        # SentencePiece's own offsets leave parts of a split character empty and count the white
        # space before a word, so spans are made from the alignment of its normalised text.
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
                "the SentencePiece model marks where words end, not where they begin: choose"
                " masking.strategy=tokens, or train one without treat_whitespace_as_suffix"
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
          lower_case: whether text is lower-cased, as in BERT uncased.
          strip_accents: whether it loses its accents; None: where it is lower-cased.
          split_han: whether each Chinese character is a word.
          name: what error messages call the vocabulary.

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
        # Special pieces are not registered with the library, or text would match them. As its
        # words end at brackets, no word can be looked up as "[MASK]" either.
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
        # The library's own batch call starts threads, whose number only the environment can set,
        # and is slower on one thread than this loop.
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
        # Only where they differ from BERT's own: the settings are part of the fingerprint.
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
      lower_case: for a *.txt file, whether it is an uncased vocabulary; a directory knows.

    Raises:
      UserError: if there is nothing of the kind, or it is damaged.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _load_directory(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(_read_file(path), str(path))
    if path.suffix == ".txt":
        return WordPieceTokenizer(read_vocab(path), lower_case=lower_case, name=str(path))
    raise UserError(
        f"{str(path)!r} is no tokenizer: give a saved tokenizer's directory, a *.model file or a"
        " vocab.txt"
    )


def tokenizer_from_dict(values: dict[str, Any]) -> Tokenizer:
    """Builds the tokenizer that `Tokenizer.to_dict` described.

    Raises:
      UserError: if the description is not one that this version writes.
    """
    match values:
        case {"kind": "sentencepiece", "settings": {}, "model": str(model)}:
            try:
                return SentencePieceTokenizer(base64.b64decode(model, validate=True))
            except ValueError:
                raise UserError(
                    "the stored SentencePiece model is not base64: it is damaged"
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
    raise UserError("the stored tokenizer is damaged or was written by another version of bert_jax")


def _load_directory(directory: pathlib.Path) -> Tokenizer:
    if not (directory / SETTINGS_FILE).is_file():
        raise UserError(
            f"{str(directory)!r} holds no saved tokenizer (no {SETTINGS_FILE}): give a directory"
            " that has one, a *.model file or a vocab.txt"
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
            f"the vocabulary in {str(directory)!r} is not the one that was saved there: its"
            f" fingerprint differs from the one in {SETTINGS_FILE}"
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
    # Only a line feed ends a line: pieces may hold what str.splitlines would cut at.
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]


def _read_file(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the tokenizer's {str(path)!r}: {error.strerror}") from None


def _write_file(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is either whole or not there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fingerprint(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_unicode(texts: Sequence[str]) -> None:
    """Raises for what Python strings can hold and UTF-8 cannot; JSON escapes can bring it in."""
    with contextlib.suppress(UnicodeEncodeError):
        "".join(texts).encode()  # all at once: halves of two texts make no whole
        return
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"character {error.start} of a text is {text[error.start]!a}, half of a surrogate"
                " pair, which is not valid Unicode: repair the text"
            ) from None
