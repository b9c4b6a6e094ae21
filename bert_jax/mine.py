r"""Finds hard negatives for pairs of texts, with the vectors of a checkpoint.

    python -m bert_jax.mine --checkpoint=runs/vectors --data=pairs.tsv --ranks=11-15 \
        --text_column=query --text_pair_column=answer --output=triples.jsonl
    python -m bert_jax.finetune --config=RECIPE --config.task=vectors \
        --config.data.train=triples.jsonl --config.data.negative_columns=negatives ...

Each query's nearest texts, among the second texts of all rows, are ranked by exact search. Those
that any row has as right for it are left out, and the query's own text; the texts at the given
ranks of the rest become its negatives. Low ranks are the hardest, and the likeliest to be right
texts that nobody marked.
"""

import re
from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import SearchFlags, batch_size_flag, checkpoint_flag
from bert_jax.errors import UserError
from bert_jax.files import new_file

_CHECKPOINT = checkpoint_flag("any")
_DATA = flags.DEFINE_string("data", None, "a .tsv, .txt, .csv or .jsonl file of pairs, or TFDS")
_OUTPUT = flags.DEFINE_string("output", None, "a new .jsonl: the pairs, each with its negatives")
_RANKS = flags.DEFINE_string("ranks", "11-15", "of the texts that become negatives, from 1")
_TEXT_COLUMN = flags.DEFINE_string("text_column", "text", "of the queries")
_PAIR_COLUMN = flags.DEFINE_string("text_pair_column", "text_pair", "of the right texts")
_HEADER = flags.DEFINE_bool("header", True, "the first line names the columns; else 0, 1, ...")
_SKIP_BAD_ROWS = flags.DEFINE_bool("skip_bad_rows", False, "leave out rows with an empty text")
_BATCH_SIZE = batch_size_flag()
_SEARCH = SearchFlags()


def _ranks() -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", _RANKS.value, re.ASCII)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise UserError(f"--ranks={_RANKS.value}: write the first and the last, such as 11-15")
    return first, last


def main(_: Sequence[str]) -> None:
    """Reads the pairs, searches, and writes the file of triples."""
    checkpoint = app.require_path("checkpoint", _CHECKPOINT.value, "runs/vectors")
    source = app.require("data", _DATA.value, "pairs.tsv")
    output, ranks = app.require_path("output", _OUTPUT.value, "triples.jsonl"), _ranks()
    if output.suffix != ".jsonl":
        raise UserError(f"--output={output} must end in .jsonl")
    if output.exists():
        raise UserError(f"--output={output} exists: name a new file")
    with app.imports():
        from bert_jax.checkpoints.checkpoint import find_checkpoint
        from bert_jax.config import MeshConfig
        from bert_jax.distributed.compiled import keep_compiled_of_commands
        from bert_jax.distributed.sharding import make_mesh
        from bert_jax.retrieval.mining import (
            NEGATIVES,
            PairColumns,
            mine_negatives,
            read_pairs,
            write_triples,
        )
        from bert_jax.retrieval.search_encoder import SearchEncoder
    columns = PairColumns(_TEXT_COLUMN.value, _PAIR_COLUMN.value, _HEADER.value)
    if columns.query == columns.right:
        raise UserError(
            f"--text_column and --text_pair_column are both {columns.query}: name two columns"
        )
    if NEGATIVES in columns:
        raise UserError(f"a column is called {NEGATIVES}, as the new one: rename it")
    with new_file(output) as made:  # a place that cannot be written is found before any work
        pairs = read_pairs(source, columns, skip_bad_rows=_SKIP_BAD_ROWS.value)
        keep_compiled_of_commands()
        found, mesh = find_checkpoint(checkpoint), make_mesh(MeshConfig())
        encoder = SearchEncoder(found, mesh, _SEARCH.value, batch_size=_BATCH_SIZE.value)
        negatives = mine_negatives(pairs, encoder, ranks, mesh)
        write_triples(made, pairs, negatives, columns)
    count = ranks[1] - ranks[0] + 1
    print(f"wrote {output}: {len(pairs):,} rows with {count} texts each in {NEGATIVES!r}")


if __name__ == "__main__":
    app.run(main)
