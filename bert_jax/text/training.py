"""Trains a SentencePiece model, a WordPiece vocabulary or a byte-level BPE on a sample of text."""

import collections
import enum
import importlib.metadata
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import sentencepiece
import tokenizers

from bert_jax.errors import UserError
from bert_jax.text.tokenizer import (
    LibraryTokenizer,
    SentencePieceTokenizer,
    SpecialIds,
    WordPieceTokenizer,
    check_unicode,
)

SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4

# SentencePiece skips sentences longer than 4192 bytes; a character takes at most four bytes.
_MAX_CHARACTERS = 1024
# It also skips sentences with this character, which it uses internally.
_RESERVED = "\u2585"
# The result depends on the number of threads, so it must be the same on every machine.
_THREADS = 16
# Rarer characters become [UNK] in WordPiece, as in SentencePiece; else they would fill it.
_CHARACTER_COVERAGE = 0.9995


class ModelType(enum.Enum):
    """Algorithm that chooses the pieces of a SentencePiece model."""

    UNIGRAM = "unigram"
    BPE = "bpe"


def training_library(kind: str) -> str:
    """Returns the library that trains a kind of tokenizer, and its release.

    Two releases may train different vocabularies on the same text, as sentencepiece 0.2.2 and
    0.2.3 do: losses of models with one are then no comparison with those of the other.

    Args:
      kind: sentencepiece, sentencepiece-bpe, wordpiece or bpe.
    """
    name = "sentencepiece" if kind.startswith("sentencepiece") else "tokenizers"
    return f"{name} {importlib.metadata.version(name)}"


def train_sentencepiece(
    sentences: Iterable[str], *, vocab_size: int, model_type: ModelType
) -> SentencePieceTokenizer:
    """Trains a SentencePiece model; a release of it gives the same model for the same sentences.

    All sentences are kept in memory: pass a sample of a large corpus. Ctrl-C takes effect when the
    training ends.

    Args:
      sentences: texts of any length; long ones are cut, at white space if possible.
      vocab_size: number of pieces, the five special ones included.
      model_type: unigram or BPE.

    Raises:
      UserError: if the text is empty, or too small or too varied for the vocabulary size.
    """
    _check_size(vocab_size)
    failures: list[BaseException] = []
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_trainable(sentences, failures),
            model_writer=model,
            model_type=model_type.value,
            vocab_size=vocab_size,
            pad_id=0,
            pad_piece="[PAD]",
            unk_id=1,
            unk_piece="[UNK]",
            bos_id=-1,
            eos_id=-1,
            control_symbols=list(SPECIAL_PIECES[2:]),
            num_threads=_THREADS,
            minloglevel=2,  # errors only; they are raised as exceptions too
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise UserError(_explain(str(error), vocab_size)) from None
    return SentencePieceTokenizer(model.getvalue())


def _check_size(vocab_size: int) -> None:
    if vocab_size <= len(SPECIAL_PIECES):
        raise UserError(
            f"--tokenizer: a vocabulary of {vocab_size} pieces has no room besides the"
            f" {len(SPECIAL_PIECES)} special ones: choose some thousands"
        )


def _trainable(sentences: Iterable[str], failures: list[BaseException]) -> Iterator[str]:
    """Yields texts that SentencePiece does not skip; appends an exception of the iterator.

    The trainer raises any exception of its input as a RuntimeError, so the original is kept.
    """
    try:
        for sentence in sentences:
            check_unicode([sentence])
            yield from _cut(sentence.replace(_RESERVED, " "))
    except BaseException as error:
        failures.append(error)
        raise


def _cut(sentence: str) -> Iterator[str]:
    begin = 0
    while len(sentence) - begin > _MAX_CHARACTERS:
        space = sentence.rfind(" ", begin + 1, begin + _MAX_CHARACTERS)
        end = space if space > 0 else begin + _MAX_CHARACTERS
        yield sentence[begin:end]
        begin = end
    yield sentence[begin:]


def _explain(message: str, vocab_size: int) -> str:
    """Converts an error of SentencePiece to one line with a remedy."""
    if too_large := re.search(r"set it to a value <= (\d+)", message):
        return _too_large(vocab_size, int(too_large[1]))
    if too_small := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return _too_small(vocab_size, int(too_small[1]))
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return _EMPTY
    return f"SentencePiece could not be trained: {' '.join(message.split())}"


_EMPTY = "the text to train the tokenizer on is empty: choose a --source with text"


def _too_large(vocab_size: int, most: int) -> str:
    return (
        f"a vocabulary of {vocab_size} pieces is more than the training text can fill: choose at"
        f" most {most}, or add text"
    )


def _too_small(vocab_size: int, least: int) -> str:
    return (
        f"a vocabulary of {vocab_size} pieces has no room for the characters of the training text:"
        f" choose at least {least}"
    )


class MergedWords(NamedTuple):
    """Words that become equal where accents are stripped, with the vowel signs of many scripts."""

    distinct: int  # lower-cased words
    merged: int  # of these, all but one of those that become equal
    example: tuple[str, str]  # two that become equal, the most frequent ones; '' if there are none

    @property
    def share(self) -> float:
        """The share of the distinct words that is lost."""
        return self.merged / max(self.distinct, 1)


