"""ModernBERT at the size of BERT small: 4 layers of width 512."""

import pretrain_modern_base
from bert_jax.config import Optimizer, PretrainConfig, Schedule


def get_config() -> PretrainConfig:
    """Differs from base in its size, its length and its budget: 26 G tokens."""
    config = pretrain_modern_base.get_config()
    config.encoder.width = 512
    config.encoder.layers = 4
    config.encoder.heads = 8
    config.encoder.mlp_width = 768
    config.encoder.max_length = 1_024
    config.phases = []
    config.optimizer.rule, config.optimizer.clip_norm = Optimizer.ADAMW, 1.0
    config.optimizer.decoupled_decay = False
    config.optimizer.schedule = Schedule.STABLE
    config.batch_size = 256
    config.steps = 100_000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_share = 0.1
    config.optimizer.warmup_steps = 2_000
    return config
