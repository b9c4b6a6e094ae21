"""A corpus made a piece at a time: the pieces may be done by anyone, in any order, and again.

    STAGING/corpus/...             the corpus as `corpus.py` has it, as yet without manifest
    STAGING/digests/SPLIT/NAME     [documents, 16] uint8, of the text of a shard's documents
    STAGING/finished/NAME.json     of every finished shard: what it holds, and of which piece

A piece gives one shard, named by its number, and further ones where it is compressed or holds long
documents, so that its text is more than the memory should hold.
"""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus.corpus import SPLITS
from bert_jax.data.corpus.documents import Document, Piece, Source
from bert_jax.data.corpus.duplicates import DIGEST_BYTES, is_first_copy
from bert_jax.data.corpus.sentences import SentenceSplitter
from bert_jax.data.corpus.shards import (
    ShardWriter,
    remove_unlisted,
    split_facts,
    token_dtype,
    write_manifest,
)
from bert_jax.errors import UserError
from bert_jax.files import write_atomically
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

CORPUS, TOKENIZER = "corpus", "corpus/tokenizer"
_DIGESTS, _FINISHED = "digests", "finished"

SHARD_CHARACTERS = 1 << 25  # of text: more begins another shard
_BATCH_CHARACTERS = 1 << 20  # of text that is tokenised at a time


@dataclasses.dataclass(frozen=True)
class Job:
    """What the pieces have in common; it can be pickled."""

    source: Source
    splitter: SentenceSplitter
    heldout_rate: float
    staging: pathlib.Path


@dataclasses.dataclass(frozen=True)
class Progress:
    """A shard was finished."""

    bytes: int  # of input: the whole piece, with its last shard


def text_digest(text: bytes) -> bytes:
    """Returns the 16 bytes that stand for a document's text, as `joined` gives it."""
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


def joined(sentences: Sequence[str]) -> bytes:
    """Returns the text of a document in UTF-8, a sentence a line."""
    return "\n".join(sentences).encode()


def split_of(digest: bytes, heldout_rate: float) -> str:
    """Says which split a document is in, from its text alone: copies of it stay together."""
    return "heldout" if int.from_bytes(digest[:8]) < heldout_rate * 2**64 else "train"


def make_folders(staging: pathlib.Path) -> None:
    """Makes what `PieceWriter` writes into."""
    for split in SPLITS:
        (staging / CORPUS / split).mkdir(parents=True, exist_ok=True)
        (staging / _DIGESTS / split).mkdir(parents=True, exist_ok=True)
    (staging / _FINISHED).mkdir(exist_ok=True)


def has_finished_shards(staging: pathlib.Path) -> bool:
    """Whether the staging directory holds work that another attempt need not do."""
    return any((staging / _FINISHED).glob("*.json"))


def finished_shards(job: Job, number: int) -> list[dict[str, Any]] | None:
    """Returns the records of a piece's shards; None where some are missing or of other text."""
    records = []
    while not records or not records[-1]["is_last"]:
        record = _read_record(job, number, len(records))
        if record is None:
            return None
        records.append(record)
    return records


def _shard_name(number: int, part: int) -> str:
    return f"{number:05d}-{part:03d}" if part else f"{number:05d}"


def _record_path(staging: pathlib.Path, name: str) -> pathlib.Path:
    return staging / _FINISHED / f"{name}.json"


def _read_record(job: Job, number: int, part: int) -> dict[str, Any] | None:
    try:
        record = json.loads(_record_path(job.staging, _shard_name(number, part)).read_text())
    except FileNotFoundError:
        return None
    return record if record["piece"] == job.source.pieces[number].identity else None


class PieceWriter:
    """Makes the shards of pieces."""

    def __init__(self, job: Job) -> None:
        """Loads the tokenizer, which must be in the staging directory."""
        self._job = job
        self._tokenizer = load_tokenizer(job.staging / TOKENIZER)
        self._dtype = token_dtype(self._tokenizer.vocab_size)

    def __call__(self, number: int) -> Iterator[Progress]:
        """Reads a piece and writes those of its shards that are not finished.

        Memory holds the text and the tokens of one shard.

        Args:
          number: of the piece in the source.

        Yields:
          Progress, once a shard.

        Raises:
          UserError: for what reading shows to be wrong.
          OSError: if a shard cannot be written.
        """
        piece = self._job.source.pieces[number]
        parts = _parts(self._job.source.read(piece))
        for part, (documents, is_last) in enumerate(parts):
            if _read_record(self._job, number, part) is None:
                self._write(piece, _shard_name(number, part), documents, is_last)
            yield Progress(piece.size if is_last else 0)

    def _write(self, piece: Piece, name: str, documents: Sequence[Document], is_last: bool) -> None:
        staging = self._job.staging
        splits = {split: _SplitShard(self._dtype) for split in SPLITS}
        skipped = {"no_text": 0, "no_tokens": 0}
        for batch in _batches(documents):
            found: dict[str, list[_Text]] = {split: [] for split in SPLITS}
            for document in batch:
                if sentences := self._job.splitter.split(document):
                    text = joined(sentences)
                    digest = text_digest(text)
                    split = split_of(digest, self._job.heldout_rate)
                    found[split].append(_Text(sentences, text, digest))
                else:
                    skipped["no_text"] += 1
            for split, texts in found.items():
                if texts:
                    skipped["no_tokens"] += splits[split].add(texts, self._tokenizer)
        shards = {}
        for split, content in splits.items():
            shards[split] = content.shard.write(staging / CORPUS / split, name)
            write_atomically(staging / _DIGESTS / split / name, bytes(content.digests))
        record = {
            "piece": piece.identity,
            "is_last": is_last,
            "documents_read": len(documents),
            "skipped": skipped,
            "shards": shards,
        }
        write_atomically(_record_path(staging, name), json.dumps(record).encode())


