"""The tokenised corpus on disk, mapped back in O(1); `shards.py` writes it.

    DIR/manifest.json            counts, checksums, where the text came from, the tokenizer
    DIR/tokenizer/               the tokenizer itself
    DIR/train/index.npy          [listed] uint32 (uint64 where needed), the documents that count
    DIR/train/00000.tokens.npy         [tokens] uint16 (uint32 where V > 65,536)
    DIR/train/00000.sentence_ends.npy  [sentences] uint32, in tokens of this shard
    DIR/train/00000.document_ends.npy  [documents] uint32, in sentences of this shard
    DIR/heldout/...              the same, of other documents

Any of the arrays opens in a notebook with `np.load`. A shard is the tokenised form of one fixed
piece of the sources, or of a part of it. Exact copies of a document stay in the arrays, so that a
shard depends on its piece alone; the index leaves them out.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from bert_jax.errors import UserError

FORMAT = 2
SPLITS = ("train", "heldout")
ARRAYS = ("tokens", "sentence_ends", "document_ends")
INDEX_FILE = "index.npy"


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads DIR/manifest.json.

    Raises:
      UserError: if there is none, or a version of bert_jax with another format wrote it.
    """
    path = epath.Path(directory) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{directory} is not a prepared corpus (it has no manifest.json):"
            " make one with `python -m bert_jax.prepare`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): prepare the corpus again") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise UserError(
            f"{path} has format {version!r}, this version reads {FORMAT}:"
            " prepare the corpus again or use another version of bert_jax"
        )
    return manifest


