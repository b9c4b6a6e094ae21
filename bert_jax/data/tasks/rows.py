"""Writes the inputs of a labelled task into rows, and takes the model's outputs apart again.

An input is what the encoder sees at once: an example, or one window of an example that is longer
than a row. Labels belong to whole inputs (predicted from the [CLS] vector) or to tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_jax.data.packing.layout import SINGLE_SPECIALS, RowFormat, lay_out
from bert_jax.data.packing.ragged import exclusive_cumsum, ranges
from bert_jax.data.tasks.batches import TaskBatches
from bert_jax.text.tokenizer import SpecialIds

NO_LABEL = -1  # label of a token that has none

_TOKENS_PER_EXAMPLE = 8  # decides N where the config does not
_LENGTH_STEP = 32  # rows of new text are a multiple of this long, so that few shapes are compiled


@dataclasses.dataclass(frozen=True)
class RightNumbers:
    """The right texts of each query of a file, by the numbers of texts, from 1.

    Attributes:
      bounds: [last number + 2] int64: those of text n are `numbers` from `bounds[n]` to
        `bounds[n + 1]`.
      numbers: [pairs] int32.
    """

    bounds: np.ndarray
    numbers: np.ndarray

    @property
    def most(self) -> int:
        """Right texts of a query, at most."""
        return int(np.diff(self.bounds).max())

    def of(self, queries: np.ndarray) -> np.ndarray:
        """Returns the right texts of queries, [n, `most`, but at least 1] int32, 0 for none."""
        begins = self.bounds[queries]
        counts = self.bounds[queries + 1] - begins
        found = np.zeros((len(queries), max(1, self.most)), np.int32)
        at = np.repeat(np.arange(len(queries)), counts), ranges(np.zeros_like(counts), counts)
        found[at] = self.numbers[ranges(begins, counts)]
        return found


@dataclasses.dataclass(frozen=True)
class TextRoles:
    """The roles of I texts in a loss over all texts of a batch.

    Attributes:
      columns: [I] int64, the place of a text in its example: 0 is the query, 1 its right text, and
        from 2 on wrong ones.
      count: G, columns of an example, at most.
      numbers: [I] int64 from 1, equal for equal texts.
      rights: of all queries of the file.
    """

    columns: np.ndarray
    count: int
    numbers: np.ndarray
    rights: RightNumbers

    def take(self, chosen: np.ndarray) -> "TextRoles":
        """Selects texts by their numbers, [n] int64."""
        columns, numbers = self.columns[chosen], self.numbers[chosen]
        return dataclasses.replace(self, columns=columns, numbers=numbers)


@dataclasses.dataclass(frozen=True)
class TaskInputs:
    """Token ids and labels of I inputs.

    Attributes:
      a: I int32 arrays, the token ids of A.
      b: I int32 arrays, the token ids of B; empty for single inputs.
      labels: of whole inputs: [I] int32 classes, [I] float32 numbers, or [I, 2] int32, the first
        and the last token of an answer, counted in the input from its [CLS]. Of tokens: a list of I
        arrays [size] int32, a class or NO_LABEL for each token, special ones included.
      example_of: [I] int64, the example of each input.
      special: the tokens around the texts.
      features: cached vectors of the encoder: [I, D] float32 for whole inputs, a list of I arrays
        [size, D] for tokens; None if they are not cached.
      taught: outputs of a teacher in the same form, with C in the place of D; None without one.
      labelled: [I] bool, which inputs have labels; None: all have.
      roles: of texts whose examples stay together in a batch; None: each input stands alone.
    """

    a: list[np.ndarray]
    b: list[np.ndarray]
    labels: np.ndarray | list[np.ndarray]
    example_of: np.ndarray
    special: SpecialIds
    features: np.ndarray | list[np.ndarray] | None = None
    taught: np.ndarray | list[np.ndarray] | None = None
    labelled: np.ndarray | None = None
    roles: TextRoles | None = None

    def __len__(self) -> int:
        """Number of inputs, I."""
        return len(self.a)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each input, special ones included: [I] int64."""
        return input_sizes(self.a, self.b, self.special)

    @property
    def examples(self) -> int:
        """Number of examples that the inputs are of."""
        return len(np.unique(self.example_of))

    def with_labels(self) -> "TaskInputs":
        """Selects the inputs that have labels."""
        return self if self.labelled is None else self.take(np.flatnonzero(self.labelled))

    def class_counts(self, classes: int) -> np.ndarray:
        """Counts the labels of each class, of C; [C] int64."""
        labels = self.with_labels().labels
        flat = np.concatenate(labels) if isinstance(labels, list) else labels
        return np.bincount(flat[flat >= 0], minlength=classes)

    def of_examples(self, examples: np.ndarray) -> "TaskInputs":
        """Selects the inputs of some examples; they keep their order."""
        return self.take(np.flatnonzero(np.isin(self.example_of, examples)))

    def take(self, chosen: np.ndarray) -> "TaskInputs":
        """Selects inputs by their numbers, [n] int64."""
        return TaskInputs(
            [self.a[i] for i in chosen],
            [self.b[i] for i in chosen],
            _take(self.labels, chosen),
            self.example_of[chosen],
            self.special,
            None if self.features is None else _take(self.features, chosen),
            None if self.taught is None else _take(self.taught, chosen),
            None if self.labelled is None else self.labelled[chosen],
            self.roles and self.roles.take(chosen),
        )

    def with_unlabelled(self, others: "TaskInputs") -> "TaskInputs":
        """Appends inputs whose labels do not count; features are not kept."""
        first = int(self.example_of.max(initial=-1)) + 1
        return TaskInputs(
            [*self.a, *others.a],
            [*self.b, *others.b],
            _joined(self.labels, others.labels),
            np.concatenate([self.example_of, first + others.example_of]),
            self.special,
            taught=None if self.taught is None else _joined(self.taught, others.taught),
            labelled=np.arange(len(self) + len(others)) < len(self),
        )


