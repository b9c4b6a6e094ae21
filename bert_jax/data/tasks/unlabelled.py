"""Reads inputs without labels, for which a teacher's answers are all that a student learns."""

from typing import NamedTuple

import numpy as np

from bert_jax.config import TaskDataConfig
from bert_jax.data.tasks.bad_rows import BadRows
from bert_jax.data.tasks.classes import check_filled, encode_inputs, notes_of
from bert_jax.data.tasks.question_files import read_questions
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.data.tasks.spans import encode_questions
from bert_jax.data.tasks.tables import read_rows, text_value
from bert_jax.data.tasks.tagged_files import read_tagged
from bert_jax.data.tasks.tags import encode_words
from bert_jax.text.tokenizer import Tokenizer


class Unlabelled(NamedTuple):
    """Inputs without labels, and what was left out or cut; '' for nothing."""

    inputs: TaskInputs
    notes: str


def read_texts(
    source: str, config: TaskDataConfig, tokenizer: Tokenizer, dtype: type = np.int32
) -> Unlabelled:
    """Reads the texts of a table, as `classes.read_examples` does; no label is read.

    Args:
      source: a file or dataset.
      config: names the columns.
      tokenizer: of the checkpoint.
      dtype: of the labels of the task.

    Raises:
      UserError: as `read_examples`, and as `check_filled`.
    """
    bad = BadRows(source, skip=config.skip_bad_rows)
    texts, pairs, places, pair = [], [], [], config.text_pair_column
    for location, row in read_rows(source, header=config.header, bad=bad):
        with bad.caught():
            text = text_value(row, config.text_column, location, "text_column")
            other = text_value(row, pair, location, "text_pair_column") if pair else ""
            texts.append(text)
            pairs.append(other)
            places.append(location)
    bad.close(len(texts), "texts")
    a, b, cut = encode_inputs(texts, pairs, tokenizer, config.length)
    for place, first, second in zip(places, a, b, strict=True):
        check_filled([first, second] if pair else [first], place)
    inputs = TaskInputs(a, b, np.zeros(len(a), dtype), np.arange(len(a)), tokenizer.special)
    return Unlabelled(inputs, notes_of(bad.note, cut, config.length))


def read_words(source: str, config: TaskDataConfig, tokenizer: Tokenizer) -> Unlabelled:
    """Reads the words of sentences, as `tagged_files.read_tagged` does; no tag is read.

    Raises:
      UserError: as `read_tagged`.
    """
    bad = BadRows(source, skip=config.skip_bad_rows)
    sentences = read_tagged(
        source, word_column=config.word_column, tag_column="", header=config.header, bad=bad
    )
    bad.close(len(sentences), "sentences")
    words = encode_words(
        [each.words for each in sentences], tokenizer, config.length, config.stride
    )
    places = words.labels(np.zeros(words.words.sum(), np.int64))  # the first tokens of words
    inputs = TaskInputs(words.a, words.b, places, words.example_of, tokenizer.special)
    return Unlabelled(inputs, bad.note)


def read_question_texts(source: str, config: TaskDataConfig, tokenizer: Tokenizer) -> Unlabelled:
    """Reads questions and their contexts; answers, where there are some, are not looked at.

    Raises:
      UserError: as `read_questions` and `encode_questions`.
    """
    read = read_questions(source, skip_bad_rows=config.skip_bad_rows)
    pairs = [(each.question, each.context) for each in read.questions]
    locations = [each.location for each in read.questions]
    encoded = encode_questions(pairs, tokenizer, config, locations)
    labels = np.zeros((len(encoded.a), 2), np.int32)
    inputs = TaskInputs(encoded.a, encoded.b, labels, encoded.example_of, tokenizer.special)
    return Unlabelled(inputs, read.note)
