"""Which inputs each batch of a fine-tuning run holds, and in which of its rows.

Every batch of a run is at most E inputs in R rows, so that one shape is compiled. Random batches of
inputs of many lengths would need very different numbers of rows. So the inputs of a shuffled window
are dealt to its batches by their length, and come out with nearly the same number of tokens.
"""

import functools

import numpy as np

from bert_jax.data.packing import draws
from bert_jax.data.packing.packing import pack_each

_EPOCH_ORDER, _BATCH_ORDER = 100, 101  # purposes of the draws, apart from those of pretraining

_WINDOW_BATCHES = 64  # dealt to together


class TaskBatches:
    """The batches of a run; a pure function of its arguments.

    An epoch has every input once, in a fresh order. Its last batches may have one input less than
    the others, so that no batch is much smaller.

    Attributes:
      per_epoch: batches in an epoch.
      rows: R, in each batch; the most that a batch of the run needs.
      slots: N, the most inputs that a row may hold. No draw decides it: dropout's bits depend on
        the shape of a row, and runs of several seeds must be able to share one.
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
        """Deals every epoch once, to know the rows.

        Args:
          lengths: [I] int64, tokens of each input with its special ones, from 1 to `capacity`.
          capacity: T.
          batch_size: E.
          max_examples_per_row: at most; 1 gives each input its own row.
          epochs: in the run.
          seed: of the run.
          rows_multiple: R is a multiple of it.
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
          number: of the batch, from 0.

        Returns:
          Their numbers, [at most E] int64, and how many each row holds, [R] int64.
        """
        epoch, place = divmod(number, self.per_epoch)
        dealt, row_of = self._epoch(epoch)
        there = dealt[place] >= 0
        order = np.argsort(row_of[place][there], kind="stable")
        return dealt[place][there][order], _held(row_of[place : place + 1], self.rows)[0]

    def describe(self) -> str:
        """Says how much of the rows is tokens: '98 batches of 32 in 8 rows of 128, 95.1 % full'."""
        places = self.per_epoch * self.rows * self._capacity
        return (
            f"{self.per_epoch:,} batches of {self._batch_size} in {self.rows} rows of"
            f" {self._capacity}, {100 * self._lengths.sum() / places:.1f} % full"
        )

    def _deal_and_pack(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the inputs of each batch and their rows, [batches, E]; -1 for none."""
        dealt = self._deal(epoch)
        lengths = np.where(dealt >= 0, self._lengths[dealt], 0)
        return dealt, pack_each(lengths, self._capacity, self._most)

    def _deal(self, epoch: int) -> np.ndarray:
        name = {"seed": self._seed, "epoch": epoch}
        draw = draws.words(len(self._lengths), purpose=_EPOCH_ORDER, block=0, **name)
        order = np.argsort(draw, kind="stable")
        window = _WINDOW_BATCHES * self._batch_size
        dealt = []
        for number, begin in enumerate(range(0, len(order), window)):
            inputs = order[begin : begin + window]
            batches = -(-len(inputs) // self._batch_size)
            by_length = inputs[np.argsort(-self._lengths[inputs], kind="stable")]
            grid = np.full((self._batch_size, batches), -1)
            grid.reshape(-1)[: len(inputs)] = by_length
            grid[1::2] = grid[1::2, ::-1].copy()  # there and back: nobody always gets the longer
            draw = draws.words(batches, purpose=_BATCH_ORDER, block=number, **name)
            dealt.append(grid.T[np.argsort(draw, kind="stable")])
        return np.concatenate(dealt)


def _held(row_of: np.ndarray, rows: int) -> np.ndarray:
    """Counts what each row of each batch holds: [batches, E] to [batches, R]."""
    batches = len(row_of)
    flat = (row_of + rows * np.arange(batches)[:, None])[row_of >= 0]
    return np.bincount(flat, minlength=batches * rows).reshape(batches, rows)
