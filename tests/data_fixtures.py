"""Small corpora whose token ids tell where they stand, and statistics for the data tests."""

import dataclasses
import pathlib
from collections.abc import Collection

import numpy as np

from bert_jax.data import corpus as corpora
from bert_jax.data import shards as writing
from bert_jax.data.pretraining import BlockPlan
from bert_jax.tokenizer import SpecialIds, WordPieceTokenizer

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
FIRST_ID = 5  # token i of a corpus has the id FIRST_ID + i

# A vocabulary in which a token is a letter.
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
LETTER_TOKENIZER = WordPieceTokenizer(PIECES, lower_case=True)

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


def add_documents(writer: writing.ShardWriter, documents: Documents, words: int = 0) -> None:
    """Gives a writer documents; their text is said to have so many words, of five bytes each."""
    sentences = [sentence for document in documents for sentence in document]
    writer.add(
        np.array([id for sentence in sentences for id in sentence], np.int64),
        np.array([len(sentence) for sentence in sentences], np.int64),
        np.array([len(document) for document in documents], np.int64),
        words=words,
        text_bytes=5 * words,
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
            add_documents(writer, [part[document] for document in piece])
            written.append(writer.write(directory / split, f"{number:05d}"))
        is_listed = np.ones(len(part), bool)
        if split == "train":
            is_listed[list(copies)] = False
        facts = [shard for shard in written if shard]
        splits[split] = writing.split_facts(directory / split, facts, is_listed)
    writing.write_manifest(directory, splits, {"tokenizer": {"vocab_size": 2**31}})
    return corpora.open_corpus(directory, "train")


@dataclasses.dataclass(frozen=True)
class PairPlan:
    """A plan whose examples are pairs, in fields that are easy to compare; all [E] but the last."""

    a_begin: np.ndarray
    a_length: np.ndarray
    b_begin: np.ndarray
    b_length: np.ndarray  # 0 where there is no B; b_begin is then 0 too
    is_random: np.ndarray
    labelled: np.ndarray
    sizes: np.ndarray
    row_begins: np.ndarray
    forced: int
    truncated_tokens: int

    @property
    def rows(self) -> int:
        return len(self.row_begins) - 1


def as_pairs(plan: BlockPlan) -> PairPlan:
    """Reads a plan as pairs; fails where an example has other segments than 0, or 0 and 1."""
    examples = plan.examples
    parts, first = np.diff(examples.part_bounds), examples.part_bounds[:-1]
    assert set(parts.tolist()) <= {1, 2}
    assert (examples.part_segment[first] == 0).all()
    has_b = parts == 2
    assert (examples.part_segment[first[has_b] + 1] == 1).all()
    b_begin, b_length = np.zeros_like(parts), np.zeros_like(parts)
    b_begin[has_b] = examples.part_begin[first[has_b] + 1]
    b_length[has_b] = examples.part_length[first[has_b] + 1]
    return PairPlan(
        a_begin=examples.part_begin[first],
        a_length=examples.part_length[first],
        b_begin=b_begin,
        b_length=b_length,
        is_random=examples.labels == 1,
        labelled=examples.labelled,
        sizes=examples.sizes,
        row_begins=plan.row_begins,
        forced=examples.forced,
        truncated_tokens=examples.truncated_tokens,
    )


def chi_square_z(counts: np.ndarray, expected: np.ndarray | float, freedom: int) -> float:
    """Tells how many standard deviations too uneven counts are (Wilson and Hilferty, 1931)."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5
