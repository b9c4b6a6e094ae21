"""MiniLM with 6 layers of width 384 (Wang et al., 2020); `docs/recipes.md` has the sources."""

from bert_jax.config import DistillConfig, ExampleFormat, SentenceObjective


def get_config() -> DistillConfig:
    """Attention and value relations of the last layer; a model without a masked-LM head."""
    config = DistillConfig(steps=400_000, batch_size=256)
    config.encoder.layers = 6
    config.encoder.width = 384
    config.encoder.mlp_width = 1_536
    config.data.format = ExampleFormat.FULL_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = 512
    config.distillation.mlm_weight = 0.0
    config.distillation.attention_weight = 1.0
    config.distillation.value_weight = 1.0
    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 4_000
    config.optimizer.weight_decay = 0.01
    config.encoder.dropout_rate = config.encoder.attention_dropout_rate = 0.1
    return config
