r"""Fine-tunes a checkpoint on a labelled task: the same encoder, a new head.

    python -m bert_jax.finetune --config=finetune_text --checkpoint=runs/base \
        --config.data.train=train.tsv --config.data.dev=dev.tsv --workdir=runs/task

The same command goes on with a run that was stopped. With --config.seeds above 1 each seed has a
directory of its own, WORKDIR/seed-N, and WORKDIR/summary.json the mean and the deviation.
"""

from collections.abc import Sequence

from bert_jax.cli import app
from bert_jax.cli.flags import (
    LaunchFlags,
    checked_config,
    checkpoint_flag,
    config_flag,
    workdir_flag,
)
from bert_jax.config import FinetuneConfig

_CONFIG = config_flag(FinetuneConfig)
_CHECKPOINT = checkpoint_flag("pretrained or fine-tuned, to start from")
_WORKDIR = workdir_flag()
_LAUNCH = LaunchFlags()


def main(_: Sequence[str]) -> None:
    """Checks the config, then trains."""
    config = checked_config(_CONFIG.value, FinetuneConfig)
    checkpoint = app.require_path("checkpoint", _CHECKPOINT.value, "runs/base")
    workdir = app.require_path("workdir", _WORKDIR.value, "runs/task")
    with app.imports():
        from bert_jax.runs.finetuning import finetune
    finetune(config, checkpoint, workdir, launch=_LAUNCH.value)


if __name__ == "__main__":
    app.run(main)
