"""Cuts documents into pretraining examples: sentence pairs, or runs of sentences, with labels.

`pair_examples` makes the formats of BERT and ALBERT, `run_examples` those of RoBERTa
(`config.ExampleFormat`); `plan.plan_block` calls the one that the config names. Both are vectorised
over all sentences of the documents, and pure functions of their arguments.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from bert_jax.config import ExampleFormat, PretrainDataConfig, SentenceObjective
from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from bert_jax.data.packing.layout import SINGLE_SPECIALS, truncated_lengths
from bert_jax.data.packing.ragged import exclusive_cumsum, ranges


@dataclasses.dataclass(frozen=True)
class Examples:
    """E examples of one or more parts each, P in all: [CLS] part [SEP] part [SEP] ...

    A part is a run of consecutive tokens of the corpus. Before a part of segment 1 there may be
    more than one separator.

    Attributes:
      part_bounds: [E + 1] int64; example e has the parts part_bounds[e] to part_bounds[e + 1].
      part_begin: [P] int64, first token of each part in the corpus.
      part_length: [P] int64, tokens of each part, at least 1.
      part_segment: [P] int32, segment id of each part, 0 or 1.
      labels: [E] int32, label of the sentence objective: 1 where B is random (NSP) or A and B are
        swapped (SOP).
      labelled: [E] bool, False where an example has no label.
      forced: number of pairs whose B is random because A has no continuation.
      truncated_tokens: number of tokens cut so that examples fit.
      separators: before a part of segment 1.
    """

    part_bounds: np.ndarray
    part_begin: np.ndarray
    part_length: np.ndarray
    part_segment: np.ndarray
    labels: np.ndarray
    labelled: np.ndarray
    forced: int
    truncated_tokens: int
    separators: int = 1

    def __len__(self) -> int:
        """Number of examples, E."""
        return len(self.labels)

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each example, special ones included: [E] int64."""
        before = (self.separators - 1) * (self.part_segment > 0)
        ends = _bounds(before + self.part_length + 1)  # each with its [SEP]
        return 1 + np.diff(ends[self.part_bounds])

    def take(self, order: np.ndarray) -> "Examples":
        """Selects examples by their indices: `order` is [n] int64."""
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
    """The S sentences of some documents, in the order of the documents.

    Attributes:
      document: [S] int64, the document of each sentence.
      document_end: [S] int64, index of the first sentence after that document.
      token_begins: [S] int64, first token of each sentence in the corpus.
      bounds: [S + 1] int64, number of tokens in the sentences before each one.
    """

    def __init__(self, corpus: Corpus, documents: np.ndarray, *, longest: int = 0) -> None:
        """Looks up the sentences.

        Args:
          corpus: the documents.
          documents: [n] int64, indices of documents.
          longest: sentences with more tokens are split into several; 0 splits none.
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
    corpus: Corpus,
    documents: np.ndarray,
    config: PretrainDataConfig,
    key: DrawKey,
    separators: int = 1,
) -> Examples:
    """Makes pairs of A and B (BERT, section 3.1 and appendix A.2).

    1. Documents are cut into chunks of consecutive sentences that reach a target length
       (`sentence_pair`: into chunks of two sentences).
    2. Each chunk is split between two of its sentences into A and B.
    3. With probability `random_b_rate` B is replaced by a run of sentences of another document; the
       sentences that B would have had begin the next chunk.
    4. Pairs that are too long are truncated.

    A chunk that is a document's last single sentence has no B: B is then random, or absent if
    `random_b_rate` is 0 (and the example has no label).

    Args:
      corpus: at least two documents, unless the rate is 0.
      documents: [n] int64, in reading order.
      config: lengths, rates and the objective.
      key: of the draws.
      separators: special tokens between A and B.
    """
    most = config.length - SINGLE_SPECIALS - separators
    chunks = _chunks(corpus, documents, config, key, most)
    is_random = chunks.is_random
    a_begin, a_length = chunks.begin, chunks.a_length
    # A true B follows A in its document, and so in the corpus.
    b_begin, b_length = a_begin + a_length, chunks.length - a_length
    chosen = np.flatnonzero(is_random)
    b_begin[chosen], b_length[chosen] = _other_segments(
        corpus, chunks.document[chosen], chunks.target[chosen] - a_length[chosen], key
    )
    untruncated = int(a_length.sum() + b_length.sum())
    a_begin, a_length, b_begin, b_length = _truncate(
        a_begin, a_length, b_begin, b_length, most, key
    )

    labels, labelled = is_random, np.full(len(is_random), config.random_b_rate > 0)
    if config.objective is SentenceObjective.SOP:
        swap, _ = draws.split_u32(draws.random_bits(len(labels), key, Purpose.SWAP))
        labelled = chunks.has_continuation
        labels = labelled & draws.bernoulli(swap, 0.5)
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
        separators=separators,
    )


class _Chunks(NamedTuple):
    """C chunks of consecutive sentences, each split into A and the rest.

    Attributes:
      document: [C] int64, document of each chunk.
      begin: [C] int64, its first token in the corpus.
      length: [C] int64, its tokens.
      a_length: [C] int64, the tokens of A among them.
      target: [C] int64, the length in tokens that it should reach.
      has_continuation: [C] bool, True where A does not take the whole chunk.
      is_random: [C] bool, True where B is from another document, so that the sentences after A
        begin the next chunk.
    """

    document: np.ndarray
    begin: np.ndarray
    length: np.ndarray
    a_length: np.ndarray
    target: np.ndarray
    has_continuation: np.ndarray
    is_random: np.ndarray


_SENTENCES_AT_ONCE = 1 << 17  # so that their arrays stay in the processor's cache


def _chunks(
    corpus: Corpus, documents: np.ndarray, config: PretrainDataConfig, key: DrawKey, most: int
) -> _Chunks:
    """Cuts documents into chunks, a portion of the documents at a time."""
    counts = corpus.document_ends(documents) - corpus.document_begins(documents)
    ends = np.cumsum(counts)
    new_portion = np.flatnonzero(np.diff((ends - 1) // _SENTENCES_AT_ONCE)) + 1
    firsts = np.append(0, ends[new_portion - 1])
    portions = [
        _chunks_of_portion(corpus, portion, config, key, most, int(first))
        for portion, first in zip(np.split(documents, new_portion), firsts, strict=True)
    ]
    return _Chunks(*map(np.concatenate, zip(*portions, strict=True)))


def _chunks_of_portion(
    corpus: Corpus,
    documents: np.ndarray,
    config: PretrainDataConfig,
    key: DrawKey,
    most: int,
    first: int,
) -> _Chunks:
    """Plans a chunk from every sentence, then keeps the chunks reached by following `next_begin`.

    Args:
      corpus: the documents.
      documents: [n] int64, at least one.
      config: of the pairs.
      key: of the draws.
      most: tokens of A and B together.
      first: number of sentences in the portions before; the draws are per sentence.
    """
    sentences = Sentences(corpus, documents)
    here = np.arange(len(sentences.document))
    target = _target_lengths(len(here), config, key, most, first)
    coin, cut = draws.split_u32(draws.random_bits(len(here), key, Purpose.COIN, first=first))
    end = np.searchsorted(sentences.bounds, sentences.bounds[:-1] + target, side="left")
    # A chunk of one sentence takes a second where its document has one.
    end = np.minimum(np.maximum(end, here + 2), sentences.document_end)
    has_continuation = end - here > 1
    a_end = here + 1 + draws.randint(cut, np.maximum(end - here - 1, 1))
    is_random = draws.bernoulli(coin, config.random_b_rate)
    if config.random_b_rate > 0:
        is_random |= ~has_continuation
    next_begin = np.where(is_random, a_end, end)
    begin = _chunk_starts(next_begin)
    return _Chunks(
        document=sentences.document[begin],
        begin=sentences.token_begins[begin],
        length=sentences.bounds[end[begin]] - sentences.bounds[begin],
        a_length=sentences.bounds[a_end[begin]] - sentences.bounds[begin],
        target=target[begin],
        has_continuation=has_continuation[begin],
        is_random=is_random[begin],
    )


def _target_lengths(
    count: int, config: PretrainDataConfig, key: DrawKey, most: int, first: int
) -> np.ndarray:
    """Draws the target length of a chunk for each sentence that it may begin at: [count] int64."""
    if config.format is ExampleFormat.SENTENCE_PAIR:
        return np.ones(count, np.int64)  # reached by any two sentences
    short, spread = draws.split_u32(draws.random_bits(count, key, Purpose.CHUNK, first=first))
    is_short = draws.bernoulli(short, config.short_rate)
    return np.where(is_short, 2 + draws.randint(spread, most - 1), most)


def run_examples(corpus: Corpus, documents: np.ndarray, config: PretrainDataConfig) -> Examples:
    """Makes runs of consecutive sentences that fill a row (RoBERTa, section 4.2).

    With `full_sentences` a run continues in the next document, after a [SEP]; with `doc_sentences`
    it ends with its document. Nothing is truncated: a sentence longer than a row is split.

    Args:
      corpus: at least one document.
      documents: [n] int64, in reading order.
      config: the length and the format.
    """
    most = config.length - SINGLE_SPECIALS
    sentences = Sentences(corpus, documents, longest=most)
    count = len(sentences.document)
    bounds = sentences.bounds
    opens = np.diff(sentences.document_end, prepend=0) > 0  # is it the first of its document
    # Cumulative length: the tokens to the end of each sentence, and a [SEP] for each document.
    cumulative = bounds[1:] + np.cumsum(opens)
    end = np.searchsorted(cumulative, most + bounds[:-1] + np.cumsum(opens), side="right")
    if config.format is ExampleFormat.DOC_SENTENCES:
        end = np.minimum(end, sentences.document_end)
    begin = _chunk_starts(end)
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


def _chunk_starts(next_begin: np.ndarray) -> np.ndarray:
    """Follows `next_begin` from index 0 until it leaves the array; returns the indices visited."""
    jumps = next_begin.data  # reading items of a memoryview is faster than of an array
    begins, here = [], 0
    while here < len(jumps):
        begins.append(here)
        here = jumps[here]
    return np.array(begins, np.int64)


def _other_segments(
    corpus: Corpus, own: np.ndarray, target: np.ndarray, key: DrawKey
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a run of sentences from another document for each chunk.

    The document is uniform over the others, the first sentence uniform in it. The run has at least
    one sentence, and as many as reach the target or the end of the document.

    Args:
      corpus: the documents.
      own: [n] int64, document of each chunk.
      target: [n] int64, tokens that each run should reach.
      key: of the draws.

    Returns:
      First token and number of tokens of each run, [n] int64 each.
    """
    document = draws.randint_large(
        draws.random_bits(len(own), key, Purpose.OTHER_DOCUMENT), corpus.documents - 1
    )
    document += document >= own
    first, end = corpus.document_begins(document), corpus.document_ends(document)
    sentence = first + draws.randint_large(
        draws.random_bits(len(own), key, Purpose.OTHER_SENTENCE), end - first
    )
    begin = corpus.sentence_begins(sentence)
    document_last_token = corpus.sentence_ends(end - 1) - 1
    last_token = np.minimum(begin + np.maximum(target, 1) - 1, document_last_token)
    return begin, corpus.sentence_ends(corpus.sentence_at(last_token)) - begin


def _truncate(
    a_begin: np.ndarray,
    a_length: np.ndarray,
    b_begin: np.ndarray,
    b_length: np.ndarray,
    most: int,
    key: DrawKey,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truncates pairs to `most` tokens; a coin decides for each token: from the front or back."""
    a_kept, b_kept = truncated_lengths(a_length, b_length, most)
    a_front = draws.count_heads(a_length - a_kept, key, Purpose.FRONT_CUT_A)
    b_front = draws.count_heads(b_length - b_kept, key, Purpose.FRONT_CUT_B)
    return a_begin + a_front, a_kept, b_begin + b_front, b_kept


def _bounds(lengths: np.ndarray) -> np.ndarray:
    """Begins of runs laid end to end, and the end of the last: [n] int to [n + 1] int64."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _swapped(swap: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(swap, b, a), np.where(swap, a, b)
