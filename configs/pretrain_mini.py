"""BERT mini (4 layers of width 256), for a corpus of some millions of tokens."""

from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """Differs from the defaults in its size and its schedule."""
    config = PretrainConfig(batch_size=32, steps=10_000, log_steps=50)
    config.encoder.width = 256
    config.encoder.layers = 4
    config.encoder.heads = 4
    config.encoder.mlp_width = 1024
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 500
    config.eval_steps = 500
    config.checkpoint_steps = 500
    return config
