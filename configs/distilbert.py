"""DistilBERT (Sanh et al., 2019); `docs/recipes.md` has the source of each number."""

from bert_jax.config import DistillConfig, ExampleFormat, SentenceObjective

_TOKENS = 3 * 3.2e9  # three epochs: BERT's million steps of 256 x 512 tokens are 40
_BATCH, _LENGTH = 4_096, 512


def get_config() -> DistillConfig:
    """Half the layers of BERT base, without segments, by three losses."""
    steps = round(_TOKENS / (_BATCH * _LENGTH))
    config = DistillConfig(steps=steps, batch_size=_BATCH)
    config.encoder.layers = 6
    config.encoder.segments = 0
    config.student_layers = "0,2,4,7,9,11"
    config.data.format = ExampleFormat.FULL_SENTENCES
    config.data.objective = SentenceObjective.NONE
    config.data.length = _LENGTH
    config.masking.smoothing = 0.7
    config.distillation.soft_weight = 5.0
    config.distillation.mlm_weight = 2.0
    config.distillation.cosine_weight = 1.0
    config.distillation.temperature = 2.0
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = round(0.05 * steps)
    config.optimizer.beta2 = 0.98
    config.optimizer.epsilon = 1e-6
    config.optimizer.weight_decay = 0.0
    config.optimizer.clip_norm = 5.0
    config.eval_steps = config.checkpoint_steps = 500
    return config
