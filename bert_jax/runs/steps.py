"""The compiled steps of a run, and their parts: model, optimizer, loss.

Training runs them; `plan` compiles the very same steps ahead of time.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.transfer import frozen_groups
from bert_jax.config import (
    AttentionKernel,
    DistillConfig,
    DistilledTokens,
    FinetuneConfig,
    MaskingConfig,
    MaskStrategy,
    OptimizerConfig,
    PretrainConfig,
)
from bert_jax.data.pretraining.corpora import Corpora
from bert_jax.data.pretraining.phases import Phase, resolve_phases
from bert_jax.errors import UserError
from bert_jax.model.attention import attention
from bert_jax.model.by_platform import for_devices
from bert_jax.model.encoder import Batch
from bert_jax.model.flops import forward_flops, pretraining_flops
from bert_jax.model.fused_attention import fused_attention
from bert_jax.model.heads import PretrainingModel, TaskModel, VectorModel
from bert_jax.model.observed import ObservedModel
from bert_jax.objectives.contrastive import BatchLoss
from bert_jax.objectives.distillation import make_distillation_loss
from bert_jax.objectives.losses import Loss, make_pretraining_loss
from bert_jax.objectives.masking import MaskVocabulary, mask_tokens, masked_slots
from bert_jax.runs.teacher import student_model, trains_head
from bert_jax.tasks.kinds import training_loss
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.optimizer import OptimizerFn, layer_rates, make_optimizer
from bert_jax.training.schedules import SettingsFn, pretraining_settings, task_settings
from bert_jax.training.state import (
    RunInputs,
    TrainState,
    abstract_run_inputs,
    abstract_state,
    make_run_inputs,
)
from bert_jax.training.step import PrepareFn, UpdateFn, make_train_step

# A word is masked whole. In a language with spaces it has 1 to 4 tokens; in one without, the words
# of a SentencePiece model are sentences.
_MOST_TOKENS_A_WORD = 10


class CompiledStep(NamedTuple):
    """The compiled step of a run, and its parts.

    Attributes:
      model: of `heads.py`.
      tx: the optimizer, without the learning rate.
      abstract: the state: shapes, dtypes and shardings.
      steps: of the run.
      settings: the schedules, a step from 0 -> its settings.
      loss: of the model.
      train_step: from `training/step.py`.
    """

    model: PretrainingModel | TaskModel | VectorModel | ObservedModel
    tx: OptimizerFn
    abstract: TrainState
    steps: int
    settings: SettingsFn
    loss: Loss | BatchLoss
    train_step: UpdateFn

    @property
    def mesh(self) -> Mesh:
        """The devices of the run."""
        return self.abstract.step.sharding.mesh

    def inputs(self, seed: int) -> RunInputs:
        """Returns what every step of a run with this seed takes."""
        return make_run_inputs(self.mesh, seed, self.settings, self.steps)

    def abstract_inputs(self) -> RunInputs:
        """Returns the shapes of what `inputs` returns."""
        return abstract_run_inputs(self.mesh, self.steps)


def resolve_vocabulary(config: PretrainConfig, tokenizer: Tokenizer) -> None:
    """Fills in the vocabulary size, or checks the one that was given."""
    if config.encoder.vocab_size == 0:
        config.encoder.vocab_size = tokenizer.vocab_size
    elif config.encoder.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"--config.encoder.vocab_size={config.encoder.vocab_size} is less than the tokenizer's"
            f" {tokenizer.vocab_size}: leave it 0 to take the tokenizer's"
        )


def mask_vocabulary(
    config: MaskingConfig,
    tokenizer: Tokenizer,
    count_tokens: Callable[[], np.ndarray] | None = None,
) -> MaskVocabulary:
    """Returns the properties of a tokenizer that masking needs.

    Args:
      config: of the masking.
      tokenizer: of the corpus.
      count_tokens: makes [V] int64, how often each token occurs, where `smoothing` asks; None: as
        if each occurred once.

    Raises:
      UserError: if whole words are masked and the tokenizer does not mark their starts.
    """
    by_word = config.strategy in (MaskStrategy.WHOLE_WORDS, MaskStrategy.SPANS)
    size = tokenizer.vocab_size
    weights = None
    if config.smoothing:
        weights = _smoothed(count_tokens() if count_tokens else np.ones(size), config.smoothing)
    return MaskVocabulary(
        special_ids=tokenizer.special.ids,
        mask_id=tokenizer.special.mask,
        vocab_size=size,
        word_starts=tokenizer.word_starts() if by_word else np.ones(size, bool),
        weights=weights,
    )


def _smoothed(counts: np.ndarray, exponent: float) -> np.ndarray:
    """Returns count^-exponent, [V] float32; a token that was never seen counts as seen once."""
    return (np.maximum(counts, 1) ** -exponent).astype(np.float32)


def describe_words(config: MaskingConfig, corpora: Corpora) -> list[str]:
    """Tells how long the words are that are masked together; [] where single tokens are.

    Raises:
      UserError: if a corpus has no words to speak of, so that a row loses one run of its tokens.
    """
    if config.strategy not in (MaskStrategy.WHOLE_WORDS, MaskStrategy.SPANS):
        return []
    lines = []
    for name, mean in corpora.tokens_a_word(corpora.tokenizer.word_starts()).items():
        if mean > _MOST_TOKENS_A_WORD:
            raise UserError(
                f"{name}: a word has {mean:.1f} tokens on average (is the text without spaces?), so"
                f" masking.strategy={config.strategy.value} would hide one run of each row: set"
                " --config.masking.strategy=tokens"
            )
        lines.append(f"a word of {name} has {mean:.2f} tokens on average, and is masked as a whole")
    return lines


def make_mask_fn(config: MaskingConfig, vocabulary: MaskVocabulary) -> PrepareFn:
    """Returns the masking of a batch, bound to a vocabulary."""

    def prepare(batch: Batch, key: jax.Array, rate: jax.Array) -> Batch:
        return mask_tokens(batch, key, rate, config, vocabulary=vocabulary)

    return prepare


def pretraining_steps(
    config: PretrainConfig,
    vocabulary: MaskVocabulary,
    mesh: Mesh,
    teacher: ObservedModel | None = None,
) -> list[CompiledStep]:
    """Builds the step of each phase of a pretraining run; phases that allow it share theirs.

    Their states are one: phases differ in what has no parameters.

    Args:
      config: of the run, with its vocabulary size.
      vocabulary: of its tokenizer.
      mesh: from `sharding.make_mesh`.
      teacher: of a distilling run, whose config is a `DistillConfig`.

    Raises:
      UserError: if the config asks for a kernel of attention that the devices do not have.
    """
    phases = resolve_phases(config)
    relative_rates = None
    if config.layer_decay < 1:
        relative_rates = functools.partial(layer_rates, decay=config.layer_decay, head=1.0)
    tx = make_optimizer(config.optimizer, relative_rates=relative_rates, mesh=mesh)
    settings = pretraining_settings(config.optimizer, config.masking, phases, config.steps)

    def build(phase: Phase) -> CompiledStep:
        encoder = for_devices(phase.encoder, mesh, [each.data.length for each in phases])
        attend = attention
        if encoder.attention is AttentionKernel.FUSED:
            attend = fused_attention(mesh, mesh.devices.flat[0].platform)
        if teacher and isinstance(config, DistillConfig):
            model = student_model(config, encoder, teacher, attend)
            loss = make_distillation_loss(model, teacher, config.distillation)
        else:
            model = PretrainingModel(encoder, config.data.objective, attend)
            loss = make_pretraining_loss(model, sentence_weight=config.sentence_loss_weight)
        abstract = abstract_state(model, tx, mesh, averages=config.average_decay > 0)
        train_step = make_train_step(
            loss,
            make_mask_fn(phase.masking, vocabulary),
            tx,
            abstract,
            config.micro_batches,
            average_decay=config.average_decay,
            donate=not config.debug,
        )
        return CompiledStep(model, tx, abstract, config.steps, settings, loss, train_step)

    built: list[tuple[Phase, CompiledStep]] = []
    for phase in phases:
        alike = [
            step
            for each, step in built
            if (each.encoder, each.masking) == (phase.encoder, phase.masking)
        ]
        built.append((phase, alike[0] if alike else build(phase)))
    return [step for _, step in built]


def model_flops(config: PretrainConfig, phase: Phase, teacher: ObservedModel | None) -> float:
    """Returns the operations of a step for a token of a full row; see `model/flops.py`.

    Args:
      config: of the run.
      phase: of it.
      teacher: of a distilling run, whose config is a `DistillConfig`.
    """
    length = phase.data.length
    slots = masked_slots(length, phase.data.max_examples_per_row, phase.masking)
    if teacher is None or not isinstance(config, DistillConfig):
        return pretraining_flops(phase.encoder, length, slots)
    lessons, scored = config.distillation, slots if trains_head(config) else 0
    if not lessons.soft_weight:
        seen = 0  # by the teacher's head
    elif lessons.tokens is DistilledTokens.ALL:
        seen, scored = length, length + slots
    else:
        seen = slots
    forward = forward_flops(teacher.config, length, seen)
    return pretraining_flops(phase.encoder, length, scored) + forward


def finetuning_step(
    config: FinetuneConfig,
    model: TaskModel | VectorModel,
    mesh: Mesh,
    steps: int,
    class_weights: tuple[float, ...],
    columns: int = 2,
) -> CompiledStep:
    """Builds the step of a fine-tuning run.

    Args:
      config: of the run.
      model: from `kinds.make_model`.
      mesh: from `sharding.make_mesh`.
      steps: of the run.
      class_weights: from `kinds.class_weights`.
      columns: of vectors: texts of an example, at most.
    """
    tx, settings = task_optimizer(config, steps, mesh)
    abstract = abstract_state(model, tx, mesh)
    loss = training_loss(model, config, class_weights, columns=columns, mesh=mesh)
    train_step = make_train_step(
        loss,
        no_preparation,
        tx,
        abstract,
        config.micro_batches,
        donate=not config.debug,
    )
    return CompiledStep(model, tx, abstract, steps, settings, loss, train_step)


def task_optimizer(
    config: FinetuneConfig, steps: int, mesh: Mesh | None = None
) -> tuple[OptimizerFn, SettingsFn]:
    """Returns the optimizer of a fine-tuning run and the settings of its steps.

    Args:
      config: of the run; `optimizer.learning_rate` may be a traced float32 scalar, for runs that
        differ in it alone.
      steps: of the run.
      mesh: whose devices share the work of the optimizer; None: each run has a device of its own.
    """
    frozen = frozen_groups(config)
    optimizer = with_warmup(config, steps)
    relative_rates = None
    if frozen:
        rate = config.head_learning_rate or optimizer.learning_rate
        optimizer = dataclasses.replace(optimizer, learning_rate=rate)
    elif config.layer_decay < 1 or config.head_learning_rate:
        head = (config.head_learning_rate or optimizer.learning_rate) / optimizer.learning_rate
        relative_rates = functools.partial(layer_rates, decay=config.layer_decay, head=head)
    tx = make_optimizer(optimizer, frozen=frozen, relative_rates=relative_rates, mesh=mesh)
    return tx, task_settings(optimizer, steps)


def check_warmup(config: FinetuneConfig, steps: int) -> None:
    """Raises UserError if the warm-up that was given takes all steps of a fine-tuning run."""
    warmup = config.optimizer.warmup_steps
    if warmup >= steps and warmup:
        raise UserError(
            f"--config.optimizer.warmup_steps={warmup} leaves no step to train: the run has"
            f" {steps:,}: lower it, or leave it out, which takes warmup_share={config.warmup_share}"
        )


def with_warmup(config: FinetuneConfig, steps: int) -> OptimizerConfig:
    """Resolves `warmup_share` where no number of steps was given; a step at least is trained."""
    warmup = config.optimizer.warmup_steps or round(config.warmup_share * steps)
    return dataclasses.replace(config.optimizer, warmup_steps=min(warmup, steps - 1))


def no_preparation(batch: Any, key: jax.Array, rate: Any) -> Any:
    """Returns the batch as it is: a task's batches are complete when they leave the host."""
    del key, rate
    return batch
