"""Does a task by its words, as `finetune` does it: the baseline without layers.

    python -m experiments.linear --config=finetune_sst2 --checkpoint=runs/base --workdir=runs/linear

The checkpoint gives the tokenizer alone, by which the task is read as `finetune` reads it. The
model is that of `word_model.py`.
"""

import json
from collections.abc import Sequence

import numpy as np

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.checkpoints.workdir import check_workdir, claim_workdir
from bert_jax.cli import app
from bert_jax.cli.flags import checked_config, checkpoint_flag, config_flag, workdir_flag
from bert_jax.config import FinetuneConfig
from bert_jax.files import write_atomically
from bert_jax.runs.finetuning_setup import labelled_inputs
from bert_jax.tasks.kinds import chosen_metric, read_task
from bert_jax.text.tokenizer import tokenizer_from_dict
from bert_jax.training.logs import LOG_FILE
from experiments.word_model import linear_outputs

_CONFIG = config_flag(FinetuneConfig)
_CHECKPOINT = checkpoint_flag("pretrained, whose tokenizer reads the task")
_WORKDIR = workdir_flag()


def main(_: Sequence[str]) -> None:
    """Fits the model and writes its scores as a log of fine-tuning."""
    config = checked_config(_CONFIG.value, FinetuneConfig)
    checkpoint = find_checkpoint(app.require_path("checkpoint", _CHECKPOINT.value, "runs/base"))
    workdir = app.require_path("workdir", _WORKDIR.value, "runs/linear")
    check_workdir(workdir, config)
    task = read_task(config, tokenizer_from_dict(read_metadata(checkpoint)["tokenizer"]))
    drawn = np.unique(labelled_inputs(config, task).example_of)
    dev = task.dev["dev"]
    floor = dev.scores(dev.constant_outputs())
    metric = chosen_metric(config, list(floor))
    scores = dev.scores(linear_outputs(task.train, drawn, dev))
    claim_workdir(workdir, config)
    entries = [
        {"step": 0, "metric": f"dev_{metric}", "floor": floor[metric], "examples": len(drawn)},
        {"step": 1} | {f"dev_{name}": score for name, score in scores.items()},
    ]
    lines = [json.dumps(entry, allow_nan=False) for entry in entries]
    write_atomically(workdir / LOG_FILE, "\n".join([*lines, ""]).encode())
    print(f"{len(drawn):,} examples: dev {metric} {scores[metric]:.4f}")


if __name__ == "__main__":
    app.run(main)
