"""Tasks over whole inputs: a class or a number for a text or a pair of texts."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from bert_jax.config import TaskDataConfig
from bert_jax.data.packing.layout import SINGLE_SPECIALS, truncated_lengths
from bert_jax.data.tasks.bad_rows import BadRow, BadRows
from bert_jax.data.tasks.labels import (
    check_distinct,
    choices,
    clean_label,
    unlabelled,
    unlabelled_beside,
)
from bert_jax.data.tasks.metrics import (
    classification_scores,
    regression_scores,
    undefined_of_classes,
    undefined_of_numbers,
)
from bert_jax.data.tasks.rows import TaskInputs
from bert_jax.data.tasks.splits import Outputs, Split, Task, dev_sources
from bert_jax.data.tasks.tables import (
    Row,
    label_value,
    no_label,
    number_value,
    read_rows,
    text_value,
)
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One labelled input."""

    text: str
    text_pair: str  # '' for single inputs
    label: str
    location: str  # file:line, for messages


@dataclasses.dataclass(frozen=True)
class LabelledExamples:
    """The usable examples of a source, at least one.

    Attributes:
      source: the file or dataset.
      examples: in its order.
      note: what was left out, for the log; '' for nothing.
    """

    source: str
    examples: list[Example]
    note: str


def read_examples(
    source: str,
    config: TaskDataConfig,
    *,
    numbers: bool = False,
    classes: Collection[str] | None = None,
) -> LabelledExamples:
    """Reads the examples of a .tsv or .txt (tabs, no quoting), .csv or .jsonl file, or of TFDS.

    Args:
      source: the file or dataset.
      config: names the columns; `skip_bad_rows` leaves out rows that cannot be used.
      numbers: True if labels must be numbers.
      classes: the labels of the task; None for a training file, which decides them.

    Raises:
      UserError: with the file and the line, if the file is missing, empty or not UTF-8, a column is
        missing, or rows cannot be used: their text is empty, they have no label or another number
        of columns; if two labels look the same.
    """
    pair = config.text_pair_column
    bad = BadRows(source, skip=config.skip_bad_rows)
    label_of = _number_label if numbers else label_value
    examples = []
    for location, row in read_rows(source, header=config.header, bad=bad):
        with bad.caught():
            example = Example(
                text=text_value(row, config.text_column, location, "text_column"),
                text_pair=text_value(row, pair, location, "text_pair_column") if pair else "",
                label=label_of(row, config.label_column, location, "label_column"),
                location=location,
            )
            examples.append(example)
    if not numbers:
        examples = _labelled(examples, config.label_column, classes, bad)
    bad.close(len(examples), "examples")
    if not numbers:
        check_distinct((example.label for example in examples), source)
    return LabelledExamples(source, examples, bad.note)


def _labelled(
    examples: Sequence[Example], column: str, classes: Collection[str] | None, bad: BadRows
) -> list[Example]:
    """Returns the examples whose label does not stand for none."""
    if classes is None:
        none = unlabelled({example.label for example in examples})
    else:
        none = unlabelled_beside(classes)
    for example in examples:
        if example.label in none:
            bad.add(no_label(example.location, repr(example.label), column))
    return [example for example in examples if example.label not in none]


def _number_label(row: Row, names: str, location: str, flag: str) -> str:
    number = number_value(row, names, location, flag)
    if abs(number) > float(np.finfo(np.float32).max):
        problem = f"has the label {number}, too large for float32: scale all labels"
        raise BadRow(location, "label too large for float32", problem)
    return repr(number)


def label_names(train: LabelledExamples) -> list[str]:
    """Returns the labels of the training file, sorted.

    Raises:
      UserError: if there are fewer than two.
    """
    names = sorted({example.label for example in train.examples})
    if len(names) < 2:
        raise UserError(
            f"all examples from {train.examples[0].location} on have the label {names[0]!r}: add"
            " examples with another label"
        )
    return names


