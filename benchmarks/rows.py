"""Rows to time steps on: full ones, packed real text, and the same text padded."""

import collections

import numpy as np

from benchmarks.sizes import VOCAB
from bert_jax.config import ExampleFormat, PretrainDataConfig
from bert_jax.data.corpus.corpus import open_corpus
from bert_jax.data.pretraining.corpora import corpus_tokenizer
from bert_jax.data.pretraining.phases import with_length
from bert_jax.data.pretraining.rows import RowStream, row_format

Fields = dict[str, np.ndarray]


def full_rows(batch: int, length: int, vocab: int = VOCAB) -> dict[str, np.ndarray]:
    """Returns random rows without padding, with one pair of sentences in each."""
    rng = np.random.default_rng(0)
    return {
        "token_ids": rng.integers(5, vocab, (batch, length), dtype=np.int32),
        "example_ids": np.ones((batch, length), np.int32),
        "segment_ids": np.tile((np.arange(length) >= length // 2).astype(np.int32), (batch, 1)),
        "position_ids": np.tile(np.arange(length, dtype=np.int32), (batch, 1)),
        "pool_positions": np.zeros((batch, 1), np.int32),
        "row_ids": np.stack([np.zeros(batch), np.arange(batch)], axis=1).astype(np.uint32),
        "labels": rng.integers(0, 2, (batch, 1), dtype=np.int32),
        "weights": np.ones((batch, 1), np.float32),
    }


def packed_batches(
    corpus: str, form: ExampleFormat, *, length: int, rows: int, batches: int
) -> list[Fields]:
    """Returns the first batches of a run: field -> [B, ...]."""
    data = with_length(PretrainDataConfig(format=form), length)
    form_of_rows = row_format(data, corpus_tokenizer(corpus).special)
    stream = RowStream(open_corpus(corpus, "train"), data, form_of_rows, seed=0)
    return [stream.rows(np.arange(first * rows, (first + 1) * rows)) for first in range(batches)]


def padded(batch: Fields) -> Fields:
    """Returns the examples of a packed batch, one in a row, padded to the longest.

    Returns:
      `input_ids`, `token_type_ids`, `attention_mask` [E, longest] and `next_sentence_label` [E].
    """
    examples = [
        (row, number)
        for row, ids in enumerate(batch["example_ids"])
        for number in np.unique(ids[ids > 0])
    ]
    places = [np.flatnonzero(batch["example_ids"][row] == number) for row, number in examples]
    longest = max(map(len, places))
    names = {"input_ids": "token_ids", "token_type_ids": "segment_ids"}
    fields: Fields = collections.defaultdict(lambda: np.zeros((len(examples), longest), np.int64))
    for line, ((row, _), place) in enumerate(zip(examples, places, strict=True)):
        for theirs, ours in names.items():
            fields[theirs][line, : len(place)] = batch[ours][row, place]
        fields["attention_mask"][line, : len(place)] = 1
    labels = [batch["labels"][row, number - 1] for row, number in examples]
    return dict(fields) | {"next_sentence_label": np.array(labels, np.int64)}
