"""BERT tiny: 2 layers of width 128."""

from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """Differs from base in its size."""
    config = PretrainConfig()
    config.encoder.width = 128
    config.encoder.layers = 2
    config.encoder.heads = 2
    config.encoder.mlp_width = 512
    return config
