"""BERT small: 4 layers of width 512."""

from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """Differs from base in its size."""
    config = PretrainConfig()
    config.encoder.width = 512
    config.encoder.layers = 4
    config.encoder.heads = 8
    config.encoder.mlp_width = 2048
    return config
