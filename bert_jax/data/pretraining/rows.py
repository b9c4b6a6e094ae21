"""The rows of one corpus: its plans written as batches, block after block, epoch after epoch."""

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bert_jax.config import MAX_PHASES, PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing.layout import RowFormat, lay_out
from bert_jax.data.packing.ragged import ranges
from bert_jax.data.pretraining.plan import BlockPlan, blocks_per_epoch, plan_block
from bert_jax.errors import UserError
from bert_jax.text.tokenizer import SpecialIds

# Bits of a row id: phase, corpus, epoch, block and row in 64 bits.
_PHASE_BITS, _CORPUS_BITS, _EPOCH_BITS, _BLOCK_BITS, _ROW_BITS = 4, 4, 16, 18, 22
assert 1 << _PHASE_BITS == MAX_PHASES
MAX_CORPORA = 1 << _CORPUS_BITS


class Position(NamedTuple):
    """Position in the rows of one corpus: that of the next row to read."""

    epoch: int
    block: int
    row: int


START = Position(0, 0, 0)


def pack_epoch(phase: int, corpus: int, epoch: int) -> int:
    """Packs phase, corpus and epoch into one integer, which draws and row ids take as their epoch.

    So every (phase, corpus) has its own random stream.

    Raises:
      UserError: if the epoch needs more bits than a row id has for it.
    """
    if epoch >> _EPOCH_BITS:
        raise UserError(
            f"epoch {epoch}: a run has at most {1 << _EPOCH_BITS} epochs: lower --config.steps, or"
            " prepare a larger corpus"
        )
    return (((phase << _CORPUS_BITS) | corpus) << _EPOCH_BITS) | epoch


def row_ids(epoch: int, block: int, rows: np.ndarray) -> np.ndarray:
    """Returns the ids of rows, unique in a run; masking and dropout draw by them.

    Args:
      epoch: from `pack_epoch`.
      block: of the epoch.
      rows: [R] int64, rows of the block.

    Returns:
      [R, 2] uint32, the high and the low half of 64 bits.

    Raises:
      UserError: if the block needs more bits than a row id has for it.
    """
    if block >> _BLOCK_BITS:
        raise UserError(
            f"block {block}: an epoch has at most {1 << _BLOCK_BITS} blocks: raise"
            " --config.data.block_examples"
        )
    ids = (((epoch << _BLOCK_BITS) | block) << _ROW_BITS) | rows.astype(np.uint64)
    return np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


def row_format(
    config: PretrainDataConfig, special: SpecialIds, *, pool_last: bool = False
) -> RowFormat:
    """Returns the format of the rows of a phase, from its config with T and N filled in."""
    length, slots, separate = config.length, config.max_examples_per_row, config.separate_examples
    return RowFormat(length, slots, special, pool_last, separate=separate)


def make_rows(
    corpus: Corpus,
    plan: BlockPlan,
    rows: np.ndarray,
    row_format: RowFormat,
    *,
    epoch: int,
    block: int,
) -> dict[str, np.ndarray]:
    """Writes planned rows as a batch, in the fields that docs/architecture.md lists.

    Args:
      corpus: the planned corpus.
      plan: of the block.
      rows: [R] int64, rows of the plan.
      row_format: of the rows; its T and N are those of the plan.
      epoch: of the plan.
      block: of the plan.

    Returns:
      `token_ids`, `example_ids`, `segment_ids`, `positions` [R, T] int32; `pool_positions` [R, N]
      int32; `labels` [R, N] int32, of the sentence objective; `weights` [R, N] float32, 0 for an
      example without a label; `row_ids` [R, 2] uint32.
    """
    examples_in_row = plan.row_begins[rows + 1] - plan.row_begins[rows]
    examples = plan.examples.take(ranges(plan.row_begins[rows], examples_in_row))
    batch, (row, slot) = lay_out(
        examples_in_row,
        np.diff(examples.part_bounds),
        corpus.token_ids(ranges(examples.part_begin, examples.part_length)),
        examples.part_length,
        examples.part_segment,
        row_format,
    )
    batch["labels"] = np.zeros((len(rows), row_format.slots), np.int32)
    batch["weights"] = np.zeros((len(rows), row_format.slots), np.float32)
    batch["labels"][row, slot] = examples.labels
    batch["weights"][row, slot] = examples.labelled
    batch["row_ids"] = row_ids(epoch, block, rows)
    return batch


