"""Scores a checkpoint on a labelled file, or its vectors by what they retrieve.

    python -m bert_jax.evaluate --checkpoint=runs/sst2 --data=test.tsv --output=results/sst2
    python -m bert_jax.evaluate --checkpoint=runs/vectors --retrieval=scifact --bm25

The columns are those of the run. The output holds `scores.json`, `predictions.jsonl` (each
prediction next to its gold label) and, for classes, `confusion.tsv`, `confusion.png` and
`reliability.png`.

`--retrieval` takes any checkpoint, and a directory in BEIR's layout (corpus.jsonl, queries.jsonl,
qrels/SPLIT.tsv) or a SQuAD file, whose questions are to find their paragraphs. The output holds
`scores.json` and the runs, `vectors.trec` and `bm25.trec`, for trec_eval.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import LaunchFlags, SearchFlags, batch_size_flag, checkpoint_flag
from bert_jax.config import Launch, SearchOptions
from bert_jax.errors import UserError
from bert_jax.files import given_path
from bert_jax.inspection.choices import VectorType

_CHECKPOINT = checkpoint_flag("fine-tuned; with --retrieval any")
_DATA = flags.DEFINE_string("data", "", "a labelled file or dataset; '': the run's dev file")
_OUTPUT = flags.DEFINE_string("output", "", "a new directory for the results; '': print the scores")
_BATCH_SIZE = batch_size_flag()
_LAUNCH = LaunchFlags()
_RETRIEVAL = flags.DEFINE_string("retrieval", "", "a directory in BEIR's layout, or a SQuAD file")
_SPLIT = flags.DEFINE_string("split", "test", "whose judgements, qrels/SPLIT.tsv, are taken")
_BM25 = flags.DEFINE_bool("bm25", False, "rank by BM25, too")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", [each.value for each in VectorType], "of the vectors that are compared"
)
_SKIP_OWN_ID = flags.DEFINE_bool(
    "skip_own_id", False, "leave the document with a query's own id out of its results"
)
_SKIP_BAD_ROWS = flags.DEFINE_bool(
    "skip_bad_rows", False, "leave out rows that cannot be used, and count them"
)
_SEARCH = SearchFlags()


def _check_flags() -> None:
    of_retrieval = (_SPLIT, _BM25, _DTYPE, _SKIP_OWN_ID)
    if _RETRIEVAL.value:
        if _DATA.value:
            raise UserError(
                f"--data={_DATA.value} --retrieval={_RETRIEVAL.value}: give one of the two"
            )
        if _LAUNCH.value != Launch():
            raise UserError(
                "--retrieval runs in one process: leave out --coordinator, --processes and"
                " --process"
            )
    elif any(flag.present for flag in of_retrieval) or _SEARCH.value != SearchOptions():
        names = ", ".join(f"--{flag.name}" for flag in of_retrieval)
        raise UserError(
            f"{names} and the flags of vectors are of --retrieval: add it, or leave them out"
        )


def main(_: Sequence[str]) -> None:
    """Restores the checkpoint, scores the file and writes the results."""
    _check_flags()
    checkpoint = app.require_path("checkpoint", _CHECKPOINT.value, "runs/sst2")
    output = given_path(_OUTPUT.value) if _OUTPUT.value else None
    if not _RETRIEVAL.value:
        with app.imports():
            from bert_jax.tasks.scoring import score_file
        score_file(
            checkpoint,
            _DATA.value,
            output,
            batch_size=_BATCH_SIZE.value,
            skip_bad_rows=_SKIP_BAD_ROWS.value,
            launch=_LAUNCH.value,
        )
        return
    with app.imports():
        from bert_jax.distributed.compiled import keep_compiled_of_commands
        from bert_jax.retrieval.scoring import RetrievalOptions, score_retrieval
    keep_compiled_of_commands()
    options = RetrievalOptions(
        split=_SPLIT.value,
        skip_bad_rows=_SKIP_BAD_ROWS.value,
        skip_own_id=_SKIP_OWN_ID.value,
        bm25=_BM25.value,
        dtype=VectorType(_DTYPE.value),
    )
    score_retrieval(
        checkpoint,
        given_path(_RETRIEVAL.value),
        output,
        options=options,
        vectors=_SEARCH.value,
        batch_size=_BATCH_SIZE.value,
    )


if __name__ == "__main__":
    app.run(main)
