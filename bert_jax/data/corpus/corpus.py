"""The tokenised corpus on disk and its memory-mapped reader; `shards.py` writes it.

    DIR/manifest.json            counts, checksums, source, settings, tokenizer
    DIR/tokenizer/               the tokenizer
    DIR/train/index.npy          [documents] uint32 (uint64 if needed), the documents to read
    DIR/train/00000.tokens.npy         [tokens] uint16 (uint32 if V > 65,536)
    DIR/train/00000.sentence_ends.npy  [sentences] uint32, in tokens of this shard
    DIR/train/00000.document_ends.npy  [documents] uint32, in sentences of this shard
    DIR/heldout/...              the same for the held-out documents

Each array opens in a notebook with `np.load`. A shard is one piece of the source (`documents.py`),
or a part of one, as tokens. Exact copies of a document stay in the arrays, so that a shard depends
on its piece alone; the index leaves them out.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from bert_jax.errors import UserError

CORPUS_FORMAT = 2  # raised when the files change; no other format is read
SPLITS = ("train", "heldout")
ARRAYS = ("tokens", "sentence_ends", "document_ends")
INDEX_FILE = "index.npy"
_COUNTED_TOKENS = 1 << 28  # of a split, about
_COUNTED_AT_ONCE = 1 << 20  # tokens, which a count makes 8 bytes each


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads DIR/manifest.json.

    Raises:
      UserError: if there is none, it is damaged, or it has another format.
    """
    path = epath.Path(directory) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} is not a corpus (it has no manifest.json): make one with"
            " `python -m bert_jax.prepare`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): prepare the corpus again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != CORPUS_FORMAT:
        raise UserError(
            f"{path} has format {version!r}, and this version of bert_jax reads {CORPUS_FORMAT}:"
            " prepare the corpus again"
        )
    return manifest


