r"""Distils an encoder: pretraining whose loss also looks at a teacher.

    python -m bert_jax.distill --config=distilbert \
        --teacher=runs/base --config.data.corpus=data/wiki --workdir=runs/distilbert

The student begins as layers of the teacher (--config.student_layers) or from random values; the
same command resumes a run that was stopped. Its checkpoints are those of pretraining.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import (
    LaunchFlags,
    checked_config,
    config_flag,
    replay_flag,
    workdir_flag,
)
from bert_jax.config import DistillConfig

_CONFIG = config_flag(DistillConfig)
_WORKDIR = workdir_flag()
_TEACHER = flags.DEFINE_string(
    "teacher", None, "a run, or RUN/checkpoints/STEP: pretrained, fine-tuned or imported"
)
_REPLAY = replay_flag()
_LAUNCH = LaunchFlags()


def main(_: Sequence[str]) -> None:
    """Checks the config, then trains."""
    config = checked_config(_CONFIG.value, DistillConfig)
    teacher = app.require("teacher", _TEACHER.value, "runs/base")
    workdir = app.require_path("workdir", _WORKDIR.value, "runs/distilbert")
    with app.imports():
        from bert_jax.runs.pretraining import pretrain, replay
    if _REPLAY.value:
        replay(config, workdir, _REPLAY.value, teacher=teacher, launch=_LAUNCH.value)
    else:
        pretrain(config, workdir, teacher=teacher, launch=_LAUNCH.value)


if __name__ == "__main__":
    app.run(main)