class _Text(NamedTuple):
    """A document before it is tokenised."""

    sentences: list[str]
    text: bytes  # as `joined` gives it
    digest: bytes


class _SplitShard:
    """What one split gets from one shard: arrays, and digests of the documents in them."""

    def __init__(self, dtype: np.dtype) -> None:
        self.shard = ShardWriter(dtype)
        self.digests = bytearray()

    def add(self, texts: Sequence[_Text], tokenizer: Tokenizer) -> int:
        """Appends documents, at least one; returns how many were left out for want of tokens."""
        counts = [len(sentences) for sentences, _, _ in texts]
        ids = tokenizer.encode_batch([s for sentences, _, _ in texts for s in sentences])
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        document = np.repeat(np.arange(len(texts)), counts)
        sentences = np.bincount(document[lengths > 0], minlength=len(texts))
        kept = list(itertools.compress(texts, sentences))
        if kept:
            text = b"\n".join(text for _, text, _ in kept)
            self.shard.add(
                np.concatenate(ids),
                lengths[lengths > 0],
                sentences[sentences > 0],
                words=_words(text),
                text_bytes=sum(len(text) for _, text, _ in kept),
            )
            self.digests += b"".join(digest for _, _, digest in kept)
        return len(texts) - len(kept)


def _words(text: bytes) -> int:
    """Counts the words of a text, which have one space or line break between them."""
    letters = np.frombuffer(text, np.uint8)
    return 1 + int(np.count_nonzero(letters == ord(" ")) + np.count_nonzero(letters == ord("\n")))


def _parts(documents: Iterable[Document]) -> Iterator[tuple[list[Document], bool]]:
    """Cuts a piece by its amount of text; yields (documents, whether they are the last)."""
    part, size = [], 0
    for document in documents:
        if size >= SHARD_CHARACTERS:
            yield part, False
            part, size = [], 0
        part.append(document)
        size += sum(map(len, document.lines))
    yield part, True


def _batches(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    sizes = np.cumsum([sum(map(len, document.lines)) for document in documents])
    begin = 0
    while begin < len(documents):
        before = sizes[begin - 1] if begin else 0
        end = int(np.searchsorted(sizes, before + _BATCH_CHARACTERS)) + 1
        yield documents[begin:end]
        begin = end


def complete_corpus(job: Job, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Lists what differs, and writes the manifest, once every piece is finished.

    Memory holds at most 16 bytes a document.

    Args:
      job: of the pieces.
      facts: what the manifest says besides the counts.

    Returns:
      The manifest.

    Raises:
      UserError: if there was no text at all.
    """
    records = []
    for number in range(len(job.source.pieces)):
        found = finished_shards(job, number)
        if found is None:
            raise ValueError(f"piece {number} is not finished")
        records += found
    counts = {
        "documents_read": sum(record["documents_read"] for record in records),
        "skipped": {
            reason: sum(record["skipped"][reason] for record in records)
            for reason in ("no_text", "no_tokens")
        },
    }
    if counts["documents_read"] == sum(counts["skipped"].values()):
        raise UserError(
            f"the source has no text in its {counts['documents_read']} documents: name another"
        )
    splits = {split: _complete_split(job.staging, split, records) for split in SPLITS}
    return write_manifest(job.staging / CORPUS, splits, {**facts, **counts})


def _complete_split(
    staging: pathlib.Path, split: str, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    shards = [record["shards"][split] for record in records if record["shards"][split]]
    folder = staging / CORPUS / split
    remove_unlisted(folder, shards)  # of a source that changed between two attempts

    def digests() -> Iterator[np.ndarray]:
        for shard in shards:
            content = np.fromfile(staging / _DIGESTS / split / shard["name"], np.uint8)
            yield content.reshape(-1, DIGEST_BYTES)

    is_listed = is_first_copy(digests, sum(shard["documents"] for shard in shards))
    return split_facts(folder, shards, is_listed)
