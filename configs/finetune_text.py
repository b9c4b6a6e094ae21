"""Classification of single texts, from columns `text` and `label`, as BERT was fine-tuned."""

from bert_jax.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    """Fine-tuning's defaults are the recipe; name the files on the command line."""
    return FinetuneConfig()
