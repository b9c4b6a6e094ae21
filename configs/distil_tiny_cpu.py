"""Two layers of width 128 from a teacher of four, on two CPU cores."""

import dataclasses

import pretrain_modern_tiny
from bert_jax.config import DistillConfig, DistilledTokens


def get_config() -> DistillConfig:
    """DistilBERT's three losses, at the masked tokens alone, which costs less."""
    tiny = pretrain_modern_tiny.get_config()
    config = DistillConfig(
        **{field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)}
    )
    config.student_layers = "0,3"
    config.distillation.soft_weight = 5.0
    config.distillation.mlm_weight = 2.0
    config.distillation.cosine_weight = 1.0
    config.distillation.tokens = DistilledTokens.MASKED
    return config