def encode_inputs(
    texts: Sequence[str], pairs: Sequence[str], tokenizer: Tokenizer, length: int
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Tokenises inputs and truncates them to rows of `length` tokens.

    Args:
      texts: text A of each example.
      pairs: text B of each example; '' for none.
      tokenizer: of the checkpoint.
      length: T.

    Returns:
      Token ids of A and of B of each example, int32 arrays, and whether it is truncated, [E] bool.
    """
    a, b = tokenizer.encode_batch(texts), tokenizer.encode_batch(pairs)
    a_lengths, b_lengths = (np.array([len(ids) for ids in side], np.int64) for side in (a, b))
    a_kept, b_kept = truncated_lengths(a_lengths, b_lengths, length - tokenizer.special.of_pair)
    a_kept = np.where(b_lengths == 0, np.minimum(a_lengths, length - SINGLE_SPECIALS), a_kept)
    cut = (a_kept < a_lengths) | (b_kept < b_lengths)
    a = [ids[:kept] for ids, kept in zip(a, a_kept, strict=True)]
    b = [ids[:kept] for ids, kept in zip(b, b_kept, strict=True)]
    return a, b, cut


def check_filled(texts: Iterable[np.ndarray], location: str) -> None:
    """Raises UserError if nothing is left of a text of a row, such as of U+FFFD.

    Args:
      texts: token ids of each text.
      location: of the row.
    """
    if not all(len(ids) for ids in texts):
        raise UserError(f"{location} has a text without a token: fill it in, or remove the row")


def notes_of(left_out: str, cut: np.ndarray, length: int) -> str:
    """Returns what a log tells of inputs: those left out, and those truncated to `length`.

    Args:
      left_out: from `BadRows.note`.
      cut: [I] bool, from `encode_inputs`.
      length: T.
    """
    truncated = f"{cut.sum():,} cut to {length} tokens" if cut.any() else ""
    return "; ".join(filter(None, (left_out, truncated)))


class TextSplit(Split):
    """A split of texts, or pairs of texts, with one label each.

    Attributes:
      inputs: of the encoder.
      gold: [E] int32 classes or float32 numbers.
      texts: of each example, `text`, and `text_pair` if it has one.
    """

    def __init__(
        self,
        examples: LabelledExamples,
        labels: np.ndarray,
        tokenizer: Tokenizer,
        length: int,
    ) -> None:
        """Tokenises the examples.

        Args:
          examples: from `read_examples`.
          labels: [E] int32 classes or float32 numbers.
          tokenizer: of the checkpoint.
          length: T; longer examples are truncated, and counted in `notes`.

        Raises:
          UserError: as `check_filled`.
        """
        texts, pairs = (
            [getattr(each, side) for each in examples.examples] for side in ("text", "text_pair")
        )
        a, b, cut = encode_inputs(texts, pairs, tokenizer, length)
        for each, first, second in zip(examples.examples, a, b, strict=True):
            check_filled([first, second] if each.text_pair else [first], each.location)
        self.inputs = TaskInputs(a, b, labels, np.arange(len(a)), tokenizer.special)
        self.examples = len(a)
        self.notes = notes_of(examples.note, cut, length)
        self.gold = labels
        self.texts = [
            {"text": text} | ({"text_pair": pair} if pair else {})
            for text, pair in zip(texts, pairs, strict=True)
        ]

    def _with_texts(self, predictions: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for text, prediction in zip(self.texts, predictions, strict=True):
            yield text | prediction


class ClassSplit(TextSplit):
    """A split of examples with one class each."""

    def __init__(
        self,
        examples: LabelledExamples,
        labels: Sequence[str],
        tokenizer: Tokenizer,
        config: TaskDataConfig,
    ) -> None:
        """Tokenises the examples; `labels` are the names of the classes.

        Raises:
          UserError: if an example has another label.
        """
        # A checkpoint may have labels in another spelling.
        numbers = {clean_label(name): number for number, name in enumerate(labels)}
        for example in examples.examples:
            if example.label not in numbers:
                raise UserError(
                    f"{example.location} has the label {example.label!r}, which the training file"
                    f" does not have: write one of {choices(labels)}"
                )
        classes = np.array([numbers[example.label] for example in examples.examples], np.int32)
        super().__init__(examples, classes, tokenizer, config.length)
        absent = [name for number, name in enumerate(labels) if number not in classes]
        if absent:
            self.notes = "; ".join(filter(None, [self.notes, f"no example of {choices(absent)}"]))
        self._labels = labels
        self._positive = _positive_class(labels, config.positive_label)

    def classes(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
        """See `Split.classes`."""
        return self.gold, softmax(np.stack(outputs).astype(np.float64), axis=-1)

    def scores(self, outputs: Outputs) -> dict[str, float]:
        """See `Split.scores`."""
        return classification_scores(*self._scored(outputs))

    def undefined(self, outputs: Outputs) -> dict[str, str]:
        """See `Split.undefined`."""
        return undefined_of_classes(*self._scored(outputs))

    def _scored(self, outputs: Outputs) -> tuple[np.ndarray, np.ndarray, int, int]:
        predicted = np.stack(outputs).argmax(axis=1)
        return self.gold, predicted, len(self._labels), self._positive

    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """See `Split.predictions`."""
        golds = [{"gold": self._labels[number]} for number in self.gold]
        predicted = class_predictions(self.classes(outputs)[1], self._labels)
        return self._with_texts([gold | each for gold, each in zip(golds, predicted, strict=True)])

    def constant_outputs(self) -> Outputs:
        """See `Split.constant_outputs`."""
        counts = np.bincount(self.gold, minlength=len(self._labels))
        return [np.eye(len(counts), dtype=np.float32)[counts.argmax()]] * self.examples


class NumberSplit(TextSplit):
    """A split of examples with one number each."""

    def scores(self, outputs: Outputs) -> dict[str, float]:
        """See `Split.scores`."""
        return regression_scores(self.gold, np.stack(outputs)[:, 0])

    def undefined(self, outputs: Outputs) -> dict[str, str]:
        """See `Split.undefined`."""
        return undefined_of_numbers(self.gold, np.stack(outputs)[:, 0])

    def predictions(self, outputs: Outputs) -> Iterator[dict[str, Any]]:
        """See `Split.predictions`."""
        pairs = zip(self.gold, outputs, strict=True)
        predictions = [{"gold": float(gold), "value": float(out[0])} for gold, out in pairs]
        return self._with_texts(predictions)

    def constant_outputs(self) -> Outputs:
        """See `Split.constant_outputs`."""
        return [self.gold.mean(keepdims=True)] * self.examples


def read_class_task(config: TaskDataConfig, tokenizer: Tokenizer) -> Task:
    """Reads a task of kind CLASSIFICATION.

    Raises:
      UserError: as `read_examples`, `label_names` and `ClassSplit`.
    """
    train = read_examples(config.train, config)
    labels = label_names(train)
    _positive_class(labels, config.positive_label)
    dev = {
        name: read_class_split(source, config, tokenizer, labels)
        for name, source in dev_sources(config).items()
    }
    return Task(labels, ClassSplit(train, labels, tokenizer, config), dev)


def read_class_split(
    source: str, config: TaskDataConfig, tokenizer: Tokenizer, labels: Sequence[str]
) -> ClassSplit:
    """Reads a split of a task whose labels are known.

    Raises:
      UserError: as `read_examples` and `ClassSplit`.
    """
    classes = {clean_label(name) for name in labels}
    examples = read_examples(source, config, classes=classes)
    return ClassSplit(examples, labels, tokenizer, config)


def read_number_task(config: TaskDataConfig, tokenizer: Tokenizer) -> Task:
    """Reads a task of kind REGRESSION.

    Raises:
      UserError: as `read_examples`.
    """
    sources = {"train": config.train} | dev_sources(config)
    splits = {
        name: read_number_split(source, config, tokenizer) for name, source in sources.items()
    }
    return Task([], splits.pop("train"), dict(splits))


def read_number_split(source: str, config: TaskDataConfig, tokenizer: Tokenizer) -> NumberSplit:
    """Reads a split whose labels are numbers.

    Raises:
      UserError: as `read_examples`.
    """
    examples = read_examples(source, config, numbers=True)
    numbers = np.array([float(example.label) for example in examples.examples], np.float32)
    return NumberSplit(examples, numbers, tokenizer, config.length)


def class_predictions(probabilities: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Converts probabilities, [E, C], for JSON: the most probable `label`, and `probabilities`."""
    return [
        {
            "label": labels[int(row.argmax())],
            "probabilities": dict(zip(labels, row.tolist(), strict=True)),
        }
        for row in probabilities
    ]


def _positive_class(labels: Sequence[str], positive: str) -> int:
    """Returns the class whose F1 is reported; "1|equivalent" gives alternative labels."""
    known = [name for name in map(clean_label, positive.split("|")) if name in labels]
    if positive and not known:
        raise UserError(
            f"--config.data.positive_label={positive!r} is not a label of the training file: write"
            f" one of {choices(labels)}"
        )
    return labels.index(known[0]) if positive else len(labels) - 1
