r"""Fine-tunes with many seeds and learning rates at once, as one compiled program.

    python -m bert_jax.finetune_sweep --config=finetune_sst2 --checkpoint=runs/base \
        --learning_rates=1e-5,3e-5,1e-4 --config.seeds=5 --workdir=runs/sweep

Each run has the scores of `finetune` with its seed and its learning rate. A step whose loss is NaN
or infinite is skipped in its run, however many they are; the summary counts them. The log has means
over all runs, and the highest learning rate.

WORKDIR/summary.json has the scores of every epoch of every run, written last; predictions.npz the
outputs of the best epochs for the held-out split: `outputs` [runs, inputs, C] float32, or
[runs, tokens of all inputs, C], `seeds` and `learning_rates` [runs]. A sweep that is stopped keeps
nothing: the same command begins anew.
"""

from collections.abc import Sequence

from absl import flags

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
_LEARNING_RATES = flags.DEFINE_list(
    "learning_rates", None, "the learning rates, instead of optimizer.learning_rate"
)
_LAUNCH = LaunchFlags()


def main(_: Sequence[str]) -> None:
    """Checks the config, then trains, or shows what a finished sweep found."""
    config = checked_config(_CONFIG.value, FinetuneConfig)
    rates = app.require("learning_rates", ",".join(_LEARNING_RATES.value or []), "1e-5,3e-5,1e-4")
    checkpoint = app.require_path("checkpoint", _CHECKPOINT.value, "runs/base")
    workdir = app.require_path("workdir", _WORKDIR.value, "runs/sweep")
    with app.imports():
        from bert_jax.runs.finetuning_sweep import sweep
    sweep(config, rates, checkpoint, workdir, launch=_LAUNCH.value)


if __name__ == "__main__":
    app.run(main)
