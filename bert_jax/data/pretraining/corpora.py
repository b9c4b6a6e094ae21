"""Opens the corpora of a run and checks that they fit the config and share one tokenizer."""

import dataclasses
import pathlib

import numpy as np

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus, corpus_fingerprint, open_corpus, read_manifest
from bert_jax.data.corpus.local_copy import local_copy
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.pretraining.mixture import parse_mixture
from bert_jax.data.pretraining.plan import check_corpus
from bert_jax.data.pretraining.rows import MAX_CORPORA, held_out_rows, pack_epoch
from bert_jax.errors import UserError
from bert_jax.files import given, path_list
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

_MEASURED_TOKENS = 1 << 22  # of each corpus, in which words are measured, at most


@dataclasses.dataclass(frozen=True)
class Corpora:
    """The corpora of a run; all lists are in the order of the config.

    Attributes:
      weights: directory -> weight in the mixture.
      tokenizer: of all corpora.
      train: the training splits.
      heldout: the held-out splits.
      evaluated: directory -> held-out split of the corpora that are evaluated alone.
      fingerprint: of the content of all corpora.
      copied: a line for the log for each corpus that is read from a local copy.
    """

    weights: dict[str, float]
    tokenizer: Tokenizer
    train: list[Corpus]
    heldout: list[Corpus]
    evaluated: dict[str, Corpus]
    fingerprint: str
    copied: list[str]

    def describe(self) -> str:
        """Describes the training data in one line: '1,234 tokens in 56 documents'."""
        tokens = sum(corpus.tokens for corpus in self.train)
        documents = sum(corpus.documents for corpus in self.train)
        if len(self.train) == 1:
            return f"{tokens:,} tokens in {documents:,} documents"
        total = sum(self.weights.values())
        shares = ", ".join(f"{name} {weight / total:.1%}" for name, weight in self.weights.items())
        return f"{tokens:,} tokens in {documents:,} documents; of the rows: {shares}"

    def tokens_a_word(self, word_starts: np.ndarray) -> dict[str, float]:
        """Returns the mean number of tokens in a word, for each corpus.

        Args:
          word_starts: [V] bool, `Tokenizer.word_starts`.
        """
        means = {}
        for name, corpus in zip(self.weights, self.train, strict=True):
            ids = corpus.token_ids(np.arange(min(corpus.tokens, _MEASURED_TOKENS)))
            means[name] = len(ids) / max(int(np.count_nonzero(word_starts[ids])), 1)
        return means

    def token_counts(self) -> np.ndarray:
        """Returns how often each token occurs in the training splits: [V] int64."""
        size = self.tokenizer.vocab_size
        return np.sum([corpus.token_counts(size) for corpus in self.train], axis=0)

    def held_out(
        self, config: PretrainDataConfig, row_format: RowFormat, rows: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Returns the first rows of a fixed plan of each held-out split.

        Those of the mixture are as many as its weights have them, those that are evaluated alone
        all that are asked for.

        Args:
          config: of a phase.
          row_format: of the phase.
          rows: number of rows, up to rounding; fewer where the splits have fewer.

        Returns:
          Directory -> the fields of a batch, those of the mixture first.
        """
        total = sum(self.weights.values())
        wanted = [max(1, round(rows * weight / total)) for weight in self.weights.values()]
        splits = dict(zip(self.weights, self.heldout, strict=True)) | self.evaluated
        wanted += [rows] * len(self.evaluated)
        return {
            name: held_out_rows(corpus, config, row_format, count, epoch=pack_epoch(0, number, 0))
            for number, ((name, corpus), count) in enumerate(
                zip(splits.items(), wanted, strict=True)
            )
        }


def open_corpora(config: PretrainDataConfig, *, evaluated: bool) -> Corpora:
    """Opens every corpus that the config names; with `local_dir`, copies it there first.

    Args:
      config: names the corpora and sets the format of the examples.
      evaluated: True if the held-out splits will be used, so that they must have documents.

    Raises:
      UserError: if a directory is not a corpus, is damaged, has too few documents, or has another
        tokenizer than the first.
    """
    weights = parse_mixture(config.corpus)
    alone = [given(name) for name in path_list(config.eval_corpora) if name] if evaluated else []
    if len(weights) + len(alone) > MAX_CORPORA:
        raise UserError(
            f"--config.data.corpus and data.eval_corpora name {len(weights) + len(alone)} corpora,"
            f" more than {MAX_CORPORA}: prepare some of them as one"
        )
    if twice := [name for name in alone if name in weights or alone.count(name) > 1]:
        raise UserError(
            f"--config.data.eval_corpora names {twice[0]}, which is evaluated anyway: leave it out"
        )
    directories, copied = list(weights), []
    if config.local_dir:
        copies = [local_copy(directory, config.local_dir) for directory in weights]
        directories, copied = map(list, zip(*copies, strict=True))
    tokenizers = [corpus_tokenizer(directory) for directory in (*directories, *alone)]
    for directory, tokenizer in zip((*directories, *alone), tokenizers, strict=True):
        if tokenizer.fingerprint != tokenizers[0].fingerprint:
            raise UserError(
                f"{directory} and {directories[0]} have different tokenizers: prepare one of them"
                " with the --tokenizer of the other"
            )
    splits: dict[str, list[Corpus]] = {}
    for split, used in (("train", True), ("heldout", evaluated)):
        splits[split] = [open_corpus(directory, split) for directory in directories]
        for directory, corpus in zip(directories, splits[split], strict=True):
            if used:
                check_corpus(corpus, config, f"{directory} ({split})")
    only_evaluated = {directory: open_corpus(directory, "heldout") for directory in alone}
    for directory, corpus in only_evaluated.items():
        check_corpus(corpus, config, f"{directory} (heldout)")
    fingerprints = [corpus_fingerprint(directory) for directory in directories]
    return Corpora(
        weights,
        tokenizers[0],
        **splits,
        evaluated=only_evaluated,
        fingerprint=" ".join(fingerprints),
        copied=copied,
    )


def corpus_tokenizer(directory: str) -> Tokenizer:
    """Loads the tokenizer of a corpus.

    Raises:
      UserError: if it is not the tokenizer that the corpus was prepared with.
    """
    manifest = read_manifest(directory)
    tokenizer = load_tokenizer(pathlib.Path(directory) / "tokenizer")
    if tokenizer.fingerprint != manifest["tokenizer"]["fingerprint"]:
        raise UserError(
            f"{directory}/tokenizer is not the tokenizer that {directory} was prepared with"
            f" ({tokenizer.fingerprint[:12]}, not {manifest['tokenizer']['fingerprint'][:12]}):"
            " prepare the corpus again"
        )
    return tokenizer
