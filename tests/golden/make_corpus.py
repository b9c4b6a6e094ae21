"""Makes tests/golden/corpus and corpus_rows.json again, after a change of CORPUS_FORMAT.

python -m tests.golden.make_corpus
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np

from bert_jax.config import PretrainDataConfig
from bert_jax.data.corpus.corpus import open_corpus
from bert_jax.data.pretraining.corpora import corpus_tokenizer
from bert_jax.data.pretraining.rows import RowStream, row_format

HERE = pathlib.Path(__file__).parent
TEXT, CORPUS, ROWS = HERE / "corpus.txt", HERE / "corpus", HERE / "corpus_rows.json"
_ROWS = 14
PREPARE_FLAGS = ("--tokenizer=train:wordpiece:90", "--heldout_rate=0.3", "--workers=1")


def rows_of(corpus: pathlib.Path) -> dict[str, list]:
    """Returns the first rows of a run on a corpus, over more than one epoch."""
    config = PretrainDataConfig(length=40, max_examples_per_row=2)
    layout = row_format(config, corpus_tokenizer(str(corpus)).special)
    stream = RowStream(open_corpus(corpus, "train"), config, layout, seed=11)
    batch = stream.rows(np.arange(_ROWS))
    assert stream.position(_ROWS - 1).epoch > 0
    return {name: field.tolist() for name, field in batch.items()}


def main() -> None:
    """Prepares the text and writes the rows."""
    shutil.rmtree(CORPUS, ignore_errors=True)
    flags = (f"--source=text:{TEXT.name}", f"--output={CORPUS.name}", *PREPARE_FLAGS)
    subprocess.run([sys.executable, "-m", "bert_jax.prepare", *flags], cwd=HERE, check=True)
    fields = (f'"{name}": {json.dumps(field)}' for name, field in rows_of(CORPUS).items())
    ROWS.write_text("{" + ",\n ".join(fields) + "}\n")


if __name__ == "__main__":
    main()
