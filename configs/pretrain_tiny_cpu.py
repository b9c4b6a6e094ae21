"""BERT tiny in minutes on one CPU core, for studies that want many runs."""

import pretrain_tiny
from bert_jax.config import Norm, PositionInit, PretrainConfig


def get_config() -> PretrainConfig:
    """Changed as `pretrain_mini_cpu`, and for the same reason (decisions/0008)."""
    config = pretrain_tiny.get_config()
    config.encoder.norm = Norm.PRE
    config.encoder.position_init = PositionInit.SINUSOIDAL
    config.encoder.dropout_rate = 0.0  # nothing is seen twice
    config.encoder.attention_dropout_rate = 0.0
    config.encoder.init_stddev = 0.06
    config.batch_size = 16
    config.steps = 2_000
    config.log_steps = 100
    config.eval_steps = 500
    config.eval_batches = 20
    config.checkpoint_steps = 500
    config.keep_checkpoints = 1
    config.optimizer.learning_rate = 3e-3
    config.optimizer.beta2 = 0.98
    config.optimizer.warmup_steps = 100
    return config
