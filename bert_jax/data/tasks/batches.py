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
    ) -> None:
        """Deals all epochs, to find the number of rows.

        Args:
          lengths: [I] int64, tokens of each input, special ones included, from 1 to `capacity`.
          capacity: T, tokens in a row.
          batch_size: E, inputs in a batch.
          max_examples_per_row: N; 1 gives each input its own row.
          epochs: of the run.
          seed: of the run.
          rows_multiple: R is rounded up to a multiple of it.
        """
        self._lengths, self._capacity = lengths, capacity
        self._batch_size, self._most, self._seed = batch_size, max_examples_per_row, seed
        self.per_epoch = -(-len(lengths) // batch_size)
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
          Their indices, [at most E] int64, and the number of inputs in each row, [R] int64.
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
        """Returns the inputs of each batch and their rows, [batches, E] each; -1 for no input."""
        dealt = self._deal(epoch)
        lengths = np.where(dealt >= 0, self._lengths[dealt], 0)
        return dealt, pack_each(lengths, self._capacity, self._most)

    def _deal(self, epoch: int) -> np.ndarray:
        key = DrawKey(self._seed, epoch)
        bits = draws.random_bits(len(self._lengths), key, Purpose.TASK_EPOCH_ORDER)
        order = np.argsort(bits, kind="stable")
        window = _WINDOW_BATCHES * self._batch_size
        dealt = []
        for number, begin in enumerate(range(0, len(order), window)):
            inputs = order[begin : begin + window]
            batches = -(-len(inputs) // self._batch_size)
            by_length = inputs[np.argsort(-self._lengths[inputs], kind="stable")]
            grid = np.full((self._batch_size, batches), -1)
            grid.reshape(-1)[: len(inputs)] = by_length
            grid[1::2] = grid[1::2, ::-1].copy()  # back and forth, so that batches stay even
            key = DrawKey(self._seed, epoch, block=number)
            bits = draws.random_bits(batches, key, Purpose.TASK_BATCH_ORDER)
            dealt.append(grid.T[np.argsort(bits, kind="stable")])
        return np.concatenate(dealt)
