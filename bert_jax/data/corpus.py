"""The tokenised corpus on disk: written in bounded memory, mapped back in O(1).

    DIR/manifest.json            counts, checksums, where the text came from, the tokenizer
    DIR/tokenizer/               the tokenizer itself
    DIR/train/00000.tokens.npy         [tokens] uint16 (uint32 where V > 65,536)
    DIR/train/00000.sentence_ends.npy  [sentences] uint32, in tokens of this shard
    DIR/train/00000.document_ends.npy  [documents] uint32, in sentences of this shard
    DIR/heldout/...              the same, of other documents

Any of the arrays opens in a notebook with `np.load`. A shard is the tokenised form of one fixed
piece of the sources.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bert_jax.errors import UserError
from bert_jax.files import write_atomically

FORMAT = 1
SPLITS = ("train", "heldout")
_ARRAYS = ("tokens", "sentence_ends", "document_ends")


class SplitWriter:
    """Collects the documents of one split and writes them a shard at a time."""

    def __init__(self, directory: pathlib.Path, token_dtype: np.dtype) -> None:
        """Makes the directory; tokens are stored as `token_dtype`."""
        self._directory = directory
        self._dtype = token_dtype
        self._sentences: list[np.ndarray] = []
        self._document_ends: list[int] = []
        self.shards: list[dict[str, Any]] = []
        directory.mkdir()

    def add(self, sentences: Sequence[np.ndarray]) -> None:
        """Appends one document: its sentences' token ids; at least one, and none of them empty."""
        if not sentences or not all(len(ids) for ids in sentences):
            raise ValueError("a document without sentences, or a sentence without tokens")
        self._sentences.extend(ids.astype(self._dtype) for ids in sentences)
        self._document_ends.append(len(self._sentences))

    def finish_shard(self) -> None:
        """Writes what was added since the last shard; nothing, where that is nothing."""
        if not self._document_ends:
            return
        arrays = {
            "tokens": np.concatenate(self._sentences),
            "sentence_ends": _ends([len(ids) for ids in self._sentences]),
            "document_ends": np.array(self._document_ends, np.uint32),
        }
        name = f"{len(self.shards):05d}"
        checksums = {}
        for kind, array in arrays.items():
            path = self._directory / f"{name}.{kind}.npy"
            with path.open("wb+") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                checksums[kind] = hashlib.file_digest(file, "blake2b").hexdigest()[:32]
        self.shards.append(
            {
                "name": name,
                "documents": len(arrays["document_ends"]),
                "sentences": len(arrays["sentence_ends"]),
                "tokens": len(arrays["tokens"]),
                "checksums": checksums,
            }
        )
        self._sentences, self._document_ends = [], []


def _ends(lengths: Sequence[int]) -> np.ndarray:
    """Where each run ends: [n] uint32. A shard must be small enough for that."""
    ends = np.cumsum(lengths, dtype=np.int64)
    if ends[-1] > np.iinfo(np.uint32).max:
        raise ValueError(f"{ends[-1]} tokens in a shard are more than 32 bits can count")
    return ends.astype(np.uint32)


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the smallest stored type that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def write_manifest(
    directory: pathlib.Path, splits: dict[str, SplitWriter], facts: dict[str, Any]
) -> dict[str, Any]:
    """Completes a corpus: a directory without a manifest is none.

    Args:
      directory: of the corpus.
      splits: the writers, by name of the split.
      facts: what else the manifest says (source, tokenizer, ...).

    Returns:
      The manifest.
    """
    counts = ("documents", "sentences", "tokens")
    manifest = {"format": FORMAT} | facts
    manifest["splits"] = {
        name: {count: sum(shard[count] for shard in writer.shards) for count in counts}
        | {"shards": writer.shards}
        for name, writer in splits.items()
    }
    write_atomically(directory / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def read_manifest(directory: str | os.PathLike) -> dict[str, Any]:
    """Reads DIR/manifest.json.

    Raises:
      UserError: if there is none, or a newer version of bert_jax wrote it.
    """
    path = pathlib.Path(directory) / "manifest.json"
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
    """One split, mapped into memory. Documents, sentences and tokens count across its shards.

    Attributes:
      shards: the three arrays of each shard.
      document_base: [shards + 1] int64, documents before each shard.
      sentence_base: [shards + 1] int64, the same for sentences.
      token_base: [shards + 1] int64, the same for tokens.
    """

    shards: list[dict[str, np.ndarray]]
    document_base: np.ndarray
    sentence_base: np.ndarray
    token_base: np.ndarray

    @property
    def documents(self) -> int:
        """How many documents."""
        return int(self.document_base[-1])

    @property
    def sentences(self) -> int:
        """How many sentences."""
        return int(self.sentence_base[-1])

    @property
    def tokens(self) -> int:
        """How many tokens."""
        return int(self.token_base[-1])

    def document_ends(self, documents: np.ndarray) -> np.ndarray:
        """Returns the sentence after the last of each document: [n] int64 to [n] int64."""
        return self._look_up("document_ends", documents, self.document_base, self.sentence_base)

    def document_begins(self, documents: np.ndarray) -> np.ndarray:
        """Returns the first sentence of each document: [n] int64 to [n] int64."""
        return _begins(self.document_ends, documents)

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
      UserError: for a directory that is no corpus, or a shard that does not have its counts.
    """
    folder = pathlib.Path(directory) / split
    shards, counts = [], [[0, 0, 0]]
    for name, *expected in _listed_shards(directory, split):
        arrays = {kind: _map_array(folder / f"{name}.{kind}.npy") for kind in _ARRAYS}
        sizes = [len(arrays[kind]) for kind in reversed(_ARRAYS)]
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
    return Corpus(shards, *(np.ascontiguousarray(bases[:, i]) for i in range(3)))


def _listed_shards(directory: str | os.PathLike, split: str) -> list[tuple[str, int, int, int]]:
    """Reads (name, documents, sentences, tokens) of each shard from the manifest."""
    manifest = read_manifest(directory)
    fields = ("name", "documents", "sentences", "tokens")
    try:
        return [
            tuple(entry[field] for field in fields) for entry in manifest["splits"][split]["shards"]
        ]
    except (KeyError, TypeError):
        raise UserError(
            f"{directory}/manifest.json does not list the shards of {split!r} with their"
            f" {', '.join(fields)}: prepare the corpus again"
        ) from None


def _map_array(path: pathlib.Path) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}): prepare the corpus again") from None
    if array.ndim != 1 or array.dtype not in (np.uint16, np.uint32):
        raise UserError(
            f"{path} holds {array.dtype} {list(array.shape)}, not a list of uint16 or uint32:"
            " prepare the corpus again"
        )
    return np.asarray(array)  # a plain view: np.memmap's own look-ups are slow
