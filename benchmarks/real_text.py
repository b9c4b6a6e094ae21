"""Rows of real text for the two programs of `pretrain_step`: packed, and padded as peers pad them.

    python -m benchmarks.real_text --corpus=data/wiki --format=sentence_pair --rows=4

The peer's batches hold the very examples of ours, each a row of its own, padded to the longest.
"""

import json
import pathlib
import tempfile

import numpy as np
from absl import app, flags

from benchmarks.pretrain_step import compare
from benchmarks.rows import packed_batches, padded
from benchmarks.turns import Facts
from bert_jax.config import ExampleFormat

_CORPUS = flags.DEFINE_string("corpus", None, "a directory that prepare made", required=True)
_FORMAT = flags.DEFINE_enum_class("format", ExampleFormat.SEGMENT_PAIR, ExampleFormat, "of them")
_SIZE = flags.DEFINE_string("size", "base", "the model")
_LENGTH = flags.DEFINE_integer("length", 512, "tokens in a row")
_ROWS = flags.DEFINE_integer("rows", 4, "in our batch")
_BATCHES = flags.DEFINE_integer("batches", 3, "each is a turn")


def compare_on_text(
    corpus: str, form: ExampleFormat, *, size: str, length: int, rows: int, batches: int
) -> Facts:
    """Times both on the same examples; as `pretrain_step.compare`, and how full the batches are."""
    packed = packed_batches(corpus, form, length=length, rows=rows, batches=batches)
    theirs = list(map(padded, packed))
    with tempfile.TemporaryDirectory() as folder:
        ours_file, theirs_file = (pathlib.Path(folder, f"{n}.npz") for n in ("ours", "theirs"))
        np.savez(
            ours_file,
            allow_pickle=False,
            **{name: np.stack([b[name] for b in packed]) for name in packed[0]},
        )
        numbered = {f"{name}.{i}": b[name] for i, b in enumerate(theirs) for name in b}
        np.savez(theirs_file, allow_pickle=False, **numbered)
        facts = compare(
            [f"--size={size}", f"--length={length}"],
            turns=batches,
            ours=[f"--batch={rows}", f"--batches={ours_file}"],
            theirs=[f"--batches={theirs_file}"],
        )
    real = [int(np.count_nonzero(batch["example_ids"])) for batch in packed]
    facts["fill"] = sum(real) / sum(batch["token_ids"].size for batch in packed)
    facts["peer_fill"] = sum(real) / sum(batch["input_ids"].size for batch in theirs)
    facts["examples"] = sum(len(batch["input_ids"]) for batch in theirs) / batches
    return facts


def main(_: list[str]) -> None:
    """Prints a line of JSON."""
    print(
        json.dumps(
            compare_on_text(
                _CORPUS.value,
                _FORMAT.value,
                size=_SIZE.value,
                length=_LENGTH.value,
                rows=_ROWS.value,
                batches=_BATCHES.value,
            )
        )
    )


if __name__ == "__main__":
    app.run(main)
