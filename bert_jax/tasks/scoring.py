"""Scores of a fine-tuned checkpoint on a labelled file, and the predictions beside the labels."""

import contextlib
import functools
import json
import os
import pathlib
import re
from collections.abc import Sequence

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.config import HostsConfig, Launch, MeshConfig
from bert_jax.data.tasks.splits import Outputs, Split, dev_sources
from bert_jax.distributed import sharding
from bert_jax.distributed.compiled import keep_compiled_of_commands
from bert_jax.distributed.processes import is_first, join
from bert_jax.errors import UserError
from bert_jax.files import check_new, new_folder
from bert_jax.tasks.finetuned import FineTuned
from bert_jax.tasks.kinds import KINDS, check_source
from bert_jax.tasks.plots import count_confusions, plot_confusion, plot_reliability


def score_file(
    checkpoint: str | os.PathLike[str],
    data: str,
    output: pathlib.Path | None,
    *,
    batch_size: int = 32,
    skip_bad_rows: bool = False,
    launch: Launch = Launch(),
) -> dict[str, float]:
    """Scores a checkpoint on a file, prints the scores, and writes the results.

    Args:
      checkpoint: a fine-tuned run, or one of its steps.
      data: a labelled file or dataset; '': the dev file of the run.
      output: a new directory for scores, predictions and plots; None: nothing is written.
      batch_size: inputs at a time.
      skip_bad_rows: leave out, and count, rows that cannot be used, as a run with
        `data.skip_bad_rows` does.
      launch: the position of this process among those of the run; by default it is alone.

    Returns:
      The scores by name.

    Raises:
      UserError: for a checkpoint without a task, a file of another task, or an output that exists.
    """
    join(launch, HostsConfig(), {"checkpoint": str(checkpoint), "data": data})
    keep_compiled_of_commands()
    found = find_checkpoint(checkpoint)
    place = check_new(output, "output") if output and is_first() else None
    with new_folder(place) if place else contextlib.nullcontext() as made:
        tuned = FineTuned(found, read_metadata(found), sharding.make_mesh(MeshConfig()))
        task, columns = tuned.config.task, tuned.config.data
        source = data or dev_sources(columns).get("dev")
        if source is None:
            raise UserError(f"--data is not set, and {found} was imported: name a labelled file")
        check_source(task, source)
        columns.skip_bad_rows |= skip_bad_rows
        try:
            split = KINDS[task].read_split(source, tuned.config, tuned.tokenizer, tuned.labels)
        except UserError as error:
            raise UserError(_without_config(str(error))) from None
        if data:
            split.tuned_by(tuned.scores)  # nothing is chosen by what is scored
        outputs = tuned.outputs(split.inputs, batch_size=batch_size)
        scores, undefined = split.scores(outputs), split.undefined(outputs)
        if made:
            about = {"checkpoint": str(found), "data": source, "examples": split.examples}
            written = about | scores | ({"undefined": undefined} if undefined else {})
            (made / "scores.json").write_text(json.dumps(written, indent=1))
            _write_predictions(made, split, outputs, tuned.labels)
    print(f"{source}: {split.examples:,} examples{split.notes and f'; {split.notes}'}")
    for name, score in scores.items():
        why = f"  (undefined: {undefined[name]})" if name in undefined else ""
        print(f"{name:24}{score:.4g}{why}")
    if made:
        print(f"wrote {output}")
    return scores


def _without_config(message: str) -> str:
    """Returns a reader's message with the remedies of `evaluate`, which has no --config."""
    message = message.replace("--config.data.skip_bad_rows", "--skip_bad_rows")
    theirs = "rename the columns, which are those that the run was trained with"
    message = re.sub(r"set --config\.data\.\w+", theirs, message)
    return message.replace("--config.data.", "the run's data.")


def _write_predictions(
    folder: pathlib.Path, split: Split, outputs: Outputs, labels: Sequence[str]
) -> None:
    dumps = functools.partial(json.dumps, ensure_ascii=False)
    lines = [dumps(prediction) + "\n" for prediction in split.predictions(outputs)]
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    if classes := split.classes(outputs):
        counts = count_confusions(*classes)
        rows = [
            f"{labels[gold]}\t{labels[predicted]}\t{count}\n"
            for (gold, predicted), count in counts.items()
        ]
        table = "gold\tpredicted\tcount\n" + "".join(rows)
        (folder / "confusion.tsv").write_text(table, encoding="utf-8")
        plot_confusion(counts, labels, folder / "confusion.png")
        plot_reliability(*classes, folder / "reliability.png")
