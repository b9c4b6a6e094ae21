"""Questions answered by a span of a text: SQuAD 1.1 and 2.0, or your own in its format."""

from bert_jax.config import FinetuneConfig, TaskKind


def get_config() -> FinetuneConfig:
    """BERT's settings for SQuAD (sections 4.2 and 4.3): rows of 384, windows 128 apart."""
    config = FinetuneConfig(task=TaskKind.SPANS, epochs=2)
    config.data.length = 384
    config.data.stride = 128
    config.optimizer.learning_rate = 3e-5
    return config
