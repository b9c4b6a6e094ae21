"""Makes a corpus piece by piece; any worker can do any piece, in any order, and again.

    STAGING/corpus/...             the corpus in the form of `corpus.py`, without its manifest
    STAGING/digests/SPLIT/NAME     [documents, 16] uint8, digests of a shard's documents
    STAGING/finished/NAME.json     record of a finished shard: its metadata and its piece

A piece gives one shard, named by the piece's number; a piece with much text (it was compressed, or
has long documents) gives several, so that memory stays bounded.
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
    split_metadata,
    token_dtype,
    write_manifest,
)
from bert_jax.errors import UserError
from bert_jax.files import write_atomically
from bert_jax.text.tokenizer import Tokenizer, load_tokenizer

CORPUS, TOKENIZER = "corpus", "corpus/tokenizer"
_DIGESTS, _FINISHED = "digests", "finished"

SHARD_CHARACTERS = 1 << 25  # of text in a shard, about
_BATCH_CHARACTERS = 1 << 20  # of text that is tokenised at a time, about


@dataclasses.dataclass(frozen=True)
class Job:
    """Settings of a corpus that all its pieces share; it can be pickled."""

    source: Source
    splitter: SentenceSplitter
    heldout_rate: float
    staging: pathlib.Path


@dataclasses.dataclass(frozen=True)
class ShardFinished:
    """Reports that a shard was finished."""

    bytes: int  # of input that are done: those of the piece with its last shard, else 0


def text_digest(text: bytes) -> bytes:
    """Returns the 16-byte digest of a document's text, as `joined` returns it."""
    return hashlib.blake2b(text, digest_size=DIGEST_BYTES).digest()


def joined(sentences: Sequence[str]) -> bytes:
    """Returns the text of a document in UTF-8, one sentence a line."""
    return "\n".join(sentences).encode()


def split_of(digest: bytes, heldout_rate: float) -> str:
    """Returns the split of a document; it depends on the text alone, so copies stay together."""
    return "heldout" if int.from_bytes(digest[:8]) < heldout_rate * 2**64 else "train"


def make_folders(staging: pathlib.Path) -> None:
    """Makes the folders that `PieceWriter` writes into."""
    for split in SPLITS:
        (staging / CORPUS / split).mkdir(parents=True, exist_ok=True)
        (staging / _DIGESTS / split).mkdir(parents=True, exist_ok=True)
    (staging / _FINISHED).mkdir(exist_ok=True)


def has_finished_shards(staging: pathlib.Path) -> bool:
    """Returns True if the staging directory has shards that another attempt can keep."""
    return any((staging / _FINISHED).glob("*.json"))


def finished_shards(job: Job, number: int) -> list[dict[str, Any]] | None:
    """Returns the records of a piece's shards; None if one is missing or its input has changed."""
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
    """Writes the shards of pieces."""

    def __init__(self, job: Job) -> None:
        """Loads the tokenizer from the staging directory."""
        self._job = job
        self._tokenizer = load_tokenizer(job.staging / TOKENIZER)
        self._dtype = token_dtype(self._tokenizer.vocab_size)

    def __call__(self, number: int) -> Iterator[ShardFinished]:
        """Reads a piece and writes those of its shards that are not finished.

        Memory has the text and the tokens of one shard.

        Args:
          number: index of the piece in the source.

        Yields:
          A report of each shard.

        Raises:
          UserError: as `Source.read`.
          OSError: if a shard cannot be written.
        """
        piece = self._job.source.pieces[number]
        parts = _parts(self._job.source.read(piece))
        for part, (documents, is_last) in enumerate(parts):
            if _read_record(self._job, number, part) is None:
                self._write(piece, _shard_name(number, part), documents, is_last)
            yield ShardFinished(piece.size if is_last else 0)

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
    text: bytes  # as `joined` returns it
    digest: bytes


class _SplitShard:
    """The part of a shard that belongs to one split: its arrays and the documents' digests."""

    def __init__(self, dtype: np.dtype) -> None:
        self.shard = ShardWriter(dtype)
        self.digests = bytearray()

    def add(self, texts: Sequence[_Text], tokenizer: Tokenizer) -> int:
        """Appends documents, at least one; returns the number of those without any token."""
        counts = [len(sentences) for sentences, _, _ in texts]
        ids = tokenizer.encode_batch(
            [s for sentences, _, _ in texts for s in tokenizer.running_text(sentences)]
        )
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
                words=_count_words(text),
                text_bytes=sum(len(text) for _, text, _ in kept),
            )
            self.digests += b"".join(digest for _, _, digest in kept)
        return len(texts) - len(kept)


def _count_words(text: bytes) -> int:
    """Counts the words of a text; one space or line break separates two of them."""
    letters = np.frombuffer(text, np.uint8)
    return 1 + int(np.count_nonzero(letters == ord(" ")) + np.count_nonzero(letters == ord("\n")))


def _parts(documents: Iterable[Document]) -> Iterator[tuple[list[Document], bool]]:
    """Divides the documents of a piece into shards; yields (documents, is it the last shard)."""
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


def complete_corpus(job: Job, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Indexes the documents without copies and writes the manifest, after all pieces.

    Memory has at most 16 bytes a document.

    Args:
      job: of the pieces.
      metadata: fields of the manifest besides the counts.

    Returns:
      The manifest.

    Raises:
      UserError: if the source has no text at all.
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
            f"the source has {counts['documents_read']} documents, none with text: choose another"
        )
    splits = {split: _complete_split(job.staging, split, records) for split in SPLITS}
    return write_manifest(job.staging / CORPUS, splits, {**metadata, **counts})


def _complete_split(
    staging: pathlib.Path, split: str, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    shards = [record["shards"][split] for record in records if record["shards"][split]]
    folder = staging / CORPUS / split
    remove_unlisted(folder, shards)  # shards of a source that has changed since

    def digests() -> Iterator[np.ndarray]:
        for shard in shards:
            content = np.fromfile(staging / _DIGESTS / split / shard["name"], np.uint8)
            yield content.reshape(-1, DIGEST_BYTES)

    is_listed = is_first_copy(digests, sum(shard["documents"] for shard in shards))
    return split_metadata(folder, shards, is_listed)
