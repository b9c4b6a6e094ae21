"""The rows of a run: planned examples written as batches, block after block, epoch after epoch."""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus import Corpus
from bert_jax.data.layout import lay_out
from bert_jax.data.pretraining import BlockPlan, blocks_per_epoch, plan_block
from bert_jax.data.ragged import ranges
from bert_jax.errors import UserError
from bert_jax.tokenizer import SpecialIds

# A row's name: epoch, block and row in 64 bits. The top four are free.
_EPOCH_BITS, _BLOCK_BITS, _ROW_BITS = 20, 18, 22


class Cursor(NamedTuple):
    """A place in the row stream: the next row to be seen."""

    epoch: int
    block: int
    row: int


START = Cursor(0, 0, 0)


def row_names(epoch: int, block: int, rows: np.ndarray) -> np.ndarray:
    """Returns the names of rows: [R] int64 to [R, 2] uint32, unique in a run."""
    if epoch >> _EPOCH_BITS or block >> _BLOCK_BITS:
        raise UserError(
            f"epoch {epoch}, block {block} is beyond what a row's name holds:"
            " raise --config.data.block_examples or lower --config.steps"
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

    Returns:
      `token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] int32; `pool_positions`,
      `labels` [R, N] int32 (label 0: B follows A; 1: B is random); `weights` [R, N] float32;
      `row_ids` [R, 2] uint32.
    """
    slots = config.max_examples_per_row
    held = plan.row_begins[rows + 1] - plan.row_begins[rows]
    examples = ranges(plan.row_begins[rows], held)
    a_lengths, b_lengths = plan.a_length[examples], plan.b_length[examples]
    batch, (row, slot) = lay_out(
        held,
        (corpus.token_ids(ranges(plan.a_begin[examples], a_lengths)), a_lengths),
        (corpus.token_ids(ranges(plan.b_begin[examples], b_lengths)), b_lengths),
        length=config.length,
        slots=slots,
        special=special,
    )
    batch["labels"] = np.zeros((len(rows), slots), np.int32)
    batch["weights"] = np.zeros((len(rows), slots), np.float32)
    batch["labels"][row, slot] = plan.is_random[examples]
    batch["weights"][row, slot] = 1
    batch["row_ids"] = row_names(epoch, block, rows)
    return batch


class RowStream:
    """The rows of a run, from a cursor on: row 0 is the one at the cursor.

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
        start: Cursor = START,
    ) -> None:
        """Starts at a cursor; nothing is planned yet."""
        self._corpus, self._config, self._special, self._seed = corpus, config, special, seed
        self._blocks = blocks_per_epoch(corpus, config)
        self._planner = ThreadPoolExecutor(1, "plan")
        self._plans: OrderedDict[int, Future[BlockPlan]] = OrderedDict()
        self._lock = threading.Lock()
        self._first_block = start.epoch * self._blocks + start.block
        # Stream row at which each visited block begins; the first one began before the cursor.
        self._begins = [-start.row]

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows of the stream as a batch.

        Args:
          rows: [R] int64, ascending, counted from the cursor.
        """
        parts = []
        while len(rows):
            turn = self._turn_of(int(rows[0]))
            epoch, block, plan = *self._name(turn), self._plan(turn)
            here = rows - self._begins[turn - self._first_block]
            inside = here < plan.rows
            parts.append(
                make_rows(
                    self._corpus,
                    plan,
                    here[inside],
                    self._config,
                    self._special,
                    epoch=epoch,
                    block=block,
                )
            )
            rows = rows[~inside]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def first_plan(self) -> BlockPlan:
        """Returns the plan of the block that the cursor is in, for its counts."""
        return self._plan(self._first_block)

    def cursor(self, row: int) -> Cursor:
        """Returns the place of a row of the stream, to start another stream from."""
        turn = self._turn_of(row)
        return Cursor(*self._name(turn), row - self._begins[turn - self._first_block])

    def _name(self, turn: int) -> tuple[int, int]:
        return divmod(turn, self._blocks)

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
        epoch, block = self._name(turn)
        plan = plan_block(self._corpus, self._config, seed=self._seed, epoch=epoch, block=block)
        if plan.rows > 1 << _ROW_BITS:
            raise UserError(
                f"--config.data.block_examples={self._config.block_examples} gives {plan.rows} rows"
                f" in a block, more than {1 << _ROW_BITS}: lower it"
            )
        return plan


def held_out_rows(
    corpus: Corpus, config: PretrainDataConfig, special: SpecialIds, rows: int
) -> dict[str, np.ndarray]:
    """Returns the first rows of a fixed plan of the held-out split, as a batch.

    Args:
      corpus: the held-out split.
      config: of the run.
      special: ids of the tokenizer.
      rows: how many; fewer where the first block has fewer.
    """
    plan = plan_block(corpus, config, seed=0, epoch=0, block=0)
    chosen = np.arange(min(rows, plan.rows))
    return make_rows(corpus, plan, chosen, config, special, epoch=0, block=0)
