"""The inputs of a labelled task, written into the rows of batches, and the model's outputs back.

An input is what the encoder sees at once: an example, or one window of an example that is longer
than a row. Labels are of whole inputs, read at their [CLS], or of tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bert_jax.data.packing.layout import PAIR_SPECIALS, SINGLE_SPECIALS, lay_out
from bert_jax.data.packing.ragged import exclusive_cumsum, ranges
from bert_jax.data.tasks.batches import TaskBatches
from bert_jax.text.tokenizer import SpecialIds

NO_LABEL = -1  # of a token that is not asked about

_TOKENS_PER_EXAMPLE = 8  # of a row, where nobody says how many examples it may hold
_LENGTH_STEP = 32  # rows for new text are a multiple of this, so that few lengths are compiled


@dataclasses.dataclass(frozen=True)
class TaskInputs:
    """Token ids and labels of some inputs.

    Attributes:
      a: [I] int32 arrays, the ids of A.
      b: [I] int32 arrays, the ids of B; empty for single inputs.
      labels: for whole inputs [I] int32 classes, [I] float32 numbers, or [I, 2] int32 the first and
        the last token of an answer, as places in the input, where [CLS] is 0. For tokens a list of
        [size] int32 classes, one for each token of an input with its special ones, or NO_LABEL.
      example_of: [I] int64, the example that each input is, or is a window of.
      features: the encoder's vectors where they are kept: [I, D] float32 for whole inputs, a list
        of [size, D] for tokens.
    """

    a: list[np.ndarray]
    b: list[np.ndarray]
    labels: np.ndarray | list[np.ndarray]
    example_of: np.ndarray
    features: np.ndarray | list[np.ndarray] | None = None

    def __len__(self) -> int:
        """How many inputs."""
        return len(self.a)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each input with its special ones, [I] int64."""
        return input_sizes(self.a, self.b)

    def of_examples(self, examples: np.ndarray) -> "TaskInputs":
        """Returns the inputs of some examples alone, in their order here."""
        chosen = np.flatnonzero(np.isin(self.example_of, examples))
        return TaskInputs(
            [self.a[i] for i in chosen],
            [self.b[i] for i in chosen],
            _take(self.labels, chosen),
            self.example_of[chosen],
            None if self.features is None else _take(self.features, chosen),
        )


@dataclasses.dataclass(frozen=True)
class RowFormat:
    """How the rows of a task's batches are made.

    Attributes:
      length: T.
      special: ids of [PAD], [CLS] and [SEP].
      pool_last: as in `layout.lay_out`; for an encoder that is causal.
      batch_size: E, inputs in a batch.
      max_examples: N, in a row, at most; 1: rows are not packed.
    """

    length: int
    special: SpecialIds
    pool_last: bool
    batch_size: int
    max_examples: int

    def deal(
        self, inputs: TaskInputs, *, epochs: int, seed: int, rows_multiple: int
    ) -> TaskBatches:
        """Deals inputs to the batches of a run; the arguments are those of `TaskBatches`."""
        return TaskBatches(
            inputs.sizes,
            self.length,
            batch_size=self.batch_size,
            max_examples_per_row=self.max_examples,
            epochs=epochs,
            seed=seed,
            rows_multiple=rows_multiple,
        )


def _take(values: np.ndarray | list[np.ndarray], chosen: np.ndarray) -> np.ndarray | list:
    return values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in chosen]


