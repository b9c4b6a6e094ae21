"""Labelled tasks over whole inputs: a file's rows to token ids, and those to batches."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from bert_jax.config import TaskDataConfig
from bert_jax.data import draws
from bert_jax.data.layout import (
    PAIR_SPECIALS,
    SINGLE_SPECIALS,
    lay_out,
    truncated_lengths,
)
from bert_jax.data.tables import read_rows, text_value
from bert_jax.errors import UserError
from bert_jax.tokenizer import SpecialIds, Tokenizer

_EPOCH_ORDER = 100  # purpose of the draws, apart from those of pretraining


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One labelled input."""

    text: str
    text_pair: str  # '' for single inputs
    label: str
    place: str  # file:line, for messages


def read_examples(path: str, config: TaskDataConfig) -> list[Example]:
    """Reads a .tsv (no quoting), .csv or .jsonl file by the names of its columns.

    Raises:
      UserError: if the file is missing, empty or not UTF-8, a column is missing, or a value is
        empty; with the file and the line.
    """
    pair = config.text_pair_column
    examples = [
        Example(
            text=text_value(row, config.text_column, place, "text_column"),
            text_pair=text_value(row, pair, place, "text_pair_column") if pair else "",
            label=text_value(row, config.label_column, place, "label_column"),
            place=place,
        )
        for place, row in read_rows(path, header=config.header)
    ]
    if not examples:
        raise UserError(f"{path} holds no examples")
    return examples


def label_names(train: Sequence[Example], dev: Sequence[Example]) -> list[str]:
    """Returns the labels of the training file, sorted.

    Raises:
      UserError: if there are fewer than two, or the held-out file has one that they lack.
    """
    names = sorted({example.label for example in train})
    if len(names) < 2:
        raise UserError(f"{train[0].place} and on have the one label {names[0]!r}: two are needed")
    for example in dev:
        if example.label not in names:
            raise UserError(
                f"{example.place} has the label {example.label!r}, which training never saw:"
                f" the training file has {', '.join(map(repr, names[:10]))}"
            )
    return names


@dataclasses.dataclass(frozen=True)
class EncodedTask:
    """The examples of one file as token ids, cut to the row length.

    Attributes:
      a: A of each example, int32.
      b: B of each example, int32; empty for single inputs.
      labels: [E] int32, places in the label names.
      truncated: examples that lost tokens.
    """

    a: list[np.ndarray]
    b: list[np.ndarray]
    labels: np.ndarray
    truncated: int

    def __len__(self) -> int:
        """How many examples."""
        return len(self.a)