def words_merged_by_stripping(texts: Iterable[str]) -> MergedWords:
    """Measures how many words of a text lower-casing keeps apart and stripping accents does not."""
    keeping, stripping = _normalizer(True, False), _normalizer(True, True)
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(keeping.normalize_str(text).split())
    example, first = ("", ""), {}
    for word, _ in counts.most_common():
        stripped = word if word.isascii() else stripping.normalize_str(word)
        other = first.setdefault(stripped, word)
        example = (other, word) if other != word and not example[0] else example
    return MergedWords(len(counts), len(counts) - len(first), example)


def _normalizer(lower_case: bool, strip_accents: bool) -> tokenizers.normalizers.BertNormalizer:
    return tokenizers.normalizers.BertNormalizer(lowercase=lower_case, strip_accents=strip_accents)


def train_wordpiece(
    sentences: Iterable[str],
    *,
    vocab_size: int,
    lower_case: bool,
    strip_accents: bool | None = None,
) -> WordPieceTokenizer:
    """Trains a WordPiece vocabulary; the same sentences give the same one, piece for piece.

    All sentences are kept in memory: pass a sample of a large corpus.

    Args:
      sentences: texts of any length.
      vocab_size: number of pieces, the five special ones included, which come first.
      lower_case: True lower-cases text, as in BERT uncased.
      strip_accents: True strips accents; None: as `lower_case`.

    Raises:
      UserError: if the text is empty, or too small or too varied for the vocabulary size.
    """
    _check_size(vocab_size)
    texts = list(sentences)
    check_unicode(texts)
    normalizer = _normalizer(lower_case, lower_case if strip_accents is None else strip_accents)
    alphabet = _alphabet(texts, normalizer)
    if not alphabet:
        raise UserError(_EMPTY)
    # The library gives ids to pieces of one character in an order that differs from run to run, and
    # ids decide between pairs of equal counts. So a first training finds these pieces, and the
    # second gets them, sorted, as if they were special.
    characters = _train(texts, SPECIAL_PIECES, 0, alphabet, normalizer)[len(SPECIAL_PIECES) :]
    given = [*SPECIAL_PIECES, *sorted(characters)]
    if len(given) > vocab_size:
        raise UserError(_too_small(vocab_size, len(given)))
    pieces = _train(texts, given, vocab_size, alphabet, normalizer)
    if len(pieces) < vocab_size:
        raise UserError(_too_large(vocab_size, len(pieces)))
    return WordPieceTokenizer(pieces, lower_case=lower_case, strip_accents=strip_accents)


def train_byte_level(sentences: Iterable[str], *, vocab_size: int) -> LibraryTokenizer:
    """Trains a byte-level BPE (Radford et al., 2019); the same sentences give the same one.

    All 256 bytes are pieces, so that no text has an unknown one. All sentences are kept in memory:
    pass a sample of a large corpus.

    Args:
      sentences: texts of any length.
      vocab_size: number of pieces, the bytes and the five special ones, which come first, included.

    Raises:
      UserError: if the text is empty, or too small for the vocabulary size, or that has no room for
        all bytes.
    """
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < (least := len(letters) + len(SPECIAL_PIECES)):
        raise UserError(
            f"--tokenizer: a vocabulary of {vocab_size} pieces has no room for the 256 bytes and"
            f" {len(SPECIAL_PIECES)} special pieces: choose at least {least}"
        )
    texts = list(sentences)
    check_unicode(texts)
    if not any(text.strip() for text in texts):
        raise UserError(_EMPTY)
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        # The space before a mask is part of what it hides.
        special_tokens=[
            tokenizers.AddedToken(piece, lstrip=piece == "[MASK]", special=True)
            for piece in SPECIAL_PIECES
        ],
        initial_alphabet=sorted(letters),
        show_progress=False,
    )
    # As they stand in a text: most sentences have a space before them.
    made.train_from_iterator((f" {text}" for text in texts), trainer)
    found = made.get_vocab_size()
    if found < vocab_size:
        raise UserError(_too_large(vocab_size, found))
    pad, unk, cls, sep, mask = range(len(SPECIAL_PIECES))
    special = SpecialIds(pad=pad, unk=unk, cls=cls, sep=sep, mask=mask)
    return LibraryTokenizer(json.loads(made.to_str()), special, "byte-level BPE")


def _alphabet(texts: Iterable[str], normalizer: tokenizers.normalizers.BertNormalizer) -> list[str]:
    """Returns the characters that cover nearly all of the text, the most frequent first."""
    counts = collections.Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    for character in [c for c in counts if c.isspace()]:
        del counts[character]
    alphabet, left = [], counts.total() * _CHARACTER_COVERAGE
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if left <= 0:
            break
        alphabet.append(character)
        left -= count
    return alphabet


def _train(
    texts: Sequence[str],
    first_pieces: Sequence[str],
    vocab_size: int,
    alphabet: Sequence[str],
    normalizer: tokenizers.normalizers.BertNormalizer,
) -> list[str]:
    """Returns the pieces in the order of their ids: `first_pieces`, then those found."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=list(first_pieces),
        initial_alphabet=list(alphabet),
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocab = tokenizer.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)