def input_sizes(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """Counts the tokens of inputs with their special ones, [I] int64."""
    pairs = zip(a, b, strict=True)
    sizes = [
        len(first) + len(second) + (PAIR_SPECIALS if len(second) else SINGLE_SPECIALS)
        for first, second in pairs
    ]
    return np.array(sizes, np.int64)


def examples_per_row(length: int) -> int:
    """Returns how many examples a row of `length` tokens may hold where nothing else is asked."""
    return -(-length // _TOKENS_PER_EXAMPLE)


def row_length(sizes: np.ndarray, max_length: int) -> int:
    """Returns the length of rows that hold inputs of these sizes, at most `max_length`."""
    return min(-(-int(sizes.max()) // _LENGTH_STEP) * _LENGTH_STEP, max_length)


def make_token_rows(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    held: np.ndarray,
    length: int,
    special: SpecialIds,
    *,
    slots: int,
    pool_last: bool = False,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Writes the tokens of inputs into rows, in their order.

    Args:
      a: [I] int32 arrays.
      b: [I] int32 arrays; empty where there is no B.
      held: [R] int64, how many inputs each row holds.
      length: T; the inputs of a row must fit.
      special: ids of [PAD], [CLS] and [SEP].
      slots: N.
      pool_last: as in `layout.lay_out`; for an encoder that is causal.

    Returns:
      The token fields of a batch and `pool_positions`; and the row and the slot of each input.
    """
    sides = [side for pair in zip(a, b, strict=True) for side in pair]
    lengths = np.array([len(side) for side in sides], np.int64)
    there = (np.arange(len(sides)) % 2 == 0) | (lengths > 0)  # A always, B where it has tokens
    return lay_out(
        held,
        there.reshape(-1, 2).sum(axis=1),
        np.concatenate([np.array([], np.int32), *sides]),  # a host's rows can all be filling
        lengths[there],
        np.tile(np.array([0, 1], np.int32), len(a))[there],
        length=length,
        slots=slots,
        special=special,
        pool_last=pool_last,
    )


class TaskStream:
    """The rows of the batches of a run, each made when it is asked for.

    Attributes:
      batches: which inputs each batch holds, and where.
    """

    def __init__(self, inputs: TaskInputs, batches: TaskBatches, row_format: RowFormat) -> None:
        """Holds what the rows are made of; `batches` deals out `inputs`."""
        self.batches = batches
        self._inputs, self._format = inputs, row_format

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows of the run, [R] int64, all of one batch, in the fields of a batch."""
        number = int(rows[0]) // self.batches.rows
        chosen, held = self.batches.batch(number)
        rows = rows - number * self.batches.rows
        chosen = chosen[ranges(exclusive_cumsum(held)[rows], held[rows])]
        inputs = self._inputs
        batch, at = make_token_rows(
            [inputs.a[i] for i in chosen],
            [inputs.b[i] for i in chosen],
            held[rows],
            self._format.length,
            self._format.special,
            slots=self.batches.slots,
            pool_last=self._format.pool_last,
        )
        labels = _placed(batch, at, inputs.labels, chosen)
        if isinstance(inputs.labels, list):
            weights = (labels >= 0) & (batch["example_ids"] > 0)
            labels = np.maximum(labels, 0)
        else:
            weights = _placed(batch, at, np.ones(len(inputs)), chosen)
        batch |= {"labels": labels, "weights": weights.astype(np.float32)}
        if inputs.features is not None:
            batch["features"] = _placed(batch, at, inputs.features, chosen)
        return batch


def _placed(
    batch: dict[str, np.ndarray],
    at: tuple[np.ndarray, np.ndarray],
    values: np.ndarray | list[np.ndarray],
    chosen: np.ndarray,
) -> np.ndarray:
    """Puts values of inputs where they are in the rows: [R, N, ...]; of tokens: [R, T, ...]."""
    if isinstance(values, np.ndarray):
        placed = np.zeros((*batch["pool_positions"].shape, *values.shape[1:]), values.dtype)
        placed[at] = values[chosen]
        return placed
    inside = batch["example_ids"] > 0
    # None of the first gives shape and type to a host's rows that hold nothing.
    flat = np.concatenate([values[0][:0], *_take(values, chosen)])
    placed = np.zeros((*inside.shape, *flat.shape[1:]), flat.dtype)
    placed[inside] = flat  # the tokens of a row are in the order of its inputs
    return placed


def outputs_of_inputs(
    outputs: np.ndarray, sizes: np.ndarray, held: np.ndarray, *, tokens: bool
) -> list[np.ndarray]:
    """Takes the model's outputs for a batch apart: the inverse of writing inputs into rows.

    Args:
      outputs: [R, N, C] of whole inputs, or [R, T, C] of tokens.
      sizes: [I] int64, tokens of each input of the batch.
      held: [R] int64, how many inputs each row holds.
      tokens: whether they are of tokens.

    Returns:
      For each input [C], or [size, C].
    """
    rows = np.repeat(np.arange(len(held)), held)
    slots = ranges(np.zeros_like(held), held)
    if not tokens:
        return list(outputs[rows, slots])
    # The tokens of a row are its first ones.
    ends = np.cumsum(sizes) - np.repeat(
        np.append(0, np.cumsum(sizes))[exclusive_cumsum(held)], held
    )
    return [
        outputs[row, end - size : end] for row, end, size in zip(rows, ends, sizes, strict=True)
    ]
