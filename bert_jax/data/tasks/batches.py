"""Deals the inputs of a fine-tuning run to its batches, and packs those of each batch into rows.

Every batch has at most E inputs in exactly R rows, so that one shape is compiled. Random batches of
inputs of different lengths would need very different numbers of rows. So the inputs of a shuffled
window are dealt to its batches by length, and all batches get nearly the same number of tokens.
"""

import functools

import numpy as np

from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from bert_jax.data.packing.packing import pack_each

_WINDOW_BATCHES = 64  # batches that are dealt together


class TaskBatches:
    """The batches of a run: a pure function of the arguments.

    An epoch has every input once, in a new random order. Instead of one small batch at the end,
    several batches may have one input less than the others.

    Attributes:
      per_epoch: batches in an epoch.
      smallest: examples in the smallest batch.
      rows: R, rows in a batch: the largest number that a batch of the run needs.
      slots: N, inputs in a row, at most. It does not depend on the seed: the bits of dropout depend
        on the shape of a row, and runs of several seeds share one compiled step.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        capacity: int,
        *,
        batch_size: int,
        max_examples_per_row: int,
        epochs: int,
        seed: int,
        rows_multiple: int = 1,
        example_of: np.ndarray | None = None,
    ) -> None:
        """Deals all epochs, to find the number of rows.

        Args:
          lengths: [I] int64, tokens of each input, special ones included, from 1 to `capacity`.
          capacity: T, tokens in a row.
          batch_size: E, examples in a batch.
          max_examples_per_row: N; 1 gives each input its own row.
          epochs: of the run.
          seed: of the run.
          rows_multiple: R is rounded up to a multiple of it.
          example_of: [I] int64, ascending: inputs of one example are in one batch, each packed by
            itself; None: each input is an example.
        """
        self._lengths, self._capacity = lengths, capacity
        self._batch_size, self._most, self._seed = batch_size, max_examples_per_row, seed
        self._members = _members(np.arange(len(lengths)) if example_of is None else example_of)
        examples = len(self._members)
        self.per_epoch = -(-examples // batch_size)
        in_last = (examples - 1) % (_WINDOW_BATCHES * batch_size) + 1
        self.smallest = in_last // -(-in_last // batch_size)
        self._epoch = functools.lru_cache(maxsize=2)(self._deal_and_pack)
        needed = [self._epoch(epoch)[1] for epoch in range(epochs)]
        rows = 1 + max(int(row_of.max()) for row_of in needed)
        self.rows = -(-rows // rows_multiple) * rows_multiple
        self.slots = max_examples_per_row

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the inputs of a batch of the run, in the order of their rows.

        Args:
          number: index of the batch, from 0.

        Returns:
          Their indices, [inputs] int64, and the number of inputs in each row, [R] int64.
        """
        epoch, batch = divmod(number, self.per_epoch)
        dealt, row_of = self._epoch(epoch)
        inputs, row_of = dealt[batch], row_of[batch]
        used = inputs >= 0
        inputs, row_of = inputs[used], row_of[used]
        in_order = inputs[np.argsort(row_of, kind="stable")]
        return in_order, np.bincount(row_of, minlength=self.rows)

    def describe(self) -> str:
        """Describes the batches: '98 batches of 32 in 8 rows of 128, 95.1 % full'."""
        capacity = self.per_epoch * self.rows * self._capacity
        return (
            f"{self.per_epoch:,} batches of {self._batch_size} in {self.rows} rows of"
            f" {self._capacity}, {100 * self._lengths.sum() / capacity:.1f} % full"
        )

    def _deal_and_pack(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the inputs of each batch and their rows, [batches, most]; -1 for no input."""
        examples = self._deal(epoch)
        members = np.where((examples >= 0)[:, :, None], self._members[examples], -1)
        dealt = members.reshape(len(examples), -1)
        lengths = np.where(dealt >= 0, self._lengths[dealt], 0)
        return dealt, pack_each(lengths, self._capacity, self._most)

    def _deal(self, epoch: int) -> np.ndarray:
        """Returns the examples of each batch, [batches, E]; -1 for none."""
        key = DrawKey(self._seed, epoch)
        sizes = np.where(self._members >= 0, self._lengths[self._members], 0).sum(axis=1)
        bits = draws.random_bits(len(sizes), key, Purpose.TASK_EPOCH_ORDER)
        order = np.argsort(bits, kind="stable")
        window = _WINDOW_BATCHES * self._batch_size
        dealt = []
        for number, begin in enumerate(range(0, len(order), window)):
            examples = order[begin : begin + window]
            batches = -(-len(examples) // self._batch_size)
            by_length = examples[np.argsort(-sizes[examples], kind="stable")]
            grid = np.full((self._batch_size, batches), -1)
            grid.reshape(-1)[: len(examples)] = by_length
            grid[1::2] = grid[1::2, ::-1].copy()  # back and forth, so that batches stay even
            key = DrawKey(self._seed, epoch, block=number)
            bits = draws.random_bits(batches, key, Purpose.TASK_BATCH_ORDER)
            dealt.append(grid.T[np.argsort(bits, kind="stable")])
        return np.concatenate(dealt)


def _members(example_of: np.ndarray) -> np.ndarray:
    """Returns the inputs of each example, [examples, most] int64; -1 for no input."""
    _, first, counts = np.unique(example_of, return_index=True, return_counts=True)
    place = np.arange(counts.max())
    return np.where(place < counts[:, None], first[:, None] + place, -1)
