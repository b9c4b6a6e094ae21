"""BERT tiny (2 layers of width 128), pretrained for three minutes on two CPU cores."""

from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """Small enough to watch; the steps are those of any size."""
    config = PretrainConfig(batch_size=32, steps=1_000, log_steps=50)
    config.encoder.width = 128
    config.encoder.layers = 2
    config.encoder.heads = 2
    config.encoder.mlp_width = 512
    config.encoder.init_stddev = 0.06  # 0.02 suits the width of base, not a sixth of it
    config.encoder.dropout_rate = 0.0
    config.encoder.attention_dropout_rate = 0.0
    config.data.length = 64
    config.optimizer.learning_rate = 3e-3
    config.optimizer.beta2 = 0.98
    config.optimizer.warmup_steps = 60
    config.eval_steps = 250
    config.eval_batches = 10
    config.checkpoint_steps = 250
    return config
