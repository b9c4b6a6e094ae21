"""Cramming (Geiping and Goldstein, 2023), its later recipe; `docs/recipes.md` has the sources."""

from bert_jax.config import (
    ExampleFormat,
    InputPooling,
    MlpKind,
    Norm,
    PhaseConfig,
    PoolerKind,
    PositionEncoding,
    PretrainConfig,
    SentenceObjective,
)

_STEPS = 20_000  # ours: its budget is a day of one GPU, whatever that can do
_RAMP = 0.6  # of the budget, in which the batch grows


def get_config() -> PretrainConfig:
    """16 layers, rows of 128 tokens, and a batch that grows until 60 % of the run."""
    config = PretrainConfig(steps=_STEPS, batch_size=8_192)
    encoder = config.encoder
    encoder.layers = 16
    encoder.mlp, encoder.mlp_width = MlpKind.GATED, 1_536
    encoder.max_length = 128
    encoder.segments = 0
    encoder.position_encoding = PositionEncoding.SINUSOIDAL
    encoder.norm = Norm.PRE
    encoder.biases = False
    encoder.mlm_transform, encoder.mlm_bias = False, False
    encoder.pooling, encoder.pooler = InputPooling.MEAN, PoolerKind.TANH
    encoder.dropout_rate = encoder.attention_dropout_rate = 0.0
    config.data.format = ExampleFormat.FULL_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = 128
    config.masking.rate = 0.25
    config.optimizer.learning_rate = 1e-3
    config.optimizer.initial_share = 0.25
    config.optimizer.warmup_steps = round(0.75 * _STEPS)
    config.optimizer.beta2 = 0.98
    config.optimizer.epsilon = 1e-12
    config.optimizer.weight_decay = 0.01
    config.optimizer.clip_norm = 0.5
    sizes = (1_024, 2_048, 4_096, 6_144)
    ramp = [PhaseConfig(share=_RAMP / len(sizes), batch_size=size) for size in sizes]
    config.phases = [*ramp, PhaseConfig(share=1 - _RAMP)]
    return config
