"""Tagging: a class for each word of a sentence, predicted at the word's first token."""

import dataclasses
import functools
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from bert_jax.config import TaskDataConfig
from bert_jax.data.packing.layout import SINGLE_SPECIALS
from bert_jax.data.packing.ragged import exclusive_cumsum, ranges
from bert_jax.data.packing.windows import most_context, window_bounds
from bert_jax.data.tasks import metrics
from bert_jax.data.tasks.rows import NO_LABEL, TaskInputs, input_sizes
from bert_jax.data.tasks.splits import Outputs, Split
from bert_jax.data.tasks.tag_schemes import Tagging, entities
from bert_jax.data.tasks.tagged_files import TaggedSentence
from bert_jax.text.tokenizer import SpecialIds, Tokenizer
from bert_jax.text.wordpiece import is_removed

# Invisible marks that choose the form of the character before: zero-width ones in Persian and in
# Indic scripts, and variation selectors, as in emoji.
_JOINERS = re.compile("[\u200c\u200d\u034f\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# Matches kinds of characters (`_kind`): a run of word characters, or one other, with their marks.
# Characters that the tokenizer removes ("i") and joiners ("j") begin no word; the former end none.
_RUN = re.compile("w(?:[wmji]*[wmj])?|[.m](?:[mji]*[mj])?")


def split_words(text: str) -> list[tuple[str, int, int]]:
    """Splits raw text into words, for a model that was trained on words.

    A word is a run of letters, digits and underscores, or any other single character that is not
    white space: "don't" is three words. Combining marks and joiners belong to the character before.
    The words are those of the text without the characters that BERT removes, such as a byte order
    mark or a soft hyphen, wherever these stand.

    Returns:
      (word, begin, end) of each, in characters: `text[begin:end]` is the word, and what was removed
      inside it.
    """
    kinds = "".join(map(_kind, text))
    return [
        ("".join(c for c in text[slice(*run.span())] if _kind(c) != "i"), *run.span())
        for run in _RUN.finditer(kinds)
    ]


@functools.cache
def _kind(character: str) -> str:
    if _JOINERS.match(character):
        return "j"
    if is_removed(character):
        return "i"
    if character.isspace():
        return " "
    if unicodedata.category(character).startswith("M"):
        return "m"
    return "w" if character.isalnum() or character == "_" else "."


@dataclasses.dataclass(frozen=True)
class WordInputs:
    """S sentences of W words in all as I inputs of the encoder, and the token of each word.

    A word is classified at its first token, in the window that gives it the most context.

    Attributes:
      a: I int32 arrays, the token ids of each window.
      example_of: [I] int64, the sentence of each input.
      words: [S] int64, number of words in each sentence.
      input_of: [W] int64, the input in which each word is classified.
      token_of: [W] int64, its token there; [CLS] is token 0.
      special: tokens around a window.
    """

    a: list[np.ndarray]
    example_of: np.ndarray
    words: np.ndarray
    input_of: np.ndarray
    token_of: np.ndarray
    special: SpecialIds

    @property
    def b(self) -> list[np.ndarray]:
        """The empty B of each input: I int32 arrays."""
        return [np.zeros(0, np.int32)] * len(self.a)

    def classes(self, outputs: Outputs) -> list[np.ndarray]:
        """Returns the most probable class of every word.

        Args:
          outputs: for each input [size, C] float32, logits of its tokens, special ones included.

        Returns:
          For each sentence [words] int64 in [0, C).

        Raises:
          ValueError: if the outputs do not fit the inputs.
        """
        return _cut(self._logits(outputs).argmax(axis=1), self.words)

    def probabilities(self, outputs: Outputs) -> list[np.ndarray]:
        """Returns the probability of every class for every word.

        Args:
          outputs: as for `classes`.

        Returns:
          For each sentence [words, C] float32; each row adds up to 1.

        Raises:
          ValueError: if the outputs do not fit the inputs.
        """
        return _cut(
            softmax(self._logits(outputs).astype(np.float64), axis=-1).astype(np.float32),
            self.words,
        )

    def labels(self, classes: np.ndarray) -> list[np.ndarray]:
        """Returns the labels of the inputs, given the classes of the words.

        Args:
          classes: [W] int.

        Returns:
          For each input [size] int32, the class at the token of each word, NO_LABEL elsewhere.
        """
        sizes = input_sizes(self.a, self.b, self.special)
        flat = np.full(sizes.sum(), NO_LABEL, np.int32)
        flat[self._tokens(sizes)] = classes
        return _cut(flat, sizes)

    def _logits(self, outputs: Outputs) -> np.ndarray:
        """Returns the logits of all words: [W, C]."""
        sizes = input_sizes(self.a, self.b, self.special)
        if [len(output) for output in outputs] != sizes.tolist():
            raise ValueError("the outputs are not [size, C] of each input")
        if not len(sizes):  # there are no words, so any C will do
            return np.zeros((0, 1), np.float32)
        return np.concatenate(outputs)[self._tokens(sizes)]

    def _tokens(self, sizes: np.ndarray) -> np.ndarray:
        """Returns the words' tokens, counted through all inputs end to end: [W] int64."""
        return exclusive_cumsum(sizes)[self.input_of] + self.token_of


def _cut(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum(lengths).tolist()
    return [values[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def encode_words(
    sentences: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int, stride: int
) -> WordInputs:
    """Tokenises sentences word by word, and covers those longer than a row with windows.

    Every word is tokenised by itself; a word without tokens becomes [UNK]. A window in which no
    word is classified is left out, and so is a sentence without words.

    Args:
      sentences: the words of each sentence.
      tokenizer: of the checkpoint.
      length: T, special tokens included, at least 3.
      stride: tokens from the begin of one window to the next, at least 1; limited to a window.

    Raises:
      UserError: if a word has half of a surrogate pair.
    """
    tokens, lengths = _encode_each([word for words in sentences for word in words], tokenizer)
    words = np.array([len(each) for each in sentences], np.int64)
    begins = np.append(exclusive_cumsum(lengths), len(tokens))  # of words, in all tokens
    most = length - SINGLE_SPECIALS
    a, example_of, input_of, token_of = [], [], [], []
    for sentence, (first, end) in enumerate(itertools.pairwise([0, *np.cumsum(words).tolist()])):
        begin = begins[first]
        bounds = window_bounds(int(begins[end] - begin), most, min(stride, most))
        at = begins[first:end] - begin
        used, which = np.unique(most_context(bounds)[at], return_inverse=True)
        input_of.append(len(a) + which)
        token_of.append(at - bounds[used, 0][which] + 1)  # after [CLS]
        a += [tokens[begin + left : begin + right] for left, right in bounds[used]]
        example_of += [sentence] * len(used)
    none = np.zeros(0, np.int64)
    return WordInputs(
        a,
        np.array(example_of, np.int64),
        words,
        np.concatenate([none, *input_of]),
        np.concatenate([none, *token_of]),
        tokenizer.special,
    )


def _encode_each(words: list[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of all words end to end, int32, and the length of each, [W] int64."""
    numbers: dict[str, int] = {}  # repeated words are encoded once
    which = np.array([numbers.setdefault(word, len(numbers)) for word in words], np.int64)
    unknown = np.array([tokenizer.special.unk], np.int32)
    encoded = [ids if len(ids) else unknown for ids in tokenizer.encode_words(list(numbers))]
    lengths = np.array([len(ids) for ids in encoded], np.int64)
    flat = np.concatenate([np.zeros(0, np.int32), *encoded])
    return flat[ranges(exclusive_cumsum(lengths)[which], lengths[which])], lengths[which]


class TagSplit(Split):
    """A split of sentences with a tag for each word; every word is scored once.

    Attributes:
      inputs: of the encoder; labels are at the first tokens of words.
      sentences: with their words and tags.
      words: the sentences as inputs, and the token of each word.
      labels: names of the classes.
    """

    def __init__(
        self,
        sentences: Sequence[TaggedSentence],
        labels: Sequence[str],
        tagging: Tagging,
        tokenizer: Tokenizer,
        config: TaskDataConfig,
        note: str = "",
    ) -> None:
        """Tokenises the sentences.

        Args:
          sentences: each tag is one of the labels.
          labels: names of the C classes.
          tagging: of the labels.
          tokenizer: of the checkpoint.
          config: sets `length` and `stride`.
          note: about the tags, for the user's log.
        """
        numbers = {label: number for number, label in enumerate(labels)}
        self.sentences = list(sentences)
        self._gold = np.array([numbers[tag] for each in sentences for tag in each.tags], np.int64)
        self._tagging, self.labels = tagging, list(labels)
        self.words = encode_words(
            [sentence.words for sentence in sentences], tokenizer, config.length, config.stride
        )
        self.inputs = TaskInputs(
            self.words.a,
            self.words.b,
            self.words.labels(self._gold),
            self.words.example_of,
            tokenizer.special,
        )
        self.examples = len(sentences)
        longer = int(np.count_nonzero(np.bincount(self.words.example_of) > 1))
        windows = f"{longer} in several windows" if longer else ""
        self.notes = "; ".join(each for each in (windows, note) if each)

    def scores(self, outputs: Outputs) -> dict[str, float]:
        """Scores entities, or plain tags.

        Args:
          outputs: for each input [size, C] float32, logits.

        Returns:
          The scores of `metrics.entity_scores`: `precision`, `recall`, `f1` and `accuracy` in
          [0, 1]; for plain tags `accuracy` alone.

        Raises:
          ValueError: if the outputs do not fit the inputs.
        """
        gold, predicted = self._scored(outputs)
        if not self._tagging.marks_entities:
            return {"accuracy": metrics.tag_accuracy(gold, predicted)}
        return metrics.entity_scores(gold, predicted, self._tagging)

    def undefined(self, outputs: Outputs) -> dict[str, str]:
        """See `Split.undefined`."""
        if not self._tagging.marks_entities:
            return {}
        return metrics.undefined_of_entities(*self._scored(outputs), self._tagging)

    def _scored(self, outputs: Outputs) -> tuple[list[list[str]], list[list[str]]]:
        gold = [sentence.tags for sentence in self.sentences]
        return gold, [self._named(each) for each in self.words.classes(outputs)]

    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """Yields the tags of each sentence.

        Args:
          outputs: as for `scores`.

        Yields:
          `words`, `gold` and `tags`, one for each word; where the labels mark entities also
          `entities`, the predicted ones: `type`, `begin` and `end` (words from 0, end exclusive)
          and `text`, the words joined by spaces.

        Raises:
          ValueError: if the outputs do not fit the inputs.
        """
        classes = self.words.classes(outputs)
        for sentence, numbers in zip(self.sentences, classes, strict=True):
            tags = self._named(numbers)
            found = {"words": sentence.words, "gold": sentence.tags, "tags": tags}
            if self._tagging.marks_entities:
                found |= {"entities": entities_of_words(sentence.words, tags, self._tagging)}
            yield found

    def classes(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        """See `Split.classes`; the items are words."""
        return self._gold, np.concatenate(self.words.probabilities(outputs))

    def constant_outputs(self) -> list[np.ndarray]:
        """Returns 1 for the most common tag (the first of equals), 0 for others: [size, C] each."""
        sizes = self.inputs.sizes
        outputs = np.zeros((sizes.max(), len(self.labels)), np.float32)
        outputs[:, np.bincount(self._gold).argmax()] = 1
        return [outputs[:size] for size in sizes]

    def _named(self, classes: np.ndarray) -> list[str]:
        return [self.labels[number] for number in classes.tolist()]


def entities_of_words(words: list[str], tags: list[str], tagging: Tagging) -> list[dict[str, Any]]:
    """Returns `type`, `begin` and `end` (words) and `text`, the words joined by spaces, of each."""
    return [
        {"type": kind, "begin": begin, "end": end, "text": " ".join(words[begin:end])}
        for kind, begin, end in entities(tags, tagging)
    ]