def corpus_fingerprint(directory: str | os.PathLike) -> str:
    """Returns a digest of both splits, from the checksums in the manifest."""
    splits = read_manifest(directory)["splits"]
    return hashlib.blake2b(json.dumps(splits, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class Corpus:
    """One split of a corpus, memory-mapped. Sentences and tokens are counted through all shards.

    Document d is the d-th of the index, which leaves out copies of earlier documents. The sentences
    and tokens of copies are counted too, but belong to no document.

    Attributes:
      index: [documents] uint32 or uint64, ascending: index of each among the stored documents.
      shards: the three arrays of each shard.
      document_base: [shards + 1] int64, number of stored documents before each shard.
      sentence_base: [shards + 1] int64, the same for sentences.
      token_base: [shards + 1] int64, the same for tokens.
    """

    index: np.ndarray
    shards: list[dict[str, np.ndarray]]
    document_base: np.ndarray
    sentence_base: np.ndarray
    token_base: np.ndarray

    @property
    def documents(self) -> int:
        """Number of documents; no two are equal."""
        return len(self.index)

    @property
    def sentences(self) -> int:
        """Number of sentences, those of copies included."""
        return int(self.sentence_base[-1])

    @property
    def tokens(self) -> int:
        """Number of tokens, those of copies included."""
        return int(self.token_base[-1])

    def document_ends(self, documents: np.ndarray) -> np.ndarray:
        """Returns the end of each document, in sentences: [n] int64 to [n] int64."""
        return self._stored_document_ends(self.index[documents].astype(np.int64))

    def document_begins(self, documents: np.ndarray) -> np.ndarray:
        """Returns the begin of each document, in sentences: [n] int64 to [n] int64."""
        return _begins(self._stored_document_ends, self.index[documents].astype(np.int64))

    def sentence_ends(self, sentences: np.ndarray) -> np.ndarray:
        """Returns the end of each sentence, in tokens: [n] int64 to [n] int64."""
        return self._look_up("sentence_ends", sentences, self.sentence_base, self.token_base)

    def sentence_begins(self, sentences: np.ndarray) -> np.ndarray:
        """Returns the begin of each sentence, in tokens: [n] int64 to [n] int64."""
        return _begins(self.sentence_ends, sentences)

    def sentence_at(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the sentence of each token: [n] int64 to [n] int64."""
        sentences = np.empty(len(tokens), np.int64)
        for shard, chosen in _by_shard(tokens, self.token_base):
            local = tokens[chosen] - self.token_base[shard]
            ends = self.shards[shard]["sentence_ends"]
            found = np.searchsorted(ends, local.astype(ends.dtype), side="right")
            sentences[chosen] = found + self.sentence_base[shard]
        return sentences

    def token_ids(self, tokens: np.ndarray) -> np.ndarray:
        """Reads the ids of tokens: [n] int64 to [n] int32."""
        ids = np.empty(len(tokens), np.int32)
        for shard, chosen in _by_shard(tokens, self.token_base):
            ids[chosen] = self.shards[shard]["tokens"][tokens[chosen] - self.token_base[shard]]
        return ids

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Returns how often each token occurs: [vocab_size] int64.

        A large corpus is counted by the same share of each shard.
        """
        counts = np.zeros(vocab_size, np.int64)
        for shard in self.shards:
            size = len(shard["tokens"])
            tokens = shard["tokens"][: math.ceil(size * min(1, _COUNTED_TOKENS / self.tokens))]
            for begin in range(0, len(tokens), _COUNTED_AT_ONCE):
                part = tokens[begin : begin + _COUNTED_AT_ONCE]
                counts += np.bincount(part, minlength=vocab_size)
        return counts

    def _stored_document_ends(self, stored: np.ndarray) -> np.ndarray:
        return self._look_up("document_ends", stored, self.document_base, self.sentence_base)

    def _look_up(
        self, kind: str, index: np.ndarray, base: np.ndarray, value_base: np.ndarray
    ) -> np.ndarray:
        values = np.empty(len(index), np.int64)
        for shard, chosen in _by_shard(index, base):
            local = self.shards[shard][kind][index[chosen] - base[shard]]
            values[chosen] = local.astype(np.int64) + value_base[shard]
        return values


def _begins(ends: Callable[[np.ndarray], np.ndarray], index: np.ndarray) -> np.ndarray:
    """Returns begins, given a function of the ends: each begins where the one before it ends."""
    return np.where(index > 0, ends(np.maximum(index - 1, 0)), 0)


def _by_shard(
    index: np.ndarray, base: np.ndarray
) -> Iterator[tuple[int, slice] | tuple[int, np.ndarray]]:
    """Yields (shard, selection of the entries that lie in it)."""
    if len(base) == 2:  # one shard needs no search
        yield 0, slice(None)
        return
    shard_of = np.searchsorted(base, index, side="right") - 1
    # Sorting once is faster than comparing every entry with every shard, where shards are many.
    order = np.argsort(shard_of.astype(np.min_scalar_type(len(base))), kind="stable")
    shards, first = np.unique(shard_of[order], return_index=True)
    yield from zip(shards.tolist(), np.split(order, first)[1:], strict=True)


def open_corpus(directory: str | os.PathLike, split: str) -> Corpus:
    """Opens one split of a corpus, without reading its arrays.

    Args:
      directory: of the corpus.
      split: 'train' or 'heldout'.

    Raises:
      UserError: if the directory is not a corpus, an array does not have the size that the manifest
        says, or a token id is outside the vocabulary.
    """
    folder = pathlib.Path(directory) / split
    vocab_size, listed, metadata = _split_metadata(directory, split)
    shards, counts = [], [[0, 0, 0]]
    for name, max_token_id, *expected in metadata:
        if max_token_id >= vocab_size:
            raise UserError(
                f"{folder / name}.tokens.npy has the token id {max_token_id}, but the vocabulary"
                f" has {vocab_size} pieces: prepare the corpus again"
            )
        arrays = {
            kind: map_array(folder / f"{name}.{kind}.npy", np.uint16, np.uint32) for kind in ARRAYS
        }
        sizes = [len(arrays[kind]) for kind in reversed(ARRAYS)]
        # The last ends must be the numbers of sentences and of tokens.
        reach = [
            int(arrays[kind][-1:].max(initial=0)) for kind in ("document_ends", "sentence_ends")
        ]
        if sizes != expected or sizes[1:] != reach:
            raise UserError(
                f"{folder / name}.*.npy have {sizes} documents, sentences and tokens, with last"
                f" ends {reach}, but the manifest says {expected}: prepare the corpus again"
            )
        shards.append(arrays)
        counts.append(sizes)
    bases = np.cumsum(np.array(counts, np.int64), axis=0)
    index = map_array(folder / INDEX_FILE, np.uint32, np.uint64)
    stored = int(bases[-1, 0])
    if len(index) != listed or int(index[-1:].max(initial=0)) >= max(stored, 1):
        raise UserError(
            f"{folder / INDEX_FILE} lists {len(index)} of {stored} documents, up to number"
            f" {int(index[-1:].max(initial=0))}, but the manifest says {listed}: prepare the corpus"
            " again"
        )
    return Corpus(index, shards, *(np.ascontiguousarray(bases[:, i]) for i in range(3)))


def _split_metadata(
    directory: str | os.PathLike, split: str
) -> tuple[int, int, list[tuple[str, int, int, int, int]]]:
    """Reads the metadata of a split from the manifest.

    Returns:
      The size of the vocabulary, the number of documents in the index, and for each shard its name,
      its largest token id and its numbers of documents, sentences and tokens.
    """
    manifest = read_manifest(directory)
    fields = ("name", "max_token_id", "documents", "sentences", "tokens")
    try:
        metadata = manifest["splits"][split]
        return (
            manifest["tokenizer"]["vocab_size"],
            metadata["documents"],
            [tuple(shard[field] for field in fields) for shard in metadata["shards"]],
        )
    except (KeyError, TypeError):
        raise UserError(
            f"{directory}/manifest.json does not list the shards of {split!r} with their"
            f" {', '.join(fields)}: prepare the corpus again"
        ) from None


def map_array(path: pathlib.Path, *dtypes: type) -> np.ndarray:
    """Memory-maps a one-dimensional .npy file of one of the dtypes.

    Raises:
      UserError: if the file is missing, damaged, or something else.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}): prepare the corpus again") from None
    if array.ndim != 1 or array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise UserError(
            f"{path} is {array.dtype} {list(array.shape)}, not a list of {names}:"
            " prepare the corpus again"
        )
    return np.asarray(array)  # a plain view, since indexing np.memmap is slow
