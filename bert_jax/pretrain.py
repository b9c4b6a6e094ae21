r"""Pretrains an encoder: masked language model and next sentence prediction.

    python -m bert_jax.pretrain --config=pretrain_base \
        --config.data.corpus=data/wiki --workdir=runs/base

Where the parameters come from, in this order:
1. A checkpoint in --workdir: the run goes on where it was, exactly.
2. --init=CHECKPOINT: its parameters, a fresh optimizer, step 0 (continued pretraining). Encoder and
   examples are its own where the recipe leaves them at their defaults; a field that the command
   line names is as it says.
3. Random values, from --config.seed.
"""

from collections.abc import Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.cli.flags import (
    LaunchFlags,
    checked_config,
    config_flag,
    given_fields,
    replay_flag,
    workdir_flag,
)
from bert_jax.config import PretrainConfig

_CONFIG = config_flag(PretrainConfig)
_WORKDIR = workdir_flag()
_INIT = flags.DEFINE_string(
    "init", "", "a pretraining run, or RUN/checkpoints/STEP, whose parameters to start from"
)
_REPLAY = replay_flag()
_LAUNCH = LaunchFlags()


def main(_: Sequence[str]) -> None:
    """Checks the config, then trains."""
    config = _CONFIG.value
    if _INIT.value:
        with app.imports():
            from bert_jax.checkpoints.continued import continued
        config = continued(config, _INIT.value, given_fields())
    config = checked_config(config, PretrainConfig)
    workdir = app.require_path("workdir", _WORKDIR.value, "runs/base")
    with app.imports():
        from bert_jax.runs.pretraining import pretrain, replay
    if _REPLAY.value:
        replay(config, workdir, _REPLAY.value, init=_INIT.value, launch=_LAUNCH.value)
    else:
        pretrain(config, workdir, init=_INIT.value, launch=_LAUNCH.value)


if __name__ == "__main__":
    app.run(main)
