"""The examples of some documents: which runs of tokens are together, and what their label is.

One function for each family of formats (`config.ExampleFormat`); `pretraining.plan_block` calls the
one that the config names. All of them are vectorised, pure functions of their draws' names.
"""

import dataclasses
import enum
from typing import NamedTuple

import numpy as np

from bert_jax.config import ExampleFormat, PretrainDataConfig, SentenceObjective
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing import draws
from bert_jax.data.packing.layout import PAIR_SPECIALS, SINGLE_SPECIALS, truncated_lengths
from bert_jax.data.packing.ragged import exclusive_cumsum, ranges


class Purpose(enum.IntEnum):
    """What a plan draws; each has a stream of its own."""

    DOCUMENT_ORDER = 0
    CHUNK = 1  # shorter length, then where A ends
    COIN = 2
    OTHER_DOCUMENT = 3
    OTHER_SENTENCE = 4
    FRONT_CUT_A = 5
    FRONT_CUT_B = 6
    ROW_ORDER = 7
    SWAP = 8
    MIXTURE = 9


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples as runs of consecutive tokens: [CLS] part [SEP] part [SEP] ...

    Attributes:
      part_bounds: [E + 1] int64, the first part of each example; each has one at least.
      part_begin: [P] int64, first token of each part in the corpus, example after example.
      part_length: [P] int64, its tokens, at least 1.
      part_segment: [P] int32, BERT's segment: 0 or 1.
      labels: [E] int32, the sentence objective's: 1 where B is random (NSP) or the two are
        swapped (SOP).
      labelled: [E] bool, whether the example has a label.
      forced: negatives for want of a continuation.
      truncated_tokens: cut so that examples fit.
    """

    part_bounds: np.ndarray
    part_begin: np.ndarray
    part_length: np.ndarray
    part_segment: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray
    forced: int
    truncated_tokens: int

    def __len__(self) -> int:
        """How many examples."""
        return len(self.labels)

    @property
    def sizes(self) -> np.ndarray:
        """[E] int64, tokens of each example, special ones included."""
        ends = _bounds(self.part_length + 1)  # each with its [SEP]
        return 1 + np.diff(ends[self.part_bounds])

    def take(self, order: np.ndarray) -> "Examples":
        """Returns these examples: [n] int64."""
        first = self.part_bounds[order]
        parts = self.part_bounds[order + 1] - first
        chosen = ranges(first, parts)
        return dataclasses.replace(
            self,
            part_bounds=_bounds(parts),
            part_begin=self.part_begin[chosen],
            part_length=self.part_length[chosen],
            part_segment=self.part_segment[chosen],
            labels=self.labels[order],
            labelled=self.labelled[order],
        )


class Sentences:
    """The sentences of some documents, in the documents' order; S of them.

    Attributes:
      document: [S] int64, the document of each.
      document_end: [S] int64, the place in this list where its document ends.
      token_begins: [S] int64, its first token in the corpus.
      bounds: [S + 1] int64, tokens of this list before each.
    """

    def __init__(self, corpus: Corpus, documents: np.ndarray, *, longest: int = 0) -> None:
        """Looks the sentences up.

        Args:
          corpus: that they are of.
          documents: [n] int64.
          longest: longer sentences become several of at most this many tokens; 0: none do.
        """
        first, end = corpus.document_begins(documents), corpus.document_ends(documents)
        counts = end - first
        token_ends = corpus.sentence_ends(ranges(first, counts))
        begins = np.empty_like(token_ends)
        begins[1:] = token_ends[:-1]
        begins[exclusive_cumsum(counts)] = corpus.sentence_begins(first)
        lengths = token_ends - begins
        if longest:
            pieces = -(-lengths // longest)
            offsets = longest * ranges(np.zeros_like(pieces), pieces)
            counts = np.diff(_bounds(pieces)[_bounds(counts)])
            lengths = np.minimum(np.repeat(lengths, pieces) - offsets, longest)
            begins = np.repeat(begins, pieces) + offsets
        self.document = np.repeat(documents, counts)
        self.document_end = np.repeat(np.cumsum(counts), counts)
        self.token_begins = begins
        self.bounds = _bounds(lengths)


def pair_examples(
    corpus: Corpus, documents: np.ndarray, config: PretrainDataConfig, **name: int
) -> Examples:
    """Pairs of A and B (BERT, section 3.1 and appendix A.2).

    Documents are cut into chunks of consecutive sentences that reach the wanted length
    (`sentence_pair`: of two sentences); a chunk is split at a random sentence into A and B. With
    `random_b_rate`, B is instead a run of sentences of another document, and the unused sentences
    open the next chunk. The coin is tossed only where A has a continuation in its document. Where
    it has none, B is random too; at rate 0 there is no B and no label.

    Args:
      corpus: at least two documents, unless the rate is 0.
      documents: [n] int64, in the order in which they are read.
      config: lengths, rates and the objective.
      name: seed, epoch and block of the draws.
    """
    chunks = _chunks(corpus, documents, config, **name)
    is_random = chunks.is_random
    a_begin, a_length = chunks.begin, chunks.a_length
    # A true B follows A in its document, and so in the corpus.
    b_begin, b_length = a_begin + a_length, chunks.length - a_length
    chosen = np.flatnonzero(is_random)
    b_begin[chosen], b_length[chosen] = _other_segments(
        corpus, chunks.document[chosen], chunks.wanted[chosen] - a_length[chosen], **name
    )
    untruncated = int(a_length.sum() + b_length.sum())
    a_begin, a_length, b_begin, b_length = _truncate(
        a_begin, a_length, b_begin, b_length, config.length - PAIR_SPECIALS, **name
    )

    labels, labelled = is_random, np.full(len(is_random), config.random_b_rate > 0)
    if config.objective is SentenceObjective.SOP:
        swap, _ = draws.halves(draws.words(len(labels), purpose=Purpose.SWAP, **name))
        labelled = chunks.has_continuation
        labels = labelled & draws.chance(swap, 0.5)
        a_begin, b_begin = _swapped(labels, a_begin, b_begin)
        a_length, b_length = _swapped(labels, a_length, b_length)
    if config.objective is SentenceObjective.NONE:
        labels, labelled = np.zeros_like(labels), np.zeros_like(labelled)
    has_b = np.stack([a_length > 0, b_length > 0], axis=1)
    return Examples(
        part_bounds=_bounds(has_b.sum(axis=1)),
        part_begin=np.stack([a_begin, b_begin], axis=1)[has_b],
        part_length=np.stack([a_length, b_length], axis=1)[has_b],
        part_segment=np.broadcast_to(np.arange(2, dtype=np.int32), has_b.shape)[has_b],
        labels=labels.astype(np.int32),
        labelled=labelled,
        forced=int(np.count_nonzero(is_random & ~chunks.has_continuation)),
        truncated_tokens=untruncated - int(a_length.sum() + b_length.sum()),
    )


class _Chunks(NamedTuple):
    """Chunks of consecutive sentences, each split into A and the rest; C of them.

    Attributes:
      document: [C] int64, that each is from.
      begin: [C] int64, its first token in the corpus.
      length: [C] int64, its tokens.
      a_length: [C] int64, of those, A's.
      wanted: [C] int64, the tokens it should reach.
      has_continuation: [C] bool, whether anything is left for B.
      is_random: [C] bool, whether B is from elsewhere, so that the rest opens the next chunk.
    """

    document: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    a_length: np.ndarray
    wanted: np.ndarray
    has_continuation: np.ndarray
    is_random: np.ndarray


_SENTENCES_AT_ONCE = 1 << 17  # their arrays stay in a processor's cache


def _chunks(
    corpus: Corpus, documents: np.ndarray, config: PretrainDataConfig, **name: int
) -> _Chunks:
    """Cuts documents into chunks, some documents at a time, for none depends on another."""
    counts = corpus.document_ends(documents) - corpus.document_begins(documents)
    ends = np.cumsum(counts)
    new_portion = np.flatnonzero(np.diff((ends - 1) // _SENTENCES_AT_ONCE)) + 1
    firsts = np.append(0, ends[new_portion - 1])
    portions = [
        _chunks_of_portion(corpus, portion, config, first=int(first), **name)
        for portion, first in zip(np.split(documents, new_portion), firsts, strict=True)
    ]
    return _Chunks(*map(np.concatenate, zip(*portions, strict=True)))


def _chunks_of_portion(
    corpus: Corpus, documents: np.ndarray, config: PretrainDataConfig, **name: int
) -> _Chunks:
    """Decides for every sentence as if a chunk began there, then keeps those where one does.

    Args:
      corpus: that the documents are of.
      documents: [n] int64, one at least.
      config: of the pairs.
      name: as in `draws.words`; `first` is the number of sentences in the portions before.
    """
    sentences = Sentences(corpus, documents)
    here = np.arange(len(sentences.document))
    wanted = _wanted_tokens(len(here), config, **name)
    coin, cut = draws.halves(draws.words(len(here), purpose=Purpose.COIN, **name))
    end = np.searchsorted(sentences.bounds, sentences.bounds[:-1] + wanted, side="left")
    # A chunk of one sentence takes a second where its document has one.
    end = np.minimum(np.maximum(end, here + 2), sentences.document_end)
    has_continuation = end - here > 1
    a_end = here + 1 + draws.below(cut, np.maximum(end - here - 1, 1))
    is_random = draws.chance(coin, config.random_b_rate)
    if config.random_b_rate > 0:
        is_random |= ~has_continuation
    begin = _walk(np.where(is_random, a_end, end))
    return _Chunks(
        document=sentences.document[begin],
        begin=sentences.token_begins[begin],
        length=sentences.bounds[end[begin]] - sentences.bounds[begin],
        a_length=sentences.bounds[a_end[begin]] - sentences.bounds[begin],
        wanted=wanted[begin],
        has_continuation=has_continuation[begin],
        is_random=is_random[begin],
    )


def run_examples(
    corpus: Corpus, documents: np.ndarray, config: PretrainDataConfig, **name: int
) -> Examples:
    """Consecutive sentences until a row is full (RoBERTa, section 4.2); nothing is cut.

    With `full_sentences` a run goes on in the next document, after a [SEP]. A sentence longer than
    a row becomes several.

    Args:
      corpus: at least one document.
      documents: [n] int64, in the order in which they are read.
      config: the length and the format.
      name: of the draws; there are none.
    """
    del name
    most = config.length - SINGLE_SPECIALS
    sentences = Sentences(corpus, documents, longest=most)
    count = len(sentences.document)
    bounds = sentences.bounds
    opens = np.diff(sentences.document_end, prepend=0) > 0  # the first sentence of a document
    # What a run that ends here costs: its tokens, and a [SEP] for each document after its first.
    cost = bounds[1:] + np.cumsum(opens)
    end = np.searchsorted(cost, most + bounds[:-1] + np.cumsum(opens), side="right")
    if config.format is ExampleFormat.DOC_SENTENCES:
        end = np.minimum(end, sentences.document_end)
    begin = _walk(end)
    begins_part = opens
    begins_part[begin] = True
    part_first = np.flatnonzero(begins_part)
    part_end = np.append(part_first[1:], count)
    return Examples(
        part_bounds=np.searchsorted(part_first, np.append(begin, count)),
        part_begin=sentences.token_begins[part_first],
        part_length=bounds[part_end] - bounds[part_first],
        part_segment=np.zeros(len(part_first), np.int32),
        labels=np.zeros(len(begin), np.int32),
        labelled=np.zeros(len(begin), bool),
        forced=0,
        truncated_tokens=0,
    )


def _wanted_tokens(count: int, config: PretrainDataConfig, **name: int) -> np.ndarray:
    """Draws how many tokens a chunk that begins at each sentence should reach: [count] int64."""
    if config.format is ExampleFormat.SENTENCE_PAIR:
        return np.ones(count, np.int64)  # any two sentences do
    most = config.length - PAIR_SPECIALS
    short, spread = draws.halves(draws.words(count, purpose=Purpose.CHUNK, **name))
    is_short = draws.chance(short, config.short_rate)
    return np.where(is_short, 2 + draws.below(spread, most - 1), most)


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
        draws.words(len(own), purpose=Purpose.OTHER_DOCUMENT, **name), corpus.documents - 1
    )
    document += document >= own
    first, end = corpus.document_begins(document), corpus.document_ends(document)
    sentence = first + draws.below_many(
        draws.words(len(own), purpose=Purpose.OTHER_SENTENCE, **name), end - first
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
    a_front = draws.binomial_halves(a_length - a_kept, purpose=Purpose.FRONT_CUT_A, **name)
    b_front = draws.binomial_halves(b_length - b_kept, purpose=Purpose.FRONT_CUT_B, **name)
    return a_begin + a_front, a_kept, b_begin + b_front, b_kept


def _bounds(lengths: np.ndarray) -> np.ndarray:
    """Where runs laid end to end begin, and where the last ends: [n] int to [n + 1] int64."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _swapped(swap: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(swap, b, a), np.where(swap, a, b)
