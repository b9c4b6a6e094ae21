"""ModernBERT base (Warner et al., 2024), its three phases; `docs/recipes.md` has the sources."""

from bert_jax.config import (
    ExampleFormat,
    InputPooling,
    MlpKind,
    Norm,
    NormKind,
    Optimizer,
    PhaseConfig,
    PoolerKind,
    PositionEncoding,
    PretrainConfig,
    Schedule,
    SentenceObjective,
)

_SHORT, _LONG = 1_024, 8_192  # tokens in a row
_BATCH, _LONG_BATCH = 4_608, 72  # rows
_THETA = 10_000.0  # of all layers before the rows grow
_LONG_RATE = 3e-4


def _steps_of(tokens: float, batch_size: int, length: int) -> int:
    return round(tokens / (batch_size * length))


def get_config() -> PretrainConfig:
    """1.719 T tokens in rows of 1,024, 250 G in rows of 8,192, and 50 G as the rate falls.

    The batch grows over the first 50 G tokens, here in five sizes.
    """
    sizes = (768, 1_536, 2_304, 3_072, 3_840)
    steps = [_steps_of(10e9, size, _SHORT) for size in sizes]
    steps += [
        _steps_of(1.719e12 - 50e9, _BATCH, _SHORT),
        _steps_of(250e9, _LONG_BATCH, _LONG),
        _steps_of(50e9, _LONG_BATCH, _LONG),
    ]
    config = PretrainConfig(steps=sum(steps), batch_size=_BATCH)
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
    # Nothing trains [CLS]; heads begin with the transform of the masked LM.
    encoder.pooling, encoder.pooler = InputPooling.MEAN, PoolerKind.TRANSFORM
    encoder.dropout_rate = encoder.attention_dropout_rate = 0.0
    encoder.attention_output_dropout_rate = 0.1
    config.data.format = ExampleFormat.DOC_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = _SHORT
    *growing, short, long, last = (each / config.steps for each in steps)
    longer = {"length": _LONG, "batch_size": _LONG_BATCH, "learning_rate": _LONG_RATE}
    config.phases = [
        *(
            PhaseConfig(share=share, batch_size=size, rope_theta=_THETA)
            for share, size in zip(growing, sizes, strict=True)
        ),
        PhaseConfig(share=short, rope_theta=_THETA),
        PhaseConfig(share=long, **longer),
        PhaseConfig(share=last, **longer, schedule=Schedule.SQRT),
    ]
    config.masking.rate = 0.3
    config.optimizer.rule = Optimizer.STABLE_ADAMW
    config.optimizer.learning_rate = 8e-4
    config.optimizer.schedule = Schedule.CONSTANT
    config.optimizer.warmup_steps = _steps_of(3e9, sizes[0], _SHORT)
    config.optimizer.beta2 = 0.98
    config.optimizer.weight_decay, config.optimizer.decoupled_decay = 1e-5, True
    config.optimizer.clip_norm = 0.0
    return config
