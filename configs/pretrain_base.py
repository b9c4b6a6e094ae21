"""BERT base: 110,106,428 parameters with a vocabulary of 30,522."""

from bert_jax.config import PretrainConfig


def get_config() -> PretrainConfig:
    """The published model; its sizes are the defaults."""
    return PretrainConfig()
