"""SST-2 (sentiment of a sentence) from local files: `sentence TAB label` lines without a header."""

from bert_jax.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    """Sentences are short: 64 pieces hold nearly all of them."""
    config = FinetuneConfig()
    config.data.header = False
    config.data.text_column = "0"
    config.data.label_column = "1"
    config.data.length = 64
    return config
