"""What a corpus is like: lengths, packing, the tokenizer's work, and a few rows to read."""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus, open_corpus, read_manifest
from bert_jax.data.pretraining.phases import with_length
from bert_jax.data.pretraining.plan import plan_block
from bert_jax.data.pretraining.rows import held_out_rows, row_format
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

ROW_LENGTHS = (128, 512)  # T of BERT's two phases
_EXAMPLE_ROWS = 3
_EXAMPLE_LENGTH = 128
_CHUNK = 1 << 18  # documents looked at together
_BLOCK_EXAMPLES = 1 << 17  # of the plan: enough for a share, whatever the corpus
_UNKNOWN_TOKENS = 1 << 26  # held-out tokens that are searched for unknown ones, at most


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How often each length occurs.

    Attributes:
      values: [n] int64, ascending.
      counts: [n] int64, at least 1.
    """

    values: np.ndarray
    counts: np.ndarray

    def quantile(self, share: float) -> int:
        """Returns the length that this share of all reach at most."""
        ends = np.cumsum(self.counts)
        return int(self.values[np.searchsorted(ends, share * ends[-1])])

    @property
    def mean(self) -> float:
        """The mean length."""
        return float((self.values * self.counts).sum() / self.counts.sum())


@dataclasses.dataclass(frozen=True)
class LengthReport:
    """The lengths in a split, copies of documents left out."""

    document_sentences: Lengths
    document_tokens: Lengths
    sentence_tokens: Lengths


def measure_lengths(corpus: Corpus) -> LengthReport:
    """Counts the lengths in a split that has documents; memory holds a chunk of them."""
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
    # Listed documents lie together, but for the copies between them.
    stored = np.arange(first[0], end[-1])
    owner = np.searchsorted(end, stored, side="right")
    listed = stored[stored >= first[owner]]
    yield "sentence_tokens", corpus.sentence_ends(listed) - corpus.sentence_begins(listed)


def _count(lengths: np.ndarray, weights: np.ndarray) -> Lengths:
    values, place = np.unique(lengths, return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, place, weights)
    return Lengths(values, counts)


def describe(directory: str | os.PathLike) -> tuple[list[str], LengthReport | None]:
    """Describes a corpus.

    Args:
      directory: what `prepare` made.

    Returns:
      Lines of text, and the lengths of the training split; None where it has no documents.

    Raises:
      UserError: for a directory that is no corpus.
    """
    manifest = read_manifest(directory)
    tokenizer = load_tokenizer(os.path.join(directory, "tokenizer"))
    train, heldout = open_corpus(directory, "train"), open_corpus(directory, "heldout")
    lines, lengths = [], None
    if train.documents:
        lengths = measure_lengths(train)
        lines += ["", f"{'train, in ...':24}{'mean':>10}{'median':>10}{'99%':>10}{'most':>10}"]
        for name, title in (
            ("document_sentences", "sentences a document"),
            ("document_tokens", "tokens a document"),
            ("sentence_tokens", "tokens a sentence"),
        ):
            of: Lengths = getattr(lengths, name)
            lines.append(
                f"{title:24}{of.mean:>10,.1f}{of.quantile(0.5):>10,}{of.quantile(0.99):>10,}"
                f"{of.values[-1]:>10,}"
            )
    lines += ["", *_tokenizer_lines(manifest["splits"]["heldout"], heldout, tokenizer)]
    if train.documents >= 2:  # a pair needs two
        lines += ["", *(_packing_line(train, length) for length in ROW_LENGTHS)]
        lines += ["", "rows:", *_example_rows(train, tokenizer)]
    return lines, lengths


def _tokenizer_lines(facts: dict, heldout: Corpus, tokenizer: Tokenizer) -> list[str]:
    if not heldout.tokens:
        return ["no text is held out to judge the tokenizer by: raise --heldout_rate"]
    searched = min(heldout.tokens, _UNKNOWN_TOKENS)
    unknown = np.count_nonzero(heldout.token_ids(np.arange(searched)) == tokenizer.special.unk)
    return [
        f"{tokenizer.kind} of {tokenizer.vocab_size:,} pieces, on held-out text:"
        f" {facts['text_bytes'] / heldout.tokens:.2f} bytes a token,"
        f" {facts['words'] / heldout.tokens:.3f} words a token,"
        f" {unknown / searched:.3%} unknown"
    ]


def _packing_line(corpus: Corpus, length: int) -> str:
    """Says how full rows are, and how much is cut; the corpus has two documents or more."""
    config = with_length(PretrainDataConfig(block_examples=_BLOCK_EXAMPLES), length)
    plan = plan_block(corpus, config, seed=0, epoch=0, block=0)
    cut = plan.examples.truncated_tokens
    share = cut / (cut + int(plan.examples.part_length.sum()))
    return f"rows of {length}: {plan.fill(length):.1%} full, {share:.2%} of the tokens cut"


def _example_rows(corpus: Corpus, tokenizer: Tokenizer) -> list[str]:
    config = with_length(PretrainDataConfig(block_examples=_EXAMPLE_ROWS), _EXAMPLE_LENGTH)
    layout = row_format(config, tokenizer.special)
    batch = held_out_rows(corpus, config, layout, rows=_EXAMPLE_ROWS)
    return [
        tokenizer.decode(ids[examples > 0].tolist())
        for ids, examples in zip(batch["token_ids"], batch["example_ids"], strict=True)
    ]
