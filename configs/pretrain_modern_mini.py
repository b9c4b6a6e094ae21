"""ModernBERT at the size of BERT mini (4 layers of width 256), in an hour on two CPU cores."""

import pretrain_modern_small
from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """Differs from small in its size, and in what suits rows of 128 tokens, each seen once."""
    config = pretrain_modern_small.get_config()
    config.encoder.width = 256
    config.encoder.heads = 4
    config.encoder.mlp_width = 384
    config.encoder.max_length = 128
    config.encoder.window = config.encoder.global_every = 0  # a row is no longer than two windows
    config.encoder.rope_theta, config.encoder.rope_theta_local = 10_000.0, 0.0
    config.encoder.attention_output_dropout_rate = 0.0
    config.encoder.init_stddev = 0.04  # 0.02 suits three times the width
    config.data.length = 128
    config.batch_size = 16
    config.steps = 8_000
    config.log_steps = 50
    config.eval_steps = config.checkpoint_steps = 500
    config.optimizer.learning_rate = 2e-3
    config.optimizer.decay_share = 0.25
    config.optimizer.warmup_steps = 150
    return config
