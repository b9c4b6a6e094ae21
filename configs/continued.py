"""Continued pretraining of a small model on two CPU cores; --init gives encoder and examples."""

from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """600 steps of 16 rows, the rate falling from a third of what mini was pretrained with."""
    config = PretrainConfig(steps=600, batch_size=16)
    config.data.length = 128
    config.masking.rate = 0.3
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 60
    config.optimizer.beta2 = 0.98
    config.log_steps = 50
    config.eval_steps = 100
    config.checkpoint_steps = 600
    return config
