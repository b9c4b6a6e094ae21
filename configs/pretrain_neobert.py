"""NeoBERT (Le Breton et al., 2025); `docs/recipes.md` has the source of each number."""

from bert_jax.config import (
    Activation,
    ExampleFormat,
    InputPooling,
    MlpKind,
    Norm,
    NormKind,
    PhaseConfig,
    PoolerKind,
    PositionEncoding,
    PretrainConfig,
    Schedule,
    SentenceObjective,
)


def get_config() -> PretrainConfig:
    """A million steps of 1,024 tokens a row, then 50,000 of 4,096."""
    config = PretrainConfig(steps=1_050_000, batch_size=2_048)
    encoder = config.encoder
    encoder.layers = 28
    encoder.mlp, encoder.mlp_width, encoder.activation = MlpKind.GATED, 2_048, Activation.SILU
    encoder.max_length = 4_096
    encoder.segments = 0
    encoder.position_encoding = PositionEncoding.ROTARY
    encoder.norm, encoder.norm_kind, encoder.norm_epsilon = Norm.PRE, NormKind.RMS_NORM, 1e-5
    encoder.embedding_norm = False
    encoder.biases = False
    encoder.mlm_transform, encoder.mlm_tied = False, False
    encoder.pooling, encoder.pooler = InputPooling.MEAN, PoolerKind.NONE  # nothing trains [CLS]
    encoder.dropout_rate = encoder.attention_dropout_rate = 0.0
    config.data.format = ExampleFormat.DOC_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = 1_024
    config.masking.rate, config.masking.mask_share, config.masking.random_share = 0.2, 1.0, 0.0
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 2_000
    config.optimizer.final_share = 0.1
    config.optimizer.beta2 = 0.95
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.1
    config.optimizer.clip_norm = 1.0
    floor = 0.1 * config.optimizer.learning_rate
    config.phases = [
        PhaseConfig(share=90 / 105, schedule=Schedule.COSINE),
        PhaseConfig(share=10 / 105, schedule=Schedule.CONSTANT, learning_rate=floor),
        PhaseConfig(
            share=5 / 105,
            schedule=Schedule.CONSTANT,
            learning_rate=floor,
            length=4_096,
            batch_size=512,
        ),
    ]
    return config
