"""Describes a corpus: lengths, packing, tokenizer quality, and a few sample rows."""

import dataclasses
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus, open_corpus, read_manifest
from bert_jax.data.pretraining.phases import with_length
from bert_jax.data.pretraining.plan import REMEDY_SHARE, TRUNCATION_REMEDY, plan_block
from bert_jax.data.pretraining.rows import held_out_rows, row_format
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

ROW_LENGTHS = (128, 512)  # T of BERT's two phases
_EXAMPLE_ROWS = 3
_EXAMPLE_LENGTH = 128
_CHUNK = 1 << 18  # documents measured at a time
_BLOCK_EXAMPLES = 1 << 17  # in the plan; enough to estimate shares
_UNKNOWN_SENTENCES = 1 << 18  # in which `prepare` counts [UNK], at most
_UNKNOWN_TOKENS = 1 << 26  # held-out tokens that are searched for [UNK], at most


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Histogram of lengths.

    Attributes:
      values: [n] int64, ascending.
      counts: [n] int64, at least 1.
    """

    values: np.ndarray
    counts: np.ndarray

    def quantile(self, share: float) -> int:
        """Returns the quantile: the smallest length that is not exceeded by this share of all."""
        ends = np.cumsum(self.counts)
        return int(self.values[np.searchsorted(ends, share * ends[-1])])

    @property
    def mean(self) -> float:
        """The mean length."""
        return float((self.values * self.counts).sum() / self.counts.sum())


@dataclasses.dataclass(frozen=True)
class LengthReport:
    """Lengths in a split, without copies of documents."""

    document_sentences: Lengths
    document_tokens: Lengths
    sentence_tokens: Lengths


def measure_lengths(corpus: Corpus) -> LengthReport:
    """Measures the lengths in a split with at least one document, a chunk at a time."""
    found: dict[str, list[Lengths]] = {}
    for begin in range(0, corpus.documents, _CHUNK):
        documents = np.arange(begin, min(begin + _CHUNK, corpus.documents))
        for name, lengths in _lengths(corpus, documents):
            found.setdefault(name, []).append(_count(lengths, np.ones_like(lengths)))
    return LengthReport(
        **{
            name: _count(
                np.concatenate([part.values for part in parts]),
                np.concatenate([part.counts for part in parts]),
            )
            for name, parts in found.items()
        }
    )


def _lengths(corpus: Corpus, documents: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    first, end = corpus.document_begins(documents), corpus.document_ends(documents)
    yield "document_sentences", end - first
    yield "document_tokens", corpus.sentence_ends(end - 1) - corpus.sentence_begins(first)
    # Documents are stored in order; copies between them are skipped.
    stored = np.arange(first[0], end[-1])
    owner = np.searchsorted(end, stored, side="right")
    listed = stored[stored >= first[owner]]
    yield "sentence_tokens", corpus.sentence_ends(listed) - corpus.sentence_begins(listed)


def _count(lengths: np.ndarray, weights: np.ndarray) -> Lengths:
    values, inverse = np.unique(lengths, return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, inverse, weights)
    return Lengths(values, counts)


def describe_corpus(directory: str | os.PathLike) -> tuple[list[str], LengthReport | None]:
    """Describes a corpus.

    Args:
      directory: of the corpus.

    Returns:
      Lines of text, and the lengths of the training split; None if it has no documents.

    Raises:
      UserError: if the directory is not a corpus.
    """
    manifest = read_manifest(directory)
    tokenizer = load_tokenizer(os.path.join(directory, "tokenizer"))
    train, heldout = open_corpus(directory, "train"), open_corpus(directory, "heldout")
    lines, lengths = [], None
    if train.documents:
        lengths = measure_lengths(train)
        lines += ["", f"{'train, in ...':24}{'mean':>10}{'median':>10}{'99%':>10}{'longest':>10}"]
        for name, title in (
            ("document_sentences", "sentences a document"),
            ("document_tokens", "tokens a document"),
            ("sentence_tokens", "tokens a sentence"),
        ):
            measured: Lengths = getattr(lengths, name)
            lines.append(
                f"{title:24}{measured.mean:>10,.1f}{measured.quantile(0.5):>10,}"
                f"{measured.quantile(0.99):>10,}{measured.values[-1]:>10,}"
            )
        entropy = unigram_entropy(train, tokenizer.vocab_size)
        lines += [
            "",
            f"unigram entropy: {entropy:.2f} nats, the MLM loss of a model that has learnt the"
            " frequencies of tokens alone",
        ]
    lines += ["", *_tokenizer_lines(manifest["splits"]["heldout"], heldout, tokenizer)]
    if train.documents >= 2:  # a pair needs two
        lines += ["", *(_packing_line(train, length) for length in ROW_LENGTHS)]
        lines += ["", "sample rows:", *_example_rows(train, tokenizer)]
    return lines, lengths


def unigram_entropy(corpus: Corpus, vocab_size: int) -> float:
    """Returns the entropy of single tokens in nats, in a corpus that has any.

    It is the MLM loss of a model that has learnt their frequencies and nothing of their context.
    """
    counts = corpus.token_counts(vocab_size)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class Unknown(NamedTuple):
    """Shares of a corpus that became [UNK]."""

    token_share: float
    sentence_share: float  # of the sentences that are nothing else

    def __str__(self) -> str:
        """Formats the shares for people."""
        return (
            f"{self.token_share:.2%} of the training tokens are [UNK], and"
            f" {self.sentence_share:.1%} of the sentences are nothing else"
        )


def measure_unknown(corpus: Corpus, tokenizer: Tokenizer) -> Unknown | None:
    """Counts [UNK] in the first sentences of a corpus; None if it has none."""
    if not (sentences := min(corpus.sentences, _UNKNOWN_SENTENCES)):
        return None
    ends = corpus.sentence_ends(np.arange(sentences))
    unknown = corpus.token_ids(np.arange(ends[-1])) == tokenizer.special.unk
    before = np.append(0, np.cumsum(unknown))[np.append(0, ends)]
    alone = np.diff(before) == np.diff(ends, prepend=0)
    return Unknown(float(unknown.mean()), float(alone.mean()))


def _tokenizer_lines(metadata: dict, heldout: Corpus, tokenizer: Tokenizer) -> list[str]:
    if not heldout.tokens:
        return ["no held-out text to measure the tokenizer on: raise --heldout_rate"]
    searched = min(heldout.tokens, _UNKNOWN_TOKENS)
    unknown = np.count_nonzero(heldout.token_ids(np.arange(searched)) == tokenizer.special.unk)
    return [
        f"{tokenizer.kind} of {tokenizer.vocab_size:,} pieces, on held-out text:"
        f" {metadata['text_bytes'] / heldout.tokens:.2f} bytes a token,"
        f" {metadata['words'] / heldout.tokens:.3f} words a token,"
        f" {unknown / searched:.3%} unknown"
    ]


def _packing_line(corpus: Corpus, length: int) -> str:
    """Describes the packing of a corpus of at least two documents: fill, and tokens truncated."""
    config = with_length(PretrainDataConfig(block_examples=_BLOCK_EXAMPLES), length)
    plan = plan_block(corpus, config, seed=0, epoch=0, block=0)
    share = plan.truncated_share
    remedy = f" ({TRUNCATION_REMEDY})" if share > REMEDY_SHARE else ""
    return f"rows of {length}: {plan.fill(length):.1%} full, {share:.2%} of the tokens cut{remedy}"


def _example_rows(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    config = with_length(PretrainDataConfig(block_examples=_EXAMPLE_ROWS), _EXAMPLE_LENGTH)
    layout = row_format(config, tokenizer.special)
    batch = held_out_rows(corpus, config, layout, rows=_EXAMPLE_ROWS)
    return [
        tokenizer.decode(ids[examples > 0].tolist())
        for ids, examples in zip(batch["token_ids"], batch["example_ids"], strict=True)
    ]
