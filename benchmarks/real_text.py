"""Times the two programs of `pretrain_step` on real text: packed rows here, padded ones there.

    python -m benchmarks.real_text --corpus=data/wiki --format=sentence_pair --rows=4

The batches of transformers have the same examples as ours, one in a row, padded to the longest.
"""

import json
import pathlib
import tempfile

import numpy as np
from absl import app, flags

from benchmarks.pretrain_step import compare
from benchmarks.rows import packed_batches, padded
from benchmarks.turns import Figures
from bert_jax.config import ExampleFormat

_CORPUS = flags.DEFINE_string("corpus", None, "a directory that prepare made", required=True)
_FORMAT = flags.DEFINE_enum_class("format", ExampleFormat.SEGMENT_PAIR, ExampleFormat, "of them")
_SIZE = flags.DEFINE_string("size", "base", "the model")
_LENGTH = flags.DEFINE_integer("length", 512, "tokens in a row")
_ROWS = flags.DEFINE_integer("rows", 4, "rows in our batch")
_BATCHES = flags.DEFINE_integer("batches", 3, "number of batches; each is a turn")


def compare_on_text(
    corpus: str, form: ExampleFormat, *, size: str, length: int, rows: int, batches: int
) -> Figures:
    """Times both programs on the same examples.

    Returns:
      The figures of `pretrain_step.compare`; `fill` and `peer_fill`, shares of real tokens in the
      batches, 0 to 1; and `examples`, the mean number in a batch.
    """
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
        figures = compare(
            [f"--size={size}", f"--length={length}"],
            turns=batches,
            ours=[f"--batch={rows}", f"--batches={ours_file}"],
            theirs=[f"--batches={theirs_file}"],
        )
    real = [int(np.count_nonzero(batch["example_ids"])) for batch in packed]
    figures["fill"] = sum(real) / sum(batch["token_ids"].size for batch in packed)
    figures["peer_fill"] = sum(real) / sum(batch["input_ids"].size for batch in theirs)
    figures["examples"] = sum(len(batch["input_ids"]) for batch in theirs) / batches
    return figures


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
