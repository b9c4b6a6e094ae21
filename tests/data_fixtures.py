"""Small corpora whose token ids tell where they stand, and statistics for the data tests."""

import pathlib
from collections.abc import Collection

import numpy as np

from bert_jax.data import corpus as corpora
from bert_jax.data import shards as writing
from bert_jax.tokenizer import SpecialIds

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
FIRST_ID = 5  # token i of a corpus has the id FIRST_ID + i

Documents = list[list[list[int]]]  # token ids of sentences of documents


def number_tokens(sizes: list[list[int]]) -> Documents:
    """Makes documents from the number of tokens in each of their sentences."""
    documents, here = [], FIRST_ID
    for document in sizes:
        documents.append([])
        for size in document:
            documents[-1].append(list(range(here, here + size)))
            here += size
    return documents


def make_documents(
    count: int, *, seed: int = 0, most_sentences: int = 12, most_tokens: int = 17
) -> Documents:
    """Makes documents of random shape; about one in ten has one sentence."""
    rng = np.random.default_rng(seed)
    return number_tokens(
        [
            rng.integers(1, most_tokens + 1, rng.integers(1, most_sentences + 1)).tolist()
            for _ in range(count)
        ]
    )


def write_corpus(
    directory: pathlib.Path,
    documents: Documents,
    *,
    shards: int = 1,
    heldout: Documents | None = None,
    dtype: type = np.uint32,
    copies: Collection[int] = (),
) -> corpora.Corpus:
    """Writes a corpus, the documents dealt to shards as evenly as can be; opens the train split.

    The index leaves out the `copies`, which are numbers of documents.
    """
    splits = {}
    for split, part, pieces in (("train", documents, shards), ("heldout", heldout or [], 1)):
        (directory / split).mkdir(parents=True)
        written = []
        for number, piece in enumerate(np.array_split(np.arange(len(part)), pieces)):
            writer = writing.ShardWriter(np.dtype(dtype))
            for document in piece:
                writer.add([np.array(ids) for ids in part[document]], b"")
            written.append(writer.write(directory / split, f"{number:05d}"))
        is_listed = np.ones(len(part), bool)
        if split == "train":
            is_listed[list(copies)] = False
        facts = [shard for shard in written if shard]
        splits[split] = writing.split_facts(directory / split, facts, is_listed)
    writing.write_manifest(directory, splits, {"tokenizer": {"vocab_size": 2**31}})
    return corpora.open_corpus(directory, "train")


def chi_square_z(counts: np.ndarray, expected: np.ndarray | float, freedom: int) -> float:
    """Tells how many standard deviations too uneven counts are (Wilson and Hilferty, 1931)."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5
