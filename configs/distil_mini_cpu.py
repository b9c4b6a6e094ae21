"""Half the layers of `pretrain_modern_mini` from a teacher of that recipe, on two CPU cores."""

import dataclasses

import pretrain_modern_mini
from bert_jax.config import DistillConfig, DistilledTokens, PretrainConfig


def distilling(recipe: PretrainConfig) -> DistillConfig:
    """Adds DistilBERT's three losses, at the masked tokens alone, which costs less."""
    config = DistillConfig(
        **{field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    )
    config.encoder.layers = 2
    config.student_layers = "0,3"
    config.distillation.soft_weight = 5.0
    config.distillation.mlm_weight = 2.0
    config.distillation.cosine_weight = 1.0
    config.distillation.tokens = DistilledTokens.MASKED
    return config


def get_config() -> DistillConfig:
    """Two layers of the teacher's four."""
    return distilling(pretrain_modern_mini.get_config())
