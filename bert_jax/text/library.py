"""Tokenizers of the `tokenizers` library, as a tokenizer.json describes them.

Two kinds are understood: byte-level BPE (GPT-2, RoBERTa, ModernBERT, EuroBERT) and Unigram with
"▁" before words (XLM-R, CamemBERT).
"""

import codecs
import copy
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from bert_jax.errors import UserError
from bert_jax.text.interface import Encoded, SpecialIds, Tokenizer, check_unicode, fingerprint
from bert_jax.text.offsets import without_space

LIBRARY_FILE = "tokenizer.json"
_SPACE = "▁"
# Before special pieces, so that no text has them: a character that is none.
_HIDDEN = "\U0010ffff"
_NORMALIZERS = frozenset(
    "Sequence NFC NFD NFKC NFKD Nmt Lowercase StripAccents Strip Replace Precompiled Prepend"
    " BertNormalizer".split()
)
_PRE_TOKENIZERS = frozenset(
    "Sequence ByteLevel Metaspace Split Digits Punctuation Whitespace WhitespaceSplit".split()
)
_MODELS = ("BPE", "Unigram")


class LibraryTokenizer(Tokenizer):
    """A byte-level BPE or a Unigram model of the `tokenizers` library."""

    kind = "library"

    def __init__(
        self, values: Mapping[str, Any], special: SpecialIds, name: str = "tokenizer.json"
    ):
        """Builds the tokenizer.

        Args:
          values: the fields of a tokenizer.json: `model`, `normalizer`, `pre_tokenizer`, `decoder`
            and `added_tokens`; others are not read.
          special: the special pieces, which are in the model or added to it.
          name: of the file in error messages.

        Raises:
          UserError: for what is not understood, or does not fit together.
        """
        self._values: dict[str, Any] = {
            part: copy.deepcopy(values.get(part))
            for part in ("model", "normalizer", "pre_tokenizer", "decoder")
        }
        self._values["added_tokens"] = copy.deepcopy(values.get("added_tokens") or [])
        check_parts(self._values, name)
        self.special = special
        self.is_byte_level = "ByteLevel" in _types(self._values["pre_tokenizer"])
        self._tokenizer = library_from_values(self._hidden(), name)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocab.values())
        self._pieces = {id: piece.removeprefix(_HIDDEN) for piece, id in vocab.items()}
        self._added = frozenset(token["id"] for token in self._values["added_tokens"])
        self._check(vocab, name)
        self.fingerprint = fingerprint(self.to_dict())

    def _hidden(self) -> dict[str, Any]:
        """Returns the fields with names for the special pieces that no text has."""
        values, ids = copy.deepcopy(self._values), set(self.special.ids)
        vocab = values["model"]["vocab"]
        if isinstance(vocab, dict):
            renamed = {_HIDDEN + p if id in ids else p: id for p, id in vocab.items()}
            values["model"]["vocab"] = renamed
        else:
            values["model"]["vocab"] = [
                [_HIDDEN + entry[0] if id in ids else entry[0], entry[1]]
                for id, entry in enumerate(vocab)
            ]
        unknown = values["model"].get("unk_token")
        if isinstance(vocab, dict) and unknown and vocab.get(unknown) in ids:
            values["model"]["unk_token"] = _HIDDEN + unknown
        for token in values["added_tokens"]:
            if token["id"] in ids:
                token |= {"content": _HIDDEN + token["content"], "normalized": False}
        return values

    def _check(self, vocab: Mapping[str, int], name: str) -> None:
        unknown = self._values["model"].get("unk_token")
        absent = sorted(set(_LETTERS) - vocab.keys())
        if self.is_byte_level and absent and unknown is None:
            raise UserError(
                f"{name} lacks {len(absent)} of the 256 bytes, such as {absent[0]!r}, and has no"
                " unknown piece: texts would lose characters; train it with all bytes"
            )
        for role, id in self.special.roles.items():
            if id not in self._pieces:
                raise UserError(f"{name}: the {role} piece has the id {id}, which is not there")
        for token in self._values["added_tokens"]:
            content, id = token["content"], token["id"]
            found = vocab.get(content, vocab.get(_HIDDEN + content))
            if found != id:
                raise UserError(
                    f"{name}: the added token {content!r} has the id {id}, and by this vocabulary"
                    f" it is {found}: copy all files of the tokenizer again"
                )

    def encode(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode`."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_batch`."""
        check_unicode(texts)
        encode = self._tokenizer.encode  # as in `wordpiece.py`, on one thread
        return [
            np.array(encode(_shown(text), add_special_tokens=False).ids, np.int32) for text in texts
        ]

    def encode_continuation(self, text: str) -> np.ndarray:
        """See `Tokenizer.encode_continuation`."""
        check_unicode([text])
        end = next((i for i, c in enumerate(text) if c.isspace()), len(text))
        encoding = self._without_prefix.encode(_shown(text[:end]), add_special_tokens=False)
        first = np.array(encoding.ids, np.int32)
        return np.concatenate([first, self.encode(text[end:])])

    @functools.cached_property
    def _without_prefix(self) -> tokenizers.Tokenizer:
        """The same without a space before texts."""
        values = self._hidden()
        for step in _steps(values["pre_tokenizer"]):
            if step["type"] == "ByteLevel":
                step["add_prefix_space"] = False
            if step["type"] == "Metaspace":
                step.pop("add_prefix_space", None)
                step["prepend_scheme"] = "never"
        return library_from_values(values, LIBRARY_FILE)

    def encode_words(self, words: Sequence[str]) -> list[np.ndarray]:
        """See `Tokenizer.encode_words`; a byte-level piece has the space before its word."""
        return self.encode_batch([f" {word}" if self.is_byte_level else word for word in words])

    def running_text(self, sentences: Sequence[str]) -> list[str]:
        """See `Tokenizer.running_text`; a byte-level piece has the space before its word."""
        if not self.is_byte_level:
            return list(sentences)
        return [*sentences[:1], *(f" {sentence}" for sentence in sentences[1:])]

    def encode_with_offsets(self, text: str) -> Encoded:
        """See `Tokenizer.encode_with_offsets`."""
        check_unicode([text])
        encoding = self._tokenizer.encode(_shown(text), add_special_tokens=False)
        begins, ends = np.array(encoding.offsets, np.int32).reshape(-1, 2).T
        begins, ends = without_space(text, begins, ends)
        return Encoded(np.array(encoding.ids, np.int32), begins, ends)

    def id_to_piece(self, id: int) -> str:
        """See `Tokenizer.id_to_piece`; "" for an id that no text becomes."""
        self._check_id(id)
        return self._pieces.get(int(id), "")

    def word_starts(self) -> np.ndarray:
        """See `Tokenizer.word_starts`.

        A byte-level piece begins a word if white space is its first character, and an added token
        does.
        """
        starts = [False] * self.vocab_size
        for id, piece in self._pieces.items():
            begins = _text_of(piece)[:1].isspace() if self.is_byte_level else piece[:1] == _SPACE
            starts[id] = begins or id in self._added
        return self._starts(starts)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Tokenizer.decode`; byte-level pieces join to the text that they were made from."""
        if not self.is_byte_level:
            return super().decode(ids)
        for id in ids:
            self._check_id(int(id))
        special, parts, run = frozenset(self.special.ids), [], []
        for id in [*map(int, ids), self.special.cls]:
            if id in special:
                parts += [self._decode_text(run), self._pieces[id]]
                run = []
            else:
                run.append(id)
        return "".join(parts[:-1])

    def _decode_text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def to_dict(self) -> dict[str, Any]:
        """See `Tokenizer.to_dict`; the model has the fields of the tokenizer.json."""
        return {
            "kind": self.kind,
            "settings": dataclasses.asdict(self.special),
            "model": self._values,
        }

    def model_file(self) -> tuple[str, bytes]:
        """See `Tokenizer.model_file`."""
        return LIBRARY_FILE, json.dumps(self._values, ensure_ascii=False, indent=1).encode()

    def library_values(self) -> dict[str, Any]:
        """Returns the fields of a tokenizer.json, without a template; a copy."""
        return copy.deepcopy(self._values)


def _shown(text: str) -> str:
    """Returns a text without the character that hides special pieces; it is as long."""
    return text.replace(_HIDDEN, "\ufffd") if _HIDDEN in text else text


def added_token(
    id: int, content: str, *, lstrip: bool = False, special: bool = False
) -> dict[str, Any]:
    """Returns an entry of `added_tokens` in a tokenizer.json, found in texts as it is."""
    flags = dict.fromkeys(("single_word", "rstrip", "normalized"), False)
    return {"id": id, "content": content, "lstrip": lstrip, "special": special, **flags}


def next_ids(values: Mapping[str, Any], tokens: Sequence[str]) -> list[int]:
    """Returns the ids that the library gives to new tokens.

    Args:
      values: the fields of a tokenizer.json.
      tokens: which it does not have.
    """
    made = library_from_values(values, "tokenizer.json")
    made.add_tokens(list(tokens))
    vocab = made.get_vocab()
    return [vocab[token] for token in tokens]


def library_from_values(values: Mapping[str, Any], name: str) -> tokenizers.Tokenizer:
    """Returns the tokenizer of the library for some fields of a tokenizer.json.

    Args:
      values: the fields; those that are not there are null.
      name: of the file, for errors.

    Raises:
      UserError: if the library refuses them.
    """
    whole = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(whole | dict(values)))
    except BaseException as error:  # the library raises Exception itself, and panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name} is not read by the library tokenizers ({reason}): copy or download it again"
        ) from None


