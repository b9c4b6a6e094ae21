"""Scores a fine-tuned checkpoint on any labelled file of its task, and shows where it errs.

    python -m bert_jax.evaluate --checkpoint=runs/sst2 --data=test.tsv --output=results/sst2

The columns are those that the run was trained with. Into the output go `scores.json`,
`predictions.jsonl` (each example beside what is right) and, for classes, `confusion.png` and
`reliability.png`.
"""

import functools
import json
import os
import pathlib
from collections.abc import Sequence

from absl import flags

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.cli import app
from bert_jax.cli.flags import LaunchFlags, batch_size_flag, checkpoint_flag
from bert_jax.config import HostsConfig, MeshConfig
from bert_jax.data.corpus.staging import locked_staging
from bert_jax.data.tasks.splits import dev_sources
from bert_jax.distributed import sharding
from bert_jax.distributed.processes import is_first, join
from bert_jax.errors import UserError
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.kinds import KINDS, check_source
from bert_jax.tasks.plots import plot_confusion, plot_reliability

_CHECKPOINT = checkpoint_flag("a fine-tuned one")
_DATA = flags.DEFINE_string("data", None, "a labelled file or dataset; by default the run's dev")
_OUTPUT = flags.DEFINE_string("output", None, "a directory for the results; '': they are printed")
_BATCH_SIZE = batch_size_flag()
_LAUNCH = LaunchFlags()


def main(_: Sequence[str]) -> None:
    """Restores the checkpoint, scores the file, and writes what came out."""
    named = app.require("checkpoint", _CHECKPOINT.value, "runs/sst2")
    join(_LAUNCH.value, HostsConfig(), {"checkpoint": named, "data": _DATA.value})
    checkpoint = find_checkpoint(named)
    output = pathlib.Path(_OUTPUT.value).expanduser() if _OUTPUT.value else None
    if output and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output={output} is there already: name a new or an empty directory")
    tuned = FineTuned(checkpoint, read_metadata(checkpoint), sharding.make_mesh(MeshConfig()))
    task, data = tuned.config.task, tuned.config.data
    source = _DATA.value or dev_sources(data).get("dev")
    if source is None:
        raise UserError(f"--data is not set, and {checkpoint} was imported: name a labelled file")
    check_source(task, source)
    split = KINDS[task].read_split(source, data, tuned.tokenizer, tuned.labels)
    if _DATA.value:
        split.tuned_by(tuned.scores)  # nothing is chosen by what is scored
    outputs = tuned.outputs(split.inputs, batch_size=_BATCH_SIZE.value, packed=True)
    scores = split.scores(outputs)
    print(f"{source}: {split.examples:,} examples{split.notes and f'; {split.notes}'}")
    for name, score in scores.items():
        print(f"{name:24}{score:.4g}")
    if output is None or not is_first():
        return
    dumps = functools.partial(json.dumps, ensure_ascii=False)
    lines = [dumps(prediction) + "\n" for prediction in split.predictions(outputs)]
    facts = {"checkpoint": str(checkpoint), "data": source, "examples": split.examples}
    with locked_staging(output, worth_keeping=lambda _: False) as staging:
        (staging / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
        (staging / "scores.json").write_text(json.dumps(facts | scores, indent=1))
        if classes := split.classes(outputs):
            plot_confusion(*classes, tuned.labels, staging / "confusion.png")
            plot_reliability(*classes, staging / "reliability.png")
        os.replace(staging, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    app.run(main)
