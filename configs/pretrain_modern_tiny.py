"""ModernBERT at the size of BERT tiny (2 layers of width 128), in minutes on two CPU cores."""

import pretrain_modern_mini
from bert_jax.config import Optimizer, PretrainConfig


def get_config() -> PretrainConfig:
    """Differs from mini in its size and its optimizer: so few steps gain by Muon."""
    config = pretrain_modern_mini.get_config()
    config.encoder.width = 128
    config.encoder.layers = 2
    config.encoder.heads = 2
    config.encoder.mlp_width = 192
    config.encoder.init_stddev = 0.06
    config.data.length = 64
    config.batch_size = 32
    config.steps = 1_000
    config.eval_steps = config.checkpoint_steps = 250
    config.eval_batches = 10
    config.optimizer.rule, config.optimizer.update_rms = Optimizer.MUON, 0.4
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 60
    return config