def check_parts(values: Mapping[str, Any], name: str) -> None:
    """Checks that a tokenizer.json is a byte-level BPE or a Unigram with a mark before words.

    Raises:
      UserError: for the first part that is not understood.
    """
    model = values.get("model")
    model = model if isinstance(model, dict) else {}
    kind = model.get("type")
    if kind not in _MODELS or not isinstance(model.get("vocab"), dict | list):
        raise UserError(
            f"{name}: model.type={kind} is not implemented: only {' and '.join(_MODELS)} are"
        )
    for part, known in (("normalizer", _NORMALIZERS), ("pre_tokenizer", _PRE_TOKENIZERS)):
        for found in _types(values.get(part)):
            if found not in known:
                raise UserError(f"{name}: {part}.type={found} is not implemented")
    marks = {"BPE": "ByteLevel", "Unigram": "Metaspace"}
    if marks[kind] not in _types(values.get("pre_tokenizer")):
        raise UserError(
            f"{name}: a {kind} model without the pre_tokenizer {marks[kind]} is not implemented:"
            " nothing tells where words begin"
        )
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            raise UserError(f"{name}: model.{field}={model[field]} is not implemented")


def _types(part: Mapping[str, Any] | None) -> list[str]:
    """Returns the types of the steps of a part, those inside of a sequence too."""
    return [str(step.get("type")) for step in _steps(part)]


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for inside in part.get("normalizers") or part.get("pretokenizers") or []:
            yield from _steps(inside)


def _byte_letters() -> dict[str, int]:
    """Returns the letter of each byte in a byte-level vocabulary (Radford et al., 2019)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    letters = {chr(byte): byte for byte in plain}
    return letters | {chr(256 + n): byte for n, byte in enumerate(others)}


_LETTERS = _byte_letters()


def _text_of(piece: str) -> str:
    """Returns the text that a byte-level piece begins with, as far as it is whole characters."""
    content = bytes(_LETTERS[letter] for letter in piece if letter in _LETTERS)
    return codecs.getincrementaldecoder("utf-8")("replace").decode(content)
