"""ModernBERT base (Warner et al., 2024): 22 layers of width 768, most of them windowed."""

from bert_jax.config import (
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
    """As published (tables 3 and 4), with AdamW and one learning rate for both lengths.

    1.72 T tokens in rows of 1,024, then 0.3 T in rows of 8,192; the paper changes the learning rate
    and theta between the two.
    """
    config = PretrainConfig(steps=428_000, batch_size=4_608)
    encoder = config.encoder
    encoder.layers = 22
    encoder.mlp, encoder.mlp_width = MlpKind.GATED, 1_152
    encoder.max_length = 8_192
    encoder.segments = 0
    encoder.position_encoding = PositionEncoding.ROTARY
    encoder.rope_theta, encoder.rope_theta_local = 160_000.0, 10_000.0
    encoder.window, encoder.global_every = 64, 3
    encoder.norm, encoder.norm_kind = Norm.PRE, NormKind.LAYER_NORM_NO_BIAS
    encoder.norm_epsilon = 1e-5
    encoder.first_norm = False
    encoder.biases = False
    encoder.depth_scaled_init = True
    encoder.pooling, encoder.pooler = InputPooling.MEAN, PoolerKind.NONE  # nothing trains [CLS]
    encoder.dropout_rate = encoder.attention_dropout_rate = 0.0
    encoder.attention_output_dropout_rate = 0.1
    config.data.format = ExampleFormat.DOC_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = 1_024
    config.phases = [
        PhaseConfig(share=0.85),
        PhaseConfig(share=0.15, length=8_192, batch_size=576),  # the same number of tokens
    ]
    config.masking.rate = 0.3
    config.optimizer.learning_rate = 8e-4
    config.optimizer.schedule = Schedule.STABLE
    config.optimizer.decay_share = 0.025
    config.optimizer.warmup_steps = 640
    config.optimizer.beta2 = 0.98
    config.optimizer.weight_decay = 1e-5
    return config
