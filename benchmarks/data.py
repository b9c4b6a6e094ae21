"""Times the planning of rows, a seek and the loader on a corpus, and the fill of each format.

    python -m benchmarks.data --corpus=data/wiki
    python -m benchmarks.data --corpus=data/wiki --formats

It prints a line of JSON for each measurement. Compare times within one run on one machine.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.turns import peak_bytes
from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import Corpus, open_corpus
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.pretraining.corpora import corpus_tokenizer
from bert_jax.data.pretraining.phases import with_length
from bert_jax.data.pretraining.plan import blocks_per_epoch, plan_block
from bert_jax.data.pretraining.rows import Position, RowStream, row_format
from bert_jax.text.tokenizer import SpecialIds
from docs.formats.make_page import combinations, title

_CORPUS = flags.DEFINE_string("corpus", None, "a directory that prepare made", required=True)
_FORMATS = flags.DEFINE_bool("formats", False, "fill and cut tokens of every valid combination")
_BATCHES = flags.DEFINE_integer("batches", 200, "number of batches to load")

LENGTHS = (128, 512)
_BATCH_SIZE = 256


def measure_plan(corpus: Corpus, data: PretrainDataConfig) -> dict[str, Any]:
    """Plans the first block of an epoch."""
    begin = time.perf_counter()
    plan = plan_block(corpus, data, seed=0, epoch=1, block=0)
    seconds = time.perf_counter() - begin
    cut = plan.examples.truncated_tokens
    return {
        "blocks": blocks_per_epoch(corpus, data),
        "examples": len(plan.examples),
        "rows": plan.rows,
        "fill": round(plan.fill(data.length), 4),
        "cut_share": round(cut / (cut + int(plan.examples.part_length.sum())), 4),
        "seconds": round(seconds, 3),
        "seconds_per_million": round(seconds / len(plan.examples) * 1e6, 3),
        "peak_bytes": peak_bytes(),
    }


def measure_seek(directory: str, data: PretrainDataConfig, special: SpecialIds) -> dict[str, Any]:
    """Opens the corpus in the middle of a late epoch, and reads a batch of rows."""
    begin = time.perf_counter()
    corpus = open_corpus(directory, "train")
    start = Position(epoch=1000, block=blocks_per_epoch(corpus, data) // 2, row=0)
    rows = RowStream(corpus, data, row_format(data, special), seed=0, start=start)
    rows.rows(np.arange(_BATCH_SIZE))
    return {"seconds": round(time.perf_counter() - begin, 3), "start": list(start)}


def measure_loader(corpus: Corpus, data: PretrainDataConfig, special: SpecialIds) -> dict[str, Any]:
    """Returns the loader's tokens per second, after the first batch."""
    batches = load_batches(
        RowStream(corpus, data, row_format(data, special), seed=0).rows,
        batches=_BATCHES.value,
        batch_size=_BATCH_SIZE,
        host_rows=np.arange(_BATCH_SIZE),
    )
    next(batches)
    begin, tokens = time.perf_counter(), 0
    for batch in batches:
        tokens += int(np.count_nonzero(batch["example_ids"]))
    return {"tokens_per_second": round(tokens / (time.perf_counter() - begin))}


def measurements() -> Iterator[dict[str, Any]]:
    """Yields the lines to print."""
    corpus = open_corpus(_CORPUS.value, "train")
    special = corpus_tokenizer(_CORPUS.value).special
    if _FORMATS.value:
        for config in combinations():
            for length in LENGTHS:
                open_n = dataclasses.replace(config.data, max_examples_per_row=0)
                data = with_length(open_n, length)
                yield {"format": title(config), "length": length} | measure_plan(corpus, data)
        return
    for length in LENGTHS:
        data = with_length(PretrainDataConfig(), length)
        yield {"plan": length} | measure_plan(corpus, data)
        yield {"seek": length} | measure_seek(_CORPUS.value, data, special)
        yield {"loader": length} | measure_loader(corpus, data, special)


def main(_: list[str]) -> None:
    """Prints each measurement as it is made."""
    for each in measurements():
        print(json.dumps(each), flush=True)


if __name__ == "__main__":
    app.run(main)