@dataclasses.dataclass(frozen=True)
class BatchFormat(RowFormat):
    """Format of a task's batches and of their rows. With one slot in a row, rows are not packed.

    Attributes:
      batch_size: E, inputs in a batch; of texts with roles, examples.
    """

    batch_size: int

    def deal(
        self, inputs: TaskInputs, *, epochs: int, seed: int, rows_multiple: int
    ) -> TaskBatches:
        """Deals inputs to the batches of a run; see `TaskBatches` for the arguments."""
        return TaskBatches(
            inputs.sizes,
            self.length,
            batch_size=self.batch_size,
            max_examples_per_row=self.slots,
            epochs=epochs,
            seed=seed,
            rows_multiple=rows_multiple,
            example_of=inputs.example_of if inputs.roles else None,
        )


def _take(values: np.ndarray | list[np.ndarray], chosen: np.ndarray) -> np.ndarray | list:
    return values[chosen] if isinstance(values, np.ndarray) else [values[i] for i in chosen]


def _joined(values: np.ndarray | list[np.ndarray], others: Any) -> np.ndarray | list[np.ndarray]:
    if isinstance(values, np.ndarray):
        return np.concatenate([values, others])
    return [*values, *others]


def input_sizes(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], special: SpecialIds
) -> np.ndarray:
    """Counts the tokens of inputs, special ones included: [I] int64."""
    pairs = zip(a, b, strict=True)
    sizes = [
        len(first) + len(second) + (special.of_pair if len(second) else SINGLE_SPECIALS)
        for first, second in pairs
    ]
    return np.array(sizes, np.int64)


