"""BERT base: 110,106,428 parameters with a vocabulary of 30,522."""

from bert_jax.config import PhaseConfig, PretrainConfig


def get_config() -> PretrainConfig:
    """As published: rows of 128 tokens for nine tenths of the steps, then of 512."""
    config = PretrainConfig()
    config.data.length = 512
    config.phases = [PhaseConfig(share=0.9, length=128), PhaseConfig(share=0.1)]
    return config