def corpus_fingerprint(directory: str | os.PathLike) -> str:
    """Returns a digest of what both splits hold, by the checksums in the manifest."""
    splits = read_manifest(directory)["splits"]
    return hashlib.blake2b(json.dumps(splits, sort_keys=True).encode(), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class Corpus:
    """One split, mapped into memory. Sentences and tokens count across its shards.

    Documents are numbered as the index lists them: without copies of an earlier one. Sentences and
    tokens of the copies have numbers too, which no document leads to.

    Attributes:
      index: [documents] uint32 or uint64, ascending: the place of each among all that are stored.
      shards: the three arrays of each shard.
      document_base: [shards + 1] int64, stored documents before each shard.
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
        """How many documents; each differs from all others."""
        return len(self.index)

    @property
    def sentences(self) -> int:
        """How many sentences, those of copies included."""
        return int(self.sentence_base[-1])

    @property
    def tokens(self) -> int:
        """How many tokens, those of copies included."""
        return int(self.token_base[-1])

    def document_ends(self, documents: np.ndarray) -> np.ndarray:
        """Returns the sentence after the last of each document: [n] int64 to [n] int64."""
        return self._stored_document_ends(self.index[documents].astype(np.int64))

    def document_begins(self, documents: np.ndarray) -> np.ndarray:
        """Returns the first sentence of each document: [n] int64 to [n] int64."""
        return _begins(self._stored_document_ends, self.index[documents].astype(np.int64))

    def sentence_ends(self, sentences: np.ndarray) -> np.ndarray:
        """Returns the token after the last of each sentence: [n] int64 to [n] int64."""
        return self._look_up("sentence_ends", sentences, self.sentence_base, self.token_base)

    def sentence_begins(self, sentences: np.ndarray) -> np.ndarray:
        """Returns the first token of each sentence: [n] int64 to [n] int64."""
        return _begins(self.sentence_ends, sentences)

    def sentence_at(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the sentence that each token belongs to: [n] int64 to [n] int64."""
        sentences = np.empty(len(tokens), np.int64)
        for shard, chosen in _by_shard(tokens, self.token_base):
            local = tokens[chosen] - self.token_base[shard]
            ends = self.shards[shard]["sentence_ends"]
            found = np.searchsorted(ends, local.astype(ends.dtype), side="right")
            sentences[chosen] = found + self.sentence_base[shard]
        return sentences

    def token_ids(self, tokens: np.ndarray) -> np.ndarray:
        """Reads tokens: places [n] int64 to ids [n] int32."""
        ids = np.empty(len(tokens), np.int32)
        for shard, chosen in _by_shard(tokens, self.token_base):
            ids[chosen] = self.shards[shard]["tokens"][tokens[chosen] - self.token_base[shard]]
        return ids

    def _stored_document_ends(self, places: np.ndarray) -> np.ndarray:
        return self._look_up("document_ends", places, self.document_base, self.sentence_base)

    def _look_up(
        self, kind: str, index: np.ndarray, base: np.ndarray, value_base: np.ndarray
    ) -> np.ndarray:
        values = np.empty(len(index), np.int64)
        for shard, chosen in _by_shard(index, base):
            local = self.shards[shard][kind][index[chosen] - base[shard]]
            values[chosen] = local.astype(np.int64) + value_base[shard]
        return values


def _begins(ends, index: np.ndarray) -> np.ndarray:
    """What begins where the one before it ends; the very first begins at 0."""
    return np.where(index > 0, ends(np.maximum(index - 1, 0)), 0)


def _by_shard(
    index: np.ndarray, base: np.ndarray
) -> Iterator[tuple[int, slice] | tuple[int, np.ndarray]]:
    """Yields (shard, which of the entries lie in it); one shard needs no search."""
    if len(base) == 2:
        yield 0, slice(None)
        return
    shard_of = np.searchsorted(base, index, side="right") - 1
    # Sorted once, because comparing every entry with every shard is slow where shards are many.
    order = np.argsort(shard_of.astype(np.min_scalar_type(len(base))), kind="stable")
    shards, first = np.unique(shard_of[order], return_index=True)
    yield from zip(shards.tolist(), np.split(order, first)[1:], strict=True)


def open_corpus(directory: str | os.PathLike, split: str) -> Corpus:
    """Maps one split of a corpus.

    Args:
      directory: what `prepare` made.
      split: 'train' or 'heldout'.

    Raises:
      UserError: for a directory that is no corpus, a shard or an index that does not have its
        counts, or ids that are not below the vocabulary's size.
    """
    folder = pathlib.Path(directory) / split
    vocab_size, listed, facts = _split_facts(directory, split)
    shards, counts = [], [[0, 0, 0]]
    for name, max_token_id, *expected in facts:
        if max_token_id >= vocab_size:
            raise UserError(
                f"{folder / name}.tokens.npy holds the id {max_token_id}, and the vocabulary of the"
                f" corpus has {vocab_size} pieces: prepare the corpus again"
            )
        arrays = {
            kind: map_array(folder / f"{name}.{kind}.npy", np.uint16, np.uint32) for kind in ARRAYS
        }
        sizes = [len(arrays[kind]) for kind in reversed(ARRAYS)]
        # What the ends count must be there too.
        reach = [
            int(arrays[kind][-1:].max(initial=0)) for kind in ("document_ends", "sentence_ends")
        ]
        if sizes != expected or sizes[1:] != reach:
            raise UserError(
                f"{folder / name}.*.npy hold {sizes} documents, sentences and tokens, their ends"
                f" reach {reach}, and the manifest says {expected}: prepare the corpus again"
            )
        shards.append(arrays)
        counts.append(sizes)
    bases = np.cumsum(np.array(counts, np.int64), axis=0)
    index = map_array(folder / INDEX_FILE, np.uint32, np.uint64)
    stored = int(bases[-1, 0])
    if len(index) != listed or int(index[-1:].max(initial=0)) >= max(stored, 1):
        raise UserError(
            f"{folder / INDEX_FILE} lists {len(index)} of {stored} documents, up to number"
            f" {int(index[-1:].max(initial=0))}, and the manifest says {listed}:"
            " prepare the corpus again"
        )
    return Corpus(index, shards, *(np.ascontiguousarray(bases[:, i]) for i in range(3)))


def _split_facts(
    directory: str | os.PathLike, split: str
) -> tuple[int, int, list[tuple[str, int, int, int, int]]]:
    """Reads the manifest.

    Returns:
      The size of the vocabulary, the number of listed documents, and of each shard its name, its
      largest id and its documents, sentences and tokens.
    """
    manifest = read_manifest(directory)
    fields = ("name", "max_token_id", "documents", "sentences", "tokens")
    try:
        facts = manifest["splits"][split]
        return (
            manifest["tokenizer"]["vocab_size"],
            facts["documents"],
            [tuple(entry[field] for field in fields) for entry in facts["shards"]],
        )
    except (KeyError, TypeError):
        raise UserError(
            f"{directory}/manifest.json does not list the shards of {split!r} with their"
            f" {', '.join(fields)}: prepare the corpus again"
        ) from None


def map_array(path: pathlib.Path, *dtypes: type) -> np.ndarray:
    """Maps a list of numbers of one of these types.

    Raises:
      UserError: if the file is anything else.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}): prepare the corpus again") from None
    if array.ndim != 1 or array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise UserError(
            f"{path} holds {array.dtype} {list(array.shape)}, not a list of {names}:"
            " prepare the corpus again"
        )
    return np.asarray(array)  # a plain view: np.memmap's own look-ups are slow