def examples_per_row(length: int) -> int:
    """Returns the default of N, examples in a row at most, for rows of `length` tokens."""
    return -(-length // _TOKENS_PER_EXAMPLE)


def row_length(sizes: np.ndarray, max_length: int) -> int:
    """Returns a length of rows that fits inputs of these sizes, at most `max_length`."""
    return min(-(-int(sizes.max()) // _LENGTH_STEP) * _LENGTH_STEP, max_length)


def make_token_rows(
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    inputs_in_row: np.ndarray,
    row_format: RowFormat,
) -> tuple[dict[str, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Writes the tokens of I inputs into R rows, in order.

    Args:
      a: I int32 arrays, the token ids of A.
      b: I int32 arrays, the token ids of B; empty for no B.
      inputs_in_row: [R] int64, number of inputs in each row; they must fit into it.
      row_format: of the rows.

    Returns:
      The token fields of a batch and `pool_positions`, as `layout.lay_out` does; and the row and
      the slot of each input, [I] int64 each.
    """
    sides = [side for pair in zip(a, b, strict=True) for side in pair]
    lengths = np.array([len(side) for side in sides], np.int64)
    is_part = (np.arange(len(sides)) % 2 == 0) | (lengths > 0)  # A always, B if it has tokens
    return lay_out(
        inputs_in_row,
        is_part.reshape(-1, 2).sum(axis=1),
        np.concatenate([np.array([], np.int32), *sides]),  # all rows of a host may be empty
        lengths[is_part],
        np.tile(np.array([0, 1], np.int32), len(a))[is_part],
        row_format,
    )


class TaskStream:
    """The rows of a run's batches, each made when it is read.

    Attributes:
      batches: the inputs of each batch and their rows.
    """

    def __init__(self, inputs: TaskInputs, batches: TaskBatches, row_format: RowFormat) -> None:
        """Makes no row yet; `batches` is `inputs`, dealt."""
        self.batches = batches
        self._inputs, self._format = inputs, row_format

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows of one batch, [R] int64, counted through the run, as a batch."""
        number = int(rows[0]) // self.batches.rows
        dealt, inputs_in_row = self.batches.batch(number)
        rows = rows - number * self.batches.rows
        own = ranges(exclusive_cumsum(inputs_in_row)[rows], inputs_in_row[rows])
        chosen, inputs = dealt[own], self._inputs
        batch, at = make_token_rows(
            [inputs.a[i] for i in chosen],
            [inputs.b[i] for i in chosen],
            inputs_in_row[rows],
            self._format,
        )
        labels = _placed(batch, at, inputs.labels, chosen)
        if isinstance(inputs.labels, list):
            weights = (labels >= 0) & (batch["example_ids"] > 0)
            labels = np.maximum(labels, 0)
        else:
            weights = _placed(batch, at, np.ones(len(inputs)), chosen)
        batch |= {"labels": labels, "weights": weights.astype(np.float32)}
        if inputs.taught is not None:
            batch["taught_weights"] = batch["weights"]
        if inputs.labelled is not None:
            labelled = _placed(batch, at, inputs.labelled.astype(np.float32), chosen)
            if isinstance(inputs.labels, list):
                slots = np.maximum(batch["example_ids"] - 1, 0)
                labelled = np.take_along_axis(labelled, slots, axis=1)
            batch["weights"] = batch["weights"] * labelled
        for name in ("features", "taught"):
            if (values := getattr(inputs, name)) is not None:
                batch[name] = _placed(batch, at, values, chosen)
        if roles := inputs.roles:
            examples = np.unique(inputs.example_of[dealt], return_inverse=True)[1][own]
            numbers = roles.numbers[chosen]
            of_texts = {
                "places": 1 + examples * roles.count + roles.columns[chosen],
                "text_numbers": numbers,
                "right_numbers": roles.rights.of(numbers),
            }
            everyone = np.arange(len(chosen))
            for name, values in of_texts.items():
                batch[name] = _placed(batch, at, values.astype(np.int32), everyone)
        return batch


def _placed(
    batch: dict[str, np.ndarray],
    at: tuple[np.ndarray, np.ndarray],
    values: np.ndarray | list[np.ndarray],
    chosen: np.ndarray,
) -> np.ndarray:
    """Scatters values of inputs to their slots, [R, N, ...], or of tokens, [R, T, ...]."""
    if isinstance(values, np.ndarray):
        placed = np.zeros((*batch["pool_positions"].shape, *values.shape[1:]), values.dtype)
        placed[at] = values[chosen]
        return placed
    inside = batch["example_ids"] > 0
    # `values[0][:0]` gives shape and type where all rows of a host are empty.
    flat = np.concatenate([values[0][:0], *_take(values, chosen)])
    placed = np.zeros((*inside.shape, *flat.shape[1:]), flat.dtype)
    placed[inside] = flat  # the tokens of a row are in the order of its inputs
    return placed


def outputs_of_inputs(
    outputs: np.ndarray, sizes: np.ndarray, inputs_in_row: np.ndarray, *, tokens: bool
) -> list[np.ndarray]:
    """Splits the model's outputs for a batch by input: the inverse of writing inputs into rows.

    Args:
      outputs: [R, N, C] of whole inputs, or [R, T, C] of tokens.
      sizes: [I] int64, tokens of each input of the batch, special ones included.
      inputs_in_row: [R] int64, number of inputs in each row.
      tokens: True for outputs of tokens.

    Returns:
      For each input [C], or [size, C].
    """
    rows = np.repeat(np.arange(len(inputs_in_row)), inputs_in_row)
    slots = ranges(np.zeros_like(inputs_in_row), inputs_in_row)
    if not tokens:
        return list(outputs[rows, slots])
    # A row begins with its tokens, and padding follows.
    first_of_row = exclusive_cumsum(inputs_in_row)
    ends = np.cumsum(sizes) - np.repeat(np.append(0, np.cumsum(sizes))[first_of_row], inputs_in_row)
    return [
        outputs[row, end - size : end] for row, end, size in zip(rows, ends, sizes, strict=True)
    ]
