"""Writes the files of a corpus and checks them; `corpus.py` describes the format."""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bert_jax.data.corpus.corpus import ARRAYS, CORPUS_FORMAT, INDEX_FILE, SPLITS, read_manifest
from bert_jax.errors import UserError
from bert_jax.files import write_atomically

_COUNTS = ("documents", "sentences", "tokens", "words", "text_bytes")
_INDEX_CHUNK = 1 << 20  # documents written at a time


class ShardWriter:
    """Collects the documents of one shard of one split, then writes them."""

    def __init__(self, token_dtype: np.dtype) -> None:
        """Starts an empty shard whose tokens are stored as `token_dtype`."""
        self._dtype = token_dtype
        self._tokens: list[np.ndarray] = []
        self._sentence_lengths: list[np.ndarray] = []
        self._document_sentences: list[np.ndarray] = []
        self._words = self._text_bytes = 0

    def add(
        self,
        tokens: np.ndarray,
        sentence_lengths: np.ndarray,
        document_sentences: np.ndarray,
        *,
        words: int,
        text_bytes: int,
    ) -> None:
        """Appends documents.

        Args:
          tokens: [tokens] int, token ids of all documents, end to end.
          sentence_lengths: [S] int, tokens of each sentence, at least 1.
          document_sentences: [documents] int, sentences of each document, at least 1.
          words: number of words in their text.
          text_bytes: number of bytes of their text in UTF-8.
        """
        if not (sentence_lengths.all() and document_sentences.all()):
            raise ValueError("a document without sentences, or a sentence without tokens")
        self._tokens.append(tokens.astype(self._dtype))
        self._sentence_lengths.append(sentence_lengths)
        self._document_sentences.append(document_sentences)
        self._words += words
        self._text_bytes += text_bytes

    def write(self, folder: pathlib.Path, name: str) -> dict[str, Any] | None:
        """Writes the shard's arrays.

        Args:
          folder: of the split.
          name: of the shard.

        Returns:
          The shard's metadata for the manifest; None if it is empty and nothing was written.
        """
        if not any(map(len, self._document_sentences)):
            return None
        arrays = {
            "tokens": np.concatenate(self._tokens),
            "sentence_ends": _ends(np.concatenate(self._sentence_lengths)),
            "document_ends": _ends(np.concatenate(self._document_sentences)),
        }
        checksums = {}
        for kind, array in arrays.items():
            with (folder / f"{name}.{kind}.npy").open("wb+") as file:
                np.save(file, array, allow_pickle=False)
                checksums[kind] = _finished(file)
        return {
            "name": name,
            "documents": len(arrays["document_ends"]),
            "sentences": len(arrays["sentence_ends"]),
            "tokens": len(arrays["tokens"]),
            "words": self._words,
            "text_bytes": self._text_bytes,
            "max_token_id": int(arrays["tokens"].max()),
            "checksums": checksums,
        }


def _ends(lengths: np.ndarray) -> np.ndarray:
    """Returns the end of each run, given the lengths: [n] uint32; a shard must be small enough."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if ends[-1] > np.iinfo(np.uint32).max:
        raise ValueError(f"{ends[-1]} tokens in a shard are more than 32 bits can count")
    return ends.astype(np.uint32)


def _finished(file: io.BufferedRandom) -> str:
    """Flushes a file to the disk and returns its checksum."""
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the smallest dtype that has room for every token id."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def split_metadata(
    folder: pathlib.Path, shards: Sequence[dict[str, Any]], is_listed: np.ndarray
) -> dict[str, Any]:
    """Writes the index of a split whose shards are written.

    Args:
      folder: of the split.
      shards: metadata from `ShardWriter.write`, in the order of the source.
      is_listed: [documents in all shards] bool, False for copies.

    Returns:
      The split's metadata for the manifest.
    """
    dtype = np.dtype(np.uint32 if len(is_listed) <= 2**32 else np.uint64)
    listed = int(np.count_nonzero(is_listed))
    header = {"descr": dtype.str, "fortran_order": False, "shape": (listed,)}
    with (folder / INDEX_FILE).open("wb+") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, len(is_listed), _INDEX_CHUNK):
            index = np.flatnonzero(is_listed[begin : begin + _INDEX_CHUNK]) + begin
            file.write(index.astype(dtype).tobytes())
        checksum = _finished(file)
    totals = {count: sum(shard[count] for shard in shards) for count in _COUNTS}
    return totals | {
        "documents": listed,
        "duplicates": totals["documents"] - listed,
        "index_checksum": checksum,
        "shards": list(shards),
    }


def write_manifest(
    directory: pathlib.Path, splits: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the manifest, which makes a directory a corpus.

    Args:
      directory: of the corpus.
      splits: metadata from `split_metadata`, by name of the split.
      metadata: the other fields: "tokenizer" with its "vocab_size", and more.

    Returns:
      The manifest.
    """
    manifest = {"format": CORPUS_FORMAT} | dict(metadata) | {"splits": dict(splits)}
    write_atomically(directory / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def remove_unlisted(folder: pathlib.Path, shards: Iterable[dict[str, Any]]) -> None:
    """Removes the files in the folder of a split that belong to none of its shards."""
    listed = {f"{shard['name']}.{kind}.npy" for shard in shards for kind in ARRAYS}
    for path in folder.iterdir():
        if path.name not in listed:
            path.unlink()


def damaged_files(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Reads every array of a corpus and compares it with its checksum in the manifest.

    Yields:
      Each file and its fault; '' if it has none.

    Raises:
      UserError: if the directory is not a corpus, or its manifest does not list the files.
    """
    for name, checksum in listed_files(directory).items():
        path = directory / name
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        except OSError as error:
            yield path, (error.strerror or str(error)).lower()
            continue
        yield path, "" if found == checksum else "its checksum is not the one in the manifest"


def listed_files(directory: str | os.PathLike) -> dict[str, str]:
    """Returns the checksum of every array of a corpus, by its path in the directory.

    Raises:
      UserError: if the directory is not a corpus, or its manifest does not list the files.
    """
    manifest = read_manifest(directory)
    files = {}
    try:
        for split in SPLITS:
            metadata = manifest["splits"][split]
            files[f"{split}/{INDEX_FILE}"] = metadata["index_checksum"]
            for shard in metadata["shards"]:
                for kind in ARRAYS:
                    files[f"{split}/{shard['name']}.{kind}.npy"] = shard["checksums"][kind]
    except (KeyError, TypeError):
        raise UserError(
            f"{directory}/manifest.json does not list every file with its checksum:"
            " prepare the corpus again"
        ) from None
    return files
