"""The plan of a pretraining run: which sentences are together, which pair is true, which row.

An epoch is a keyed permutation of the documents, cut into blocks. The plan of a block is a pure
function of (corpus, config, seed, epoch, block): nothing is stored, any place can be sought.
`rows.RowStream` joins blocks and epochs.
"""

import dataclasses
import enum

import numpy as np

from bert_jax.config import PretrainDataConfig
from bert_jax.data import draws
from bert_jax.data.corpus import Corpus
from bert_jax.data.layout import PAIR_SPECIALS, truncated_lengths
from bert_jax.data.packing import pack
from bert_jax.data.ragged import exclusive_cumsum, ranges
from bert_jax.errors import UserError


class _Purpose(enum.IntEnum):
    DOCUMENT_ORDER = 0
    CHUNK = 1  # shorter length, then where A ends
    COIN = 2
    OTHER_DOCUMENT = 3
    OTHER_SENTENCE = 4
    FRONT_CUT_A = 5
    FRONT_CUT_B = 6
    ROW_ORDER = 7


@dataclasses.dataclass(frozen=True)
class BlockPlan:
    """The examples of a block in the order of their rows; all arrays are [E] unless said otherwise.

    Attributes:
      a_begin: int64, first token of A in the corpus.
      a_length: int64, its tokens, at least 1.
      b_begin: int64, the same for B.
      b_length: int64.
      is_random: bool, B is from another document.
      row_begins: [rows + 1] int64, the first example of each row.
      forced: negatives for want of a continuation.
      truncated_tokens: cut so that pairs fit.
    """

    a_begin: np.ndarray
    a_length: np.ndarray
    b_begin: np.ndarray
    b_length: np.ndarray
    is_random: np.ndarray
    row_begins: np.ndarray
    forced: int
    truncated_tokens: int

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.row_begins) - 1

    @property
    def sizes(self) -> np.ndarray:
        """[E] int64, tokens of each example, special ones included."""
        return self.a_length + self.b_length + PAIR_SPECIALS

    def describe(self, length: int) -> str:
        """Says in a line what the plan holds, for rows of `length` tokens."""
        tokens = int(self.sizes.sum())
        return (
            f"{len(self.is_random):,} pairs in {self.rows:,} rows"
            f" ({tokens / (self.rows * length):.1%} full);"
            f" {self.forced:,} are negative for want of a continuation;"
            f" {self.truncated_tokens:,} tokens cut to fit"
        )


def check_corpus(corpus: Corpus, name: str) -> None:
    """Raises UserError where negatives cannot be drawn: a negative comes from another document."""
    if corpus.documents < 2:
        raise UserError(
            f"{name} has {corpus.documents} document(s), and a negative pair needs two: add"
            " documents (a blank line separates them in a text source) or raise"
            " `prepare --heldout_rate`"
        )


