"""Are two neighbouring words of a sentence swapped? The task of `make quickstart`."""

from bert_jax.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    """Short inputs, and a rate for a tiny model."""
    config = FinetuneConfig(epochs=3)
    config.data.length = 64
    config.optimizer.learning_rate = 1e-3
    config.dropout_rate = 0.1
    return config
