"""Plans blocks of pretraining data: their examples, and the row of each.

An epoch is a keyed permutation of the documents, cut into blocks. The plan of a block is a pure
function of (corpus, config, seed, epoch, block): nothing is stored, and a run can start at any row.
`rows.RowStream` concatenates blocks and epochs.
"""

import dataclasses

import numpy as np

from bert_jax.config import PAIR_FORMATS, ExampleFormat, PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from bert_jax.data.packing.packing import pack
from bert_jax.data.pretraining.examples import Examples, pair_examples, run_examples
from bert_jax.errors import UserError

REMEDY_SHARE = 0.1  # of all tokens: a message names the remedy if more are truncated
TRUNCATION_REMEDY = (
    "if a line of the text has several sentences, prepare it with --layout=paragraphs;"
    " longer rows cut less, and --config.data.format=full_sentences cuts nothing"
)


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """Plan of a block: its examples, in the order of their rows.

    Attributes:
      examples: E examples.
      row_begins: [rows + 1] int64; row r has the examples row_begins[r] to row_begins[r + 1].
    """

    examples: Examples
    row_begins: np.ndarray

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.row_begins) - 1

    def fill(self, length: int) -> float:
        """Returns the share of the rows, of `length` tokens each, that is not padding."""
        return int(self.examples.sizes.sum()) / (self.rows * length)

    @property
    def truncated_share(self) -> float:
        """The share of the tokens of all examples that was truncated."""
        cut = self.examples.truncated_tokens
        return cut / (cut + int(self.examples.part_length.sum()))

    def describe(self, length: int) -> str:
        """Describes the plan in one line, for rows of `length` tokens."""
        examples = self.examples
        message = f"{len(examples):,} examples in {self.rows:,} rows, {self.fill(length):.1%} full"
        if examples.forced:
            message += f"; {examples.forced:,} negatives because A had no continuation"
        if examples.truncated_tokens:
            share = self.truncated_share
            message += f"; {examples.truncated_tokens:,} tokens ({share:.1%} of all) cut to fit"
            if share > REMEDY_SHARE:
                message += f": {TRUNCATION_REMEDY}"
        return message


def check_corpus(corpus: Corpus, config: PretrainDataConfig, name: str) -> None:
    """Raises UserError if a corpus has too few documents for the examples of the config."""
    if corpus.documents == 0:
        raise UserError(
            f"{name} has no documents: raise `prepare --heldout_rate`, or add documents"
        )
    random_b = config.format in PAIR_FORMATS and config.random_b_rate > 0
    if random_b and corpus.documents < 2:
        raise UserError(
            f"{name} has {corpus.documents} document(s), but a negative pair needs two: add"
            " documents (in a text file, blank lines separate them), or raise"
            " `prepare --heldout_rate`"
        )


def blocks_per_epoch(corpus: Corpus, config: PretrainDataConfig) -> int:
    """Returns the number of blocks in an epoch."""
    return -(-corpus.documents // _documents_per_block(corpus, config))


def _documents_per_block(corpus: Corpus, config: PretrainDataConfig) -> int:
    if config.format is ExampleFormat.SENTENCE_PAIR:
        examples_per_document = corpus.sentences / corpus.documents
    else:
        examples_per_document = corpus.tokens / corpus.documents / config.length
    return max(1, round(config.block_examples / max(examples_per_document, 1.0)))


def plan_block(
    corpus: Corpus,
    config: PretrainDataConfig,
    *,
    seed: int,
    epoch: int,
    block: int,
    separators: int = 1,
) -> BlockPlan:
    """Plans the examples of a block and packs them.

    Args:
      corpus: one that `check_corpus` accepts.
      config: the format, lengths and rates.
      seed: of the run.
      epoch: from 0.
      block: from 0, below `blocks_per_epoch`.
      separators: special tokens between the texts of a pair.
    """
    key = DrawKey(seed, epoch, block)
    per_block = _documents_per_block(corpus, config)
    index = np.arange(block * per_block, min((block + 1) * per_block, corpus.documents))
    documents = draws.permuted(index, corpus.documents, key, Purpose.DOCUMENT_ORDER)
    if config.format in PAIR_FORMATS:
        examples = pair_examples(corpus, documents, config, key, separators)
    else:
        examples = run_examples(corpus, documents, config)
    order, row_begins = _pack_and_shuffle(examples.sizes, config, key)
    return BlockPlan(examples.take(order), row_begins)


def _pack_and_shuffle(
    sizes: np.ndarray, config: PretrainDataConfig, key: DrawKey
) -> tuple[np.ndarray, np.ndarray]:
    """Packs examples into rows and shuffles the rows.

    Returns:
      The examples in the order of their rows, [E] int64, and the first of each row, [rows + 1].
    """
    row_of = pack(sizes, config.length, config.max_examples_per_row)
    rows = int(row_of.max()) + 1
    shuffled = np.argsort(draws.random_bits(rows, key, Purpose.ROW_ORDER), kind="stable")
    new_row = np.empty(rows, np.int64)
    new_row[shuffled] = np.arange(rows)
    row_of = new_row[row_of]
    order = np.argsort(row_of, kind="stable")
    return order, np.searchsorted(row_of[order], np.arange(rows + 1))