def blocks_per_epoch(corpus: Corpus, config: PretrainDataConfig) -> int:
    """Returns how many blocks an epoch has."""
    return -(-corpus.documents // _documents_per_block(corpus, config))


def _documents_per_block(corpus: Corpus, config: PretrainDataConfig) -> int:
    examples_per_document = corpus.tokens / corpus.documents / config.length
    return max(1, round(config.block_examples / max(examples_per_document, 1.0)))


def plan_block(
    corpus: Corpus, config: PretrainDataConfig, *, seed: int, epoch: int, block: int
) -> BlockPlan:
    """Plans the pairs of a block and packs them.

    Documents are cut into chunks of consecutive sentences that reach the wanted length; a chunk is
    split at a random sentence into A and B. With `random_b_rate`, B is instead a run of sentences
    of another document, and the unused sentences open the next chunk (BERT, section 3.1 and
    appendix A.2). The coin is tossed only where A has a continuation in its document.

    Args:
      corpus: at least two documents.
      config: lengths and rates.
      seed: of the run.
      epoch: from 0.
      block: from 0, below `blocks_per_epoch`.
    """
    name = {"seed": seed, "epoch": epoch, "block": block}
    most = config.length - PAIR_SPECIALS
    per_block = _documents_per_block(corpus, config)
    places = np.arange(block * per_block, min((block + 1) * per_block, corpus.documents))
    documents = draws.permuted(
        places, corpus.documents, seed=seed, purpose=_Purpose.DOCUMENT_ORDER, epoch=epoch
    )
    sentences = _Sentences(corpus, documents)

    # Decide for every sentence as if a chunk began there, then keep those where one does.
    count = len(sentences.document)
    here = np.arange(count)
    short, spread = draws.halves(draws.words(count, purpose=_Purpose.CHUNK, **name))
    coin, cut = draws.halves(draws.words(count, purpose=_Purpose.COIN, **name))
    target = np.where(
        draws.chance(short, config.short_rate), 2 + draws.below(spread, most - 1), most
    )
    chunk_end = np.searchsorted(sentences.bounds, sentences.bounds[:-1] + target, side="left")
    # A chunk of one sentence takes a second where its document has one.
    chunk_end = np.minimum(np.maximum(chunk_end, here + 2), sentences.document_end)
    has_continuation = chunk_end - here > 1
    a_end = here + 1 + draws.below(cut, np.maximum(chunk_end - here - 1, 1))
    is_random = ~has_continuation | draws.chance(coin, config.random_b_rate)
    begin = _walk(np.where(is_random, a_end, chunk_end))

    a_end, is_random, target = a_end[begin], is_random[begin], target[begin]
    a_begin = sentences.token_begins[begin]
    a_length = sentences.bounds[a_end] - sentences.bounds[begin]
    # A true B follows A in its document, and so in the corpus.
    b_begin = a_begin + a_length
    b_length = sentences.bounds[chunk_end[begin]] - sentences.bounds[a_end]
    chosen = np.flatnonzero(is_random)
    own = sentences.document[begin[chosen]]
    wanted = target[chosen] - a_length[chosen]
    b_begin[chosen], b_length[chosen] = _other_segments(corpus, own, wanted, **name)

    forced = int(np.count_nonzero(~has_continuation[begin]))
    untruncated = int(a_length.sum() + b_length.sum())
    a_begin, a_length, b_begin, b_length = _truncate(
        a_begin, a_length, b_begin, b_length, most, **name
    )
    order, row_begins = _rows(a_length + b_length + PAIR_SPECIALS, config, **name)
    return BlockPlan(
        a_begin=a_begin[order],
        a_length=a_length[order],
        b_begin=b_begin[order],
        b_length=b_length[order],
        is_random=is_random[order],
        row_begins=row_begins,
        forced=forced,
        truncated_tokens=untruncated - int(a_length.sum() + b_length.sum()),
    )


class _Sentences:
    """The sentences of some documents, in the documents' order; [S] of them."""

    def __init__(self, corpus: Corpus, documents: np.ndarray) -> None:
        first, end = corpus.document_begins(documents), corpus.document_ends(documents)
        counts = end - first
        self.document = np.repeat(documents, counts)  # [S]
        self.document_end = np.repeat(np.cumsum(counts), counts)  # [S] in this list
        token_ends = corpus.sentence_ends(ranges(first, counts))
        self.token_begins = np.empty_like(token_ends)  # [S] in the corpus
        self.token_begins[1:] = token_ends[:-1]
        self.token_begins[exclusive_cumsum(counts)] = corpus.sentence_begins(first)
        lengths = token_ends - self.token_begins
        self.bounds = np.concatenate([[0], np.cumsum(lengths)])  # [S + 1] tokens of this list


def _walk(next_begin: np.ndarray) -> np.ndarray:
    """Follows `next_begin` from 0 to the end: the places where a chunk begins."""
    jumps = next_begin.data  # faster to step through than the array
    begins, here = [], 0
    while here < len(jumps):
        begins.append(here)
        here = jumps[here]
    return np.array(begins, np.int64)


def _other_segments(
    corpus: Corpus, own: np.ndarray, wanted: np.ndarray, **name: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a run of sentences from another document for each of `own`.

    The document is uniform over the others, the first sentence uniform in it; sentences are taken
    until there are `wanted` tokens or the document ends, at least one.

    Returns:
      First token and number of tokens, [n] int64 each.
    """
    document = draws.below_many(
        draws.words(len(own), purpose=_Purpose.OTHER_DOCUMENT, **name), corpus.documents - 1
    )
    document += document >= own
    first, end = corpus.document_begins(document), corpus.document_ends(document)
    sentence = first + draws.below_many(
        draws.words(len(own), purpose=_Purpose.OTHER_SENTENCE, **name), end - first
    )
    begin = corpus.sentence_begins(sentence)
    document_last_token = corpus.sentence_ends(end - 1) - 1
    last_token = np.minimum(begin + np.maximum(wanted, 1) - 1, document_last_token)
    return begin, corpus.sentence_ends(corpus.sentence_at(last_token)) - begin


def _truncate(
    a_begin: np.ndarray,
    a_length: np.ndarray,
    b_begin: np.ndarray,
    b_length: np.ndarray,
    most: int,
    **name: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cuts pairs to `most` tokens; each cut token is from the front or the back by a coin."""
    a_kept, b_kept = truncated_lengths(a_length, b_length, most)
    a_front = draws.binomial_halves(a_length - a_kept, purpose=_Purpose.FRONT_CUT_A, **name)
    b_front = draws.binomial_halves(b_length - b_kept, purpose=_Purpose.FRONT_CUT_B, **name)
    return a_begin + a_front, a_kept, b_begin + b_front, b_kept


def _rows(
    sizes: np.ndarray, config: PretrainDataConfig, **name: int
) -> tuple[np.ndarray, np.ndarray]:
    """Packs examples and shuffles the rows.

    Returns:
      The examples in the order of their rows, [E] int64, and the first of each row, [rows + 1].
    """
    row_of = pack(sizes, config.length, config.max_examples_per_row)
    rows = int(row_of.max()) + 1
    shuffled = np.argsort(draws.words(rows, purpose=_Purpose.ROW_ORDER, **name), kind="stable")
    new_place = np.empty(rows, np.int64)
    new_place[shuffled] = np.arange(rows)
    row_of = new_place[row_of]
    order = np.argsort(row_of, kind="stable")
    return order, np.searchsorted(row_of[order], np.arange(rows + 1))