def encode_inputs(
    texts: Sequence[str], pairs: Sequence[str], tokenizer: Tokenizer, length: int
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Tokenises inputs and cuts them to rows of `length` tokens.

    Args:
      texts: A of each example.
      pairs: B of each example; '' for none.
      tokenizer: of the checkpoint.
      length: T.

    Returns:
      A and B of each example, and how many examples lost tokens.
    """
    a, b = tokenizer.encode_batch(texts), tokenizer.encode_batch(pairs)
    a_lengths, b_lengths = (np.array([len(ids) for ids in side], np.int64) for side in (a, b))
    a_kept, b_kept = truncated_lengths(a_lengths, b_lengths, length - PAIR_SPECIALS)
    a_kept = np.where(b_lengths == 0, np.minimum(a_lengths, length - SINGLE_SPECIALS), a_kept)
    cut = np.count_nonzero((a_kept < a_lengths) | (b_kept < b_lengths))
    a = [ids[:kept] for ids, kept in zip(a, a_kept, strict=True)]
    b = [ids[:kept] for ids, kept in zip(b, b_kept, strict=True)]
    return a, b, int(cut)


def encode_examples(
    examples: Sequence[Example], names: Sequence[str], tokenizer: Tokenizer, length: int
) -> EncodedTask:
    """Tokenises labelled examples; `names` gives each label its number."""
    a, b, truncated = encode_inputs(
        [example.text for example in examples],
        [example.text_pair for example in examples],
        tokenizer,
        length,
    )
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[example.label] for example in examples], np.int32)
    return EncodedTask(a, b, labels, truncated)


def make_input_rows(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    length: int,
    special: SpecialIds,
    *,
    pool_last: bool = False,
) -> dict[str, np.ndarray]:
    """Writes one input a row.

    Args:
      a: ids of A of each input, [R] arrays of int32.
      b: the same for B; empty where there is none.
      length: T; the inputs must fit.
      special: ids of [PAD], [CLS] and [SEP].
      pool_last: as in `layout.lay_out`; for an encoder that is causal.

    Returns:
      The token fields of a batch, [R, T], and `pool_positions` [R, 1].
    """
    sides = [side for pair in zip(a, b, strict=True) for side in pair]
    lengths = np.array([len(side) for side in sides], np.int64)
    there = (np.arange(len(sides)) % 2 == 0) | (lengths > 0)  # A always, B where it has tokens
    batch, _ = lay_out(
        np.ones(len(a), np.int64),
        there.reshape(-1, 2).sum(axis=1),
        np.concatenate([np.array([], np.int32), *sides]),  # a host's rows can all be filling
        lengths[there],
        np.tile(np.array([0, 1], np.int32), len(a))[there],
        length=length,
        slots=1,
        special=special,
        pool_last=pool_last,
    )
    return batch


def make_task_rows(
    task: EncodedTask,
    examples: np.ndarray,
    length: int,
    special: SpecialIds,
    *,
    pool_last: bool = False,
    epoch: int = 0,
) -> dict[str, np.ndarray]:
    """Writes one example a row, as the batch of docs/architecture.md with N = 1.

    Args:
      task: the examples.
      examples: [R] int64, which; -1 gives an empty row of weight 0.
      length: T.
      special: ids of [PAD], [CLS] and [SEP].
      pool_last: as in `layout.lay_out`.
      epoch: a part of the rows' names.
    """
    held = examples >= 0
    chosen = examples[held]
    rows = make_input_rows(
        [task.a[i] for i in chosen],
        [task.b[i] for i in chosen],
        length,
        special,
        pool_last=pool_last,
    )
    batch = {
        name: np.zeros((len(examples), *field.shape[1:]), field.dtype)
        for name, field in rows.items()
    }
    for name, field in rows.items():
        batch[name][held] = field
    batch["labels"] = np.where(held, task.labels[examples], 0).astype(np.int32)[:, None]
    batch["weights"] = held.astype(np.float32)[:, None]
    names = np.stack([np.full_like(examples, epoch), np.maximum(examples, 0)], axis=1)
    return batch | {"row_ids": names.astype(np.uint32)}


class TaskStream:
    """The rows of a fine-tuning run: each epoch is a fresh order of all examples, each once.

    An epoch is a whole number of batches; the last is filled up with empty rows.
    """

    def __init__(
        self,
        task: EncodedTask,
        length: int,
        special: SpecialIds,
        *,
        pool_last: bool = False,
        seed: int,
        batch_size: int,
    ) -> None:
        """Holds the examples; orders are drawn when they are needed."""
        self._task, self._length, self._special = task, length, special
        self._pool_last, self._seed = pool_last, seed
        self.batches_per_epoch = -(-len(task) // batch_size)
        self._rows_per_epoch = self.batches_per_epoch * batch_size

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows of the run as a batch: [R] int64, all of one epoch."""
        epoch = int(rows[0]) // self._rows_per_epoch
        within = rows - epoch * self._rows_per_epoch
        order = np.append(_order(self._seed, epoch, len(self._task)), -1)
        examples = order[np.minimum(within, len(self._task))]
        return make_task_rows(
            self._task,
            examples,
            self._length,
            self._special,
            pool_last=self._pool_last,
            epoch=epoch,
        )


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, examples: int) -> np.ndarray:
    draw = draws.words(examples, seed=seed, purpose=_EPOCH_ORDER, epoch=epoch, block=0)
    return np.argsort(draw, kind="stable")