class RowStream:
    """The rows of one corpus in one phase, from a start position on; row 0 is the one there.

    A block index counts the blocks of all epochs. Blocks are planned when their rows are read, and
    the next one ahead of time on a thread. Calls from several threads are safe.
    """

    _KEPT_PLANS = 3  # the last one (a batch may cross into the next), this one, the next one

    def __init__(
        self,
        corpus: Corpus,
        config: PretrainDataConfig,
        row_format: RowFormat,
        *,
        seed: int,
        phase: int = 0,
        number: int = 0,
        start: Position = START,
    ) -> None:
        """Plans nothing yet.

        Args:
          corpus: the documents.
          config: of the phase.
          row_format: of the phase.
          seed: of the run.
          phase: index of the phase.
          number: index of the corpus in the mixture.
          start: position of row 0.
        """
        self._corpus, self._config, self._format, self._seed = corpus, config, row_format, seed
        self._phase, self._number = phase, number
        self._blocks = blocks_per_epoch(corpus, config)
        self._planner = ThreadPoolExecutor(1, "plan")
        self._plans: OrderedDict[int, Future[BlockPlan]] = OrderedDict()
        self._lock = threading.Lock()
        self._first_block = start.epoch * self._blocks + start.block
        # Row of the stream at which each block begins, from the first one on; that one may have
        # begun before the start.
        self._begins = [-start.row]

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows of the stream as a batch.

        Args:
          rows: [R] int64, ascending, counted from the start.
        """
        parts = []
        while len(rows):
            block_index = self._block_index_of(int(rows[0]))
            plan = self._plan(block_index)
            epoch, block = self._drawn_block(block_index)
            here = rows - self._begins[block_index - self._first_block]
            inside = here < plan.rows
            parts.append(
                make_rows(self._corpus, plan, here[inside], self._format, epoch=epoch, block=block)
            )
            rows = rows[~inside]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def first_plan(self) -> BlockPlan:
        """Returns the plan of the block at the start."""
        return self._plan(self._first_block)

    def position(self, row: int) -> Position:
        """Returns the position of a row of the stream, at which another stream can start."""
        block_index = self._block_index_of(row)
        epoch, block = divmod(block_index, self._blocks)
        return Position(epoch, block, row - self._begins[block_index - self._first_block])

    def _drawn_block(self, block_index: int) -> tuple[int, int]:
        """Returns the packed epoch and the block that the draws and the row ids of a block have."""
        epoch, block = divmod(block_index, self._blocks)
        if self._config.static_copies:
            epoch %= self._config.static_copies
        return pack_epoch(self._phase, self._number, epoch), block

    def _block_index_of(self, row: int) -> int:
        """Finds the block of a row, planning the blocks before it if necessary."""
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

    def _plan(self, block_index: int) -> BlockPlan:
        with self._lock:
            for wanted in (block_index, block_index + 1):
                if wanted not in self._plans:
                    self._plans[wanted] = self._planner.submit(self._make_plan, wanted)
                self._plans.move_to_end(wanted)
            while len(self._plans) > self._KEPT_PLANS:
                self._plans.popitem(last=False)
            plan = self._plans[block_index]
        return plan.result()

    def _make_plan(self, block_index: int) -> BlockPlan:
        epoch, block = self._drawn_block(block_index)
        plan = plan_block(
            self._corpus,
            self._config,
            seed=self._seed,
            epoch=epoch,
            block=block,
            separators=self._format.special.separators,
        )
        if plan.rows > 1 << _ROW_BITS:
            raise UserError(
                f"--config.data.block_examples={self._config.block_examples} gives {plan.rows} rows"
                f" in a block, more than {1 << _ROW_BITS}: lower it"
            )
        return plan


def held_out_rows(
    corpus: Corpus,
    config: PretrainDataConfig,
    row_format: RowFormat,
    rows: int,
    *,
    epoch: int = 0,
) -> dict[str, np.ndarray]:
    """Returns the first rows of a fixed plan of a held-out split, as a batch.

    Args:
      corpus: the held-out split.
      config: of a phase.
      row_format: of the phase.
      rows: number of rows; fewer where the first block has fewer.
      epoch: from `pack_epoch`.
    """
    separators = row_format.special.separators
    plan = plan_block(corpus, config, seed=0, epoch=epoch, block=0, separators=separators)
    chosen = np.arange(min(rows, plan.rows))
    return make_rows(corpus, plan, chosen, row_format, epoch=epoch, block=0)
