"""Makes a tokenised corpus of a source of text; verifies and describes one."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from bert_jax.data.corpus import pieces, sampling, workers
from bert_jax.data.corpus.corpus import CORPUS_FORMAT, open_corpus, read_manifest
from bert_jax.data.corpus.documents import Layout
from bert_jax.data.corpus.layout_check import layout_warning
from bert_jax.data.corpus.pieces import Job, PieceWriter, ShardFinished
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.data.corpus.shards import damaged_files
from bert_jax.data.corpus.sources import open_source
from bert_jax.data.pretraining import report
from bert_jax.errors import UserError
from bert_jax.files import check_new, exists, locked_staging, new_file, take_place, write_atomically
from bert_jax.stopping import Stopped
from bert_jax.text.tokenizer import SETTINGS_FILE, Tokenizer, check_unicode, load_tokenizer
from bert_jax.text.training import (
    ModelType,
    train_byte_level,
    train_sentencepiece,
    train_wordpiece,
    training_library,
    words_merged_by_stripping,
)

_PROGRESS_SECONDS = 10
_SETTINGS = "settings.json"
_MERGED_SHARE = 0.01  # of the distinct words, from which on stripping accents is told
_UNKNOWN_SHARE = 0.02  # of the tokens or sentences, from which on [UNK] is warned of

# Does these pieces of a job, and yields what it finishes.
RunPieces = Callable[[Job, Sequence[int]], Iterator[ShardFinished]]


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """Options of a corpus; see the flags of `prepare`."""

    source: str
    layout: Layout
    language: str
    tokenizer: str  # train:KIND:SIZE, or what `load_tokenizer` takes
    lower_case: bool | None  # None: a trained vocabulary is uncased, a given one as its pieces are
    strip_accents: bool | None  # None: as lower_case
    heldout_rate: float
    output: pathlib.Path  # the directory to make


def run_locally(job: Job, numbers: Sequence[int], *, processes: int = 0) -> Iterator[ShardFinished]:
    """Does pieces in processes of this machine; 0: one for each CPU."""
    yield from workers.share(
        functools.partial(PieceWriter, job), numbers, processes or workers.cpus()
    )


def make_corpus(options: CorpusOptions, run_pieces: RunPieces) -> None:
    """Makes the tokenizer and the corpus.

    Args:
      options: of the corpus.
      run_pieces: does the pieces of the work, here or on other machines.

    Raises:
      UserError: if an option is wrong, or the source cannot be read.
    """
    begin = time.monotonic()
    output = check_new(options.output, "output")
    if not 0 <= options.heldout_rate < 1:
        raise UserError(f"--heldout_rate={options.heldout_rate} must be a rate from 0 to below 1")
    source = open_source(options.source, options.layout)
    splitter = SentenceSplitter(source.layout, options.language)
    tokenizer = _given_tokenizer(options)
    if warning := layout_warning(source, options.language):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    metadata = {
        "source": options.source,
        "layout": source.layout.value,
        "language": options.language,
        "heldout_rate": options.heldout_rate,
    }
    trainer = "" if tokenizer else training_library(_training(options.tokenizer)[0])
    settings = metadata | {
        "format": CORPUS_FORMAT,
        "tokenizer": tokenizer.fingerprint if tokenizer else options.tokenizer,
        "trainer": trainer,
        "lower_case": options.lower_case,
        "strip_accents": options.strip_accents,
    }
    if tokenizer is None:  # it is of the text that it is trained on
        sampled = "\n".join(piece.identity for piece in sampling.sampled_pieces(source))
        settings["text"] = hashlib.blake2b(sampled.encode()).hexdigest()
    with locked_staging(output, pieces.has_finished_shards) as staging, _told_how_to_go_on(staging):
        _begin_or_go_on(staging, settings)
        job = Job(source, splitter, options.heldout_rate, staging)
        tokenizer = _stored_tokenizer(job, tokenizer, options)
        _write_shards(job, run_pieces)
        metadata["tokenizer"] = {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
            **({"trainer": trainer} if trainer else {}),
        }
        manifest = pieces.complete_corpus(job, metadata)
        take_place(staging / pieces.CORPUS, output)
    print(summary(manifest))
    origin = f", trained by {trainer}" if trainer else ""
    print(f"vocabulary of {tokenizer.vocab_size:,} pieces ({tokenizer.kind}{origin})")
    print(f"wrote {output} in {time.monotonic() - begin:.0f} s", flush=True)
    _tell_unknown(output, tokenizer)


def _tell_unknown(output: pathlib.Path, tokenizer: Tokenizer) -> None:
    """Tells how much of the training text the tokenizer does not know."""
    if (found := report.measure_unknown(open_corpus(output, "train"), tokenizer)) is None:
        return
    print(found)
    if max(found.token_share, found.sentence_share) > _UNKNOWN_SHARE:
        remedy = (
            "text without spaces between words, or in another language than the vocabulary, needs"
            " --tokenizer=train:sentencepiece:SIZE"
        )
        if tokenizer.kind == "sentencepiece":
            remedy = "train a tokenizer on text of this language, or use a larger SIZE"
        print(f"warning: {found}: {remedy}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _told_how_to_go_on(staging: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if not pieces.has_finished_shards(staging):
            raise
        message = "stopped: the same command goes on at the last finished shard"
        raise Stopped(message) from None


def _begin_or_go_on(staging: pathlib.Path, settings: dict[str, Any]) -> None:
    """Clears a staging directory, unless it was begun with the same settings."""
    path = staging / _SETTINGS
    before = json.loads(path.read_text()) if path.exists() else {}
    if before != settings or not (staging / pieces.CORPUS).exists():
        if pieces.has_finished_shards(staging):
            changed = sorted(name for name in settings if before.get(name) != settings[name])
            print(f"begins anew: an interrupted attempt had another {', '.join(changed)}")
        for child in staging.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    pieces.make_folders(staging)
    write_atomically(path, json.dumps(settings).encode())


def _given_tokenizer(options: CorpusOptions) -> Tokenizer | None:
    """Loads the tokenizer that `--tokenizer` names; None where it is to be trained."""
    trained = options.tokenizer.startswith("train:") and not exists(options.tokenizer)
    kind = _training(options.tokenizer)[0] if trained else pathlib.Path(options.tokenizer).suffix
    for name in ("lower_case", "strip_accents"):
        if (value := getattr(options, name)) is not None and kind not in ("wordpiece", ".txt"):
            raise UserError(
                f"--{name}={value} is for a WordPiece vocabulary that is trained or a *.txt, and"
                f" {options.tokenizer} has its own: leave it out"
            )
    if not trained:
        loaded = load_tokenizer(
            options.tokenizer, lower_case=options.lower_case, strip_accents=options.strip_accents
        )
        for note in loaded.notes:
            print(note, flush=True)
        return loaded
    return None


def _training(spec: str) -> tuple[str, int]:
    """Returns the kind and the size of the tokenizer to train, of train:KIND:SIZE."""
    kind, _, size = spec.removeprefix("train:").partition(":")
    kinds = ("sentencepiece", "sentencepiece-bpe", "wordpiece", "bpe")
    if kind not in kinds or not size.isdecimal():
        raise UserError(
            f"--tokenizer={spec}: write train:KIND:SIZE, the kind one of {', '.join(kinds)}"
        )
    return kind, int(size)


def _stored_tokenizer(job: Job, tokenizer: Tokenizer | None, options: CorpusOptions) -> Tokenizer:
    """Brings the tokenizer into the staging directory, trained there already or now."""
    directory = job.staging / pieces.TOKENIZER
    if (directory / SETTINGS_FILE).exists():
        return load_tokenizer(directory)
    tokenizer = tokenizer or _train_tokenizer(job, options)
    tokenizer.save(directory)
    return tokenizer


def _train_tokenizer(job: Job, options: CorpusOptions) -> Tokenizer:
    """Trains a tokenizer on a sample of the training split."""
    kind, size = _training(options.tokenizer)

    def sentences() -> Iterator[str]:
        total = len(sampling.sampled_pieces(job.source))
        with _Shown("reading for the tokenizer", total, " pieces", "pieces") as shown:
            for found in sampling.training_sentences(job.source, job.splitter, job.heldout_rate):
                yield from found
                shown.update(1)

    if kind == "wordpiece":
        texts, lower_case = list(sentences()), options.lower_case is not False
        if lower_case and options.strip_accents is None:
            _warn_of_merged_words(texts)
        return train_wordpiece(
            texts, vocab_size=size, lower_case=lower_case, strip_accents=options.strip_accents
        )
    if kind == "bpe":
        return train_byte_level(sentences(), vocab_size=size)
    model_type = ModelType.BPE if kind == "sentencepiece-bpe" else ModelType.UNIGRAM
    return train_sentencepiece(sentences(), vocab_size=size, model_type=model_type)


def _warn_of_merged_words(texts: Sequence[str]) -> None:
    check_unicode(texts)
    found = words_merged_by_stripping(texts)
    if found.share > _MERGED_SHARE:
        one, other = found.example
        print(
            f"warning: stripping accents and vowel signs makes {found.share:.1%} of the"
            f" {found.distinct:,} distinct words equal to another, such as {other} to {one}:"
            " --nostrip_accents keeps them apart, --strip_accents accepts it",
            file=sys.stderr,
            flush=True,
        )


def _write_shards(job: Job, run_pieces: RunPieces) -> None:
    """Does the pieces that an earlier attempt has not finished."""
    all_pieces = job.source.pieces
    waiting = [n for n in range(len(all_pieces)) if pieces.finished_shards(job, n) is None]
    if pieces.has_finished_shards(job.staging):
        done = len(all_pieces) - len(waiting)
        print(f"goes on: {done:,} of {len(all_pieces):,} pieces were finished", flush=True)
    total = sum(all_pieces[number].size for number in waiting)
    with _Shown("tokenising", total, "B", "shards") as shown:
        for progress in run_pieces(job, waiting):
            shown.update(progress.bytes)


class _Shown:
    """Shows how far work is: a bar on a terminal, and a line now and then elsewhere."""

    def __init__(self, what: str, total: int, unit: str, steps: str) -> None:
        self._what, self._total, self._steps = what, total, steps
        self._done = self._count = 0
        self._told = time.monotonic()
        self._bar = tqdm(
            total=total, desc=what, unit=unit, unit_scale=True, disable=None, leave=False
        )

    def __enter__(self) -> "_Shown":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, amount: int) -> None:
        """Counts a step, and this much of the total; a step of a long piece may count nothing."""
        self._done += amount
        self._count += 1
        counted = f"{self._count:,} {self._steps}"
        self._bar.set_postfix_str(counted, refresh=False)
        self._bar.update(amount)
        if self._bar.disable and time.monotonic() - self._told > _PROGRESS_SECONDS:
            self._told = time.monotonic()
            print(f"{self._what}: {self._done / self._total:.0%}, {counted}", file=sys.stderr)


def summary(manifest: dict[str, Any]) -> str:
    """Describes a corpus in a few lines."""
    lines = [f"{'':9}{'documents':>12}{'duplicates':>12}{'sentences':>14}{'tokens':>16}"]
    for name, split in manifest["splits"].items():
        lines.append(
            f"{name:9}{split['documents']:>12,}{split['duplicates']:>12,}"
            f"{split['sentences']:>14,}{split['tokens']:>16,}"
        )
    skipped = [
        f"{count:,} with {reason.replace('_', ' ')}"
        for reason, count in manifest["skipped"].items()
        if count
    ]
    read = f"{manifest['documents_read']:,} documents read"
    return "\n".join([*lines, ", ".join([read, *skipped])])


def verify(directory: pathlib.Path) -> None:
    """Compares every file of a corpus with its checksum, and tells which are damaged.

    Raises:
      UserError: for a directory that is no corpus, and, at the end, for one that is damaged.
    """
    found = [*damaged_files(directory), (directory / "tokenizer", _tokenizer_fault(directory))]
    damaged = [(path, fault) for path, fault in found if fault]
    for path, fault in damaged:
        print(f"{path}: {fault}")
    arrays = f"{len(found) - 1:,} arrays"
    print(f"{directory}: {arrays} and the tokenizer checked, {len(damaged):,} damaged")
    if damaged:
        raise UserError(f"{directory} is damaged: prepare it again, or copy these files again")


def _tokenizer_fault(directory: pathlib.Path) -> str:
    try:
        tokenizer = load_tokenizer(directory / "tokenizer")
    except UserError as error:
        return str(error)
    wanted = read_manifest(directory).get("tokenizer", {}).get("fingerprint")
    return "" if wanted == tokenizer.fingerprint else "it is not the one in the manifest"


def print_description(directory: pathlib.Path) -> None:
    """Tells what a corpus is like, and draws its lengths beside it.

    Raises:
      UserError: for a directory that is no corpus.
    """
    from bert_jax.data.pretraining.plot import plot_lengths  # loads matplotlib, nothing else does

    lines, lengths = report.describe_corpus(directory)
    print("\n".join([summary(read_manifest(directory)), *lines]))
    if lengths:
        picture = directory.absolute().with_name(f"{directory.absolute().name}.lengths.png")
        with new_file(picture) as made:
            plot_lengths(lengths, made)
        print(f"\nwrote {picture}")
