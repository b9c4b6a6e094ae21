"""A label for each word: entities or parts of speech, from files with a word a line."""

from bert_jax.config import FinetuneConfig, TaskKind


def get_config() -> FinetuneConfig:
    """The first column is the word and the last its tag, as in CoNLL-2003; CoNLL-U by name."""
    config = FinetuneConfig(task=TaskKind.TAGS)
    config.data.length = 128
    return config
