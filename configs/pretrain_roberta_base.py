"""RoBERTa base (Liu et al., 2019, table 9); `docs/recipes.md` has the source of each number."""

from bert_jax.config import ExampleFormat, PretrainConfig, SentenceObjective


def get_config() -> PretrainConfig:
    """BERT base in full sentences of 512 tokens, without next sentence prediction."""
    config = PretrainConfig(steps=500_000, batch_size=8_192)
    config.encoder.segments = 0
    config.encoder.norm_epsilon = 1e-5
    config.data.format = ExampleFormat.FULL_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = 512
    config.data.short_rate = 0.0
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 24_000
    config.optimizer.beta2 = 0.98
    config.optimizer.epsilon = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 0.0
    return config
