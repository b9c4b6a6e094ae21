"""The rows of a run: planned examples written as batches, block after block, epoch after epoch."""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bert_jax.config import MAX_PHASES, PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing.layout import lay_out
from bert_jax.data.packing.ragged import ranges
from bert_jax.data.pretraining.plan import BlockPlan, blocks_per_epoch, plan_block
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import SpecialIds

# A row's name in 64 bits: phase, corpus, epoch, block and row.
_PHASE_BITS, _CORPUS_BITS, _EPOCH_BITS, _BLOCK_BITS, _ROW_BITS = 4, 4, 16, 18, 22
assert 1 << _PHASE_BITS == MAX_PHASES
MAX_CORPORA = 1 << _CORPUS_BITS


class Place(NamedTuple):
    """A place in the rows of one corpus: the next row to be seen."""

    epoch: int
    block: int
    row: int


START = Place(0, 0, 0)


def named_epoch(phase: int, corpus: int, epoch: int) -> int:
    """Joins what draws and names call an epoch: those of each phase and corpus are their own.

    Raises:
      UserError: if the numbers are more than a row's name holds.
    """
    if epoch >> _EPOCH_BITS:
        raise UserError(
            f"epoch {epoch} is beyond what a row's name holds: lower --config.steps, or give more"
            " text"
        )
    return (((phase << _CORPUS_BITS) | corpus) << _EPOCH_BITS) | epoch


