"""Scores a fine-tuned checkpoint on a labelled file, and writes its predictions.

    python -m bert_jax.evaluate --checkpoint=runs/sst2 --data=test.tsv --output=results/sst2

The columns are those of the run. The output holds `scores.json`, `predictions.jsonl` (each
prediction next to its gold label) and, for classes, `confusion.tsv`, `confusion.png` and
`reliability.png`.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import LaunchFlags, batch_size_flag, checkpoint_flag
from bert_jax.files import given_path

_CHECKPOINT = checkpoint_flag("fine-tuned")
_DATA = flags.DEFINE_string("data", "", "a labelled file or dataset; '': the run's dev file")
_OUTPUT = flags.DEFINE_string("output", "", "a new directory for the results; '': print the scores")
_BATCH_SIZE = batch_size_flag()
_LAUNCH = LaunchFlags()


def main(_: Sequence[str]) -> None:
    """Restores the checkpoint, scores the file and writes the results."""
    checkpoint = app.require_path("checkpoint", _CHECKPOINT.value, "runs/sst2")
    output = given_path(_OUTPUT.value) if _OUTPUT.value else None
    with app.imports():
        from bert_jax.tasks.scoring import score_file
    score_file(checkpoint, _DATA.value, output, batch_size=_BATCH_SIZE.value, launch=_LAUNCH.value)


if __name__ == "__main__":
    app.run(main)
