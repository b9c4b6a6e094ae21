"""BERT large: 24 layers of width 1024."""

import pretrain_base
from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """Differs from base in its size."""
    config = pretrain_base.get_config()
    config.encoder.width = 1024
    config.encoder.layers = 24
    config.encoder.heads = 16
    config.encoder.mlp_width = 4096
    return config