def row_names(epoch: int, block: int, rows: np.ndarray) -> np.ndarray:
    """Returns the names of rows, unique in a run.

    Args:
      epoch: from `named_epoch`.
      block: of the epoch.
      rows: [R] int64, of the block.

    Returns:
      [R, 2] uint32.

    Raises:
      UserError: if there are more blocks than a name holds.
    """
    if block >> _BLOCK_BITS:
        raise UserError(
            f"block {block} is beyond what a row's name holds: raise --config.data.block_examples"
        )
    name = (((epoch << _BLOCK_BITS) | block) << _ROW_BITS) | rows.astype(np.uint64)
    return np.stack([name >> np.uint64(32), name & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def make_rows(
    corpus: Corpus,
    plan: BlockPlan,
    rows: np.ndarray,
    config: PretrainDataConfig,
    special: SpecialIds,
    *,
    epoch: int,
    block: int,
    pool_last: bool = False,
) -> dict[str, np.ndarray]:
    """Writes planned rows as the batch of docs/architecture.md.

    Args:
      corpus: that the plan is of.
      plan: of this block.
      rows: [R] int64, which rows of the plan.
      config: that the plan is of.
      special: ids of [PAD], [CLS] and [SEP].
      epoch: of the plan.
      block: of the plan.
      pool_last: as in `layout.lay_out`.

    Returns:
      `token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] int32; `pool_positions`,
      `labels` [R, N] int32 (of the sentence objective); `weights` [R, N] float32, 0 for an example
      without a label; `row_ids` [R, 2] uint32.
    """
    slots = config.max_examples_per_row
    held = plan.row_begins[rows + 1] - plan.row_begins[rows]
    examples = plan.examples.take(ranges(plan.row_begins[rows], held))
    batch, (row, slot) = lay_out(
        held,
        np.diff(examples.part_bounds),
        corpus.token_ids(ranges(examples.part_begin, examples.part_length)),
        examples.part_length,
        examples.part_segment,
        length=config.length,
        slots=slots,
        special=special,
        pool_last=pool_last,
    )
    batch["labels"] = np.zeros((len(rows), slots), np.int32)
    batch["weights"] = np.zeros((len(rows), slots), np.float32)
    batch["labels"][row, slot] = examples.labels
    batch["weights"][row, slot] = examples.labelled
    batch["row_ids"] = row_names(epoch, block, rows)
    return batch


class RowStream:
    """The rows of one corpus in one phase, from a place on: row 0 is the one at that place.

    Blocks are planned when they are needed, and one ahead on a thread. Safe to call from threads.
    """

    _KEPT_PLANS = 3  # the one before (a batch crosses a border), this one, the next one

    def __init__(
        self,
        corpus: Corpus,
        config: PretrainDataConfig,
        special: SpecialIds,
        *,
        seed: int,
        pool_last: bool = False,
        phase: int = 0,
        number: int = 0,
        start: Place = START,
    ) -> None:
        """Starts at a place; nothing is planned yet.

        Args:
          corpus: the documents.
          config: of the phase.
          special: ids of [PAD], [CLS] and [SEP].
          seed: of the run.
          pool_last: as in `layout.lay_out`.
          phase: its number.
          number: of the corpus, in a mixture.
          start: where row 0 is.
        """
        self._corpus, self._config, self._special, self._seed = corpus, config, special, seed
        self._pool_last, self._phase, self._number = pool_last, phase, number
        self._blocks = blocks_per_epoch(corpus, config)
        self._planner = ThreadPoolExecutor(1, "plan")
        self._plans: OrderedDict[int, Future[BlockPlan]] = OrderedDict()
        self._lock = threading.Lock()
        self._first_block = start.epoch * self._blocks + start.block
        # Stream row at which each visited block begins; the first one began before the start.
        self._begins = [-start.row]

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows of the stream as a batch.

        Args:
          rows: [R] int64, ascending, counted from the start.
        """
        parts = []
        while len(rows):
            turn = self._turn_of(int(rows[0]))
            epoch, block, plan = *self._drawn_name(turn), self._plan(turn)
            here = rows - self._begins[turn - self._first_block]
            inside = here < plan.rows
            parts.append(
                make_rows(
                    self._corpus,
                    plan,
                    here[inside],
                    self._config,
                    self._special,
                    pool_last=self._pool_last,
                    epoch=epoch,
                    block=block,
                )
            )
            rows = rows[~inside]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def first_plan(self) -> BlockPlan:
        """Returns the plan of the block that the start is in, for its counts."""
        return self._plan(self._first_block)

    def place(self, row: int) -> Place:
        """Returns the place of a row of the stream, to start another stream from."""
        turn = self._turn_of(row)
        return Place(*self._name(turn), row - self._begins[turn - self._first_block])

    def _name(self, turn: int) -> tuple[int, int]:
        return divmod(turn, self._blocks)

    def _drawn_name(self, turn: int) -> tuple[int, int]:
        """Returns the epoch and block whose draws and row names a turn has."""
        epoch, block = self._name(turn)
        if self._config.static_copies:
            epoch %= self._config.static_copies
        return named_epoch(self._phase, self._number, epoch), block

    def _turn_of(self, row: int) -> int:
        """Finds the block of a row, counting blocks through all epochs."""
        while True:
            with self._lock:
                begins = self._begins
                at = int(np.searchsorted(begins, row, side="right")) - 1
                last = len(begins) - 1
            if at < last:
                return self._first_block + at
            end = begins[last] + self._plan(self._first_block + last).rows
            if row < end:
                return self._first_block + last
            with self._lock:
                if len(self._begins) == last + 1:
                    self._begins.append(end)

    def _plan(self, turn: int) -> BlockPlan:
        with self._lock:
            for wanted in (turn, turn + 1):
                if wanted not in self._plans:
                    self._plans[wanted] = self._planner.submit(self._make_plan, wanted)
                self._plans.move_to_end(wanted)
            while len(self._plans) > self._KEPT_PLANS:
                self._plans.popitem(last=False)
            plan = self._plans[turn]
        return plan.result()

    def _make_plan(self, turn: int) -> BlockPlan:
        epoch, block = self._drawn_name(turn)
        plan = plan_block(self._corpus, self._config, seed=self._seed, epoch=epoch, block=block)
        if plan.rows > 1 << _ROW_BITS:
            raise UserError(
                f"--config.data.block_examples={self._config.block_examples} gives {plan.rows} rows"
                f" in a block, more than {1 << _ROW_BITS}: lower it"
            )
        return plan


def held_out_rows(
    corpus: Corpus,
    config: PretrainDataConfig,
    special: SpecialIds,
    rows: int,
    *,
    epoch: int = 0,
    pool_last: bool = False,
) -> dict[str, np.ndarray]:
    """Returns the first rows of a fixed plan of the held-out split, as a batch.

    Args:
      corpus: the held-out split.
      config: of the run.
      special: ids of the tokenizer.
      rows: how many; fewer where the first block has fewer.
      epoch: from `named_epoch`.
      pool_last: as in `layout.lay_out`.
    """
    plan = plan_block(corpus, config, seed=0, epoch=epoch, block=0)
    chosen = np.arange(min(rows, plan.rows))
    return make_rows(
        corpus, plan, chosen, config, special, epoch=epoch, block=0, pool_last=pool_last
    )
