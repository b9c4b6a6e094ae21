"""The parts of a run that are compiled apart, as abstract arrays: what `plan` compiles.

A batch here has the shapes, the types and the placing that the loaders give it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from bert_jax.checkpoints.transfer import task_encoder
from bert_jax.config import EncoderConfig, EncoderMode, FinetuneConfig, PretrainConfig, TaskKind
from bert_jax.data.pretraining.phases import Phase, resolve_phases
from bert_jax.distributed import sharding
from bert_jax.model import flops
from bert_jax.objectives.masking import MaskVocabulary, masked_slots
from bert_jax.runs.steps import CompiledStep, finetuning_step, pretraining_step
from bert_jax.tasks.kinds import KINDS, make_model

AbstractBatch = dict[str, jax.ShapeDtypeStruct]

TASK_STAGE = "fine-tuning"

_CLASSES = ("0", "1")  # of a planned task: a head of more costs nearly the same


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run whose steps are one program.

    Attributes:
      name: for people.
      steps: that it takes.
      rows: B, in the global batch.
      length: T.
      model_flops: of a step, as `flops` counts them, of all devices.
      compiled: the step and what it is made of.
      batch: of the step.
      mesh: that they are placed on.
    """

    name: str
    steps: int
    rows: int
    length: int
    model_flops: float
    compiled: CompiledStep
    batch: AbstractBatch
    mesh: Mesh

    @property
    def tokens(self) -> int:
        """Of a step, where its rows are full."""
        return self.rows * self.length

    def lower(self) -> jax.stages.Lowered:
        """Traces the step."""
        step: Any = self.compiled.train_step
        return step.lower(self.compiled.abstract, self.batch, self.compiled.abstract_inputs())


def pretraining_stages(
    config: PretrainConfig, vocabulary: MaskVocabulary, mesh: Mesh
) -> list[Stage]:
    """Returns the phases of a pretraining run.

    Raises:
      UserError: if they do not divide over the mesh.
    """
    phases = resolve_phases(config)
    for phase in phases:
        sharding.check_batch_size(phase.batch_size, mesh, config.micro_batches)
    sharding.check_encoder(config.encoder, mesh)
    compiled = pretraining_step(config, vocabulary, mesh)
    stages = []
    for phase in phases:
        rows, length = phase.batch_size, phase.data.length
        slots = masked_slots(length, phase.data.max_examples_per_row, config.masking)
        per_token = flops.pretraining_flops(config.encoder, length, slots)
        stages.append(
            Stage(
                name=f"phase {phase.number + 1}" if len(phases) > 1 else "pretraining",
                steps=phase.end_step - phase.first_step,
                rows=rows,
                length=length,
                model_flops=per_token * rows * length,
                compiled=compiled,
                batch=pretraining_batch(phase, mesh),
                mesh=mesh,
            )
        )
    return stages


def finetuning_stage(
    config: FinetuneConfig, pretrained: EncoderConfig, examples: int, mesh: Mesh
) -> Stage:
    """Returns a fine-tuning run whose examples have a row each: packed, it takes less.

    Args:
      config: of the run.
      pretrained: the encoder that it starts from.
      examples: in the training split.
      mesh: from `sharding.make_mesh`.

    Raises:
      UserError: if the run does not suit the encoder, or the encoder the mesh.
    """
    encoder = task_encoder(pretrained, config)
    sharding.check_encoder(encoder, mesh)
    steps = config.epochs * math.ceil(examples / config.batch_size)
    groups = sharding.row_groups(mesh) * config.micro_batches
    rows, length = math.ceil(config.batch_size / groups) * groups, config.data.length
    model = make_model(config, encoder, _CLASSES)
    per_token = flops.finetuning_flops(encoder, length, config.encoder_mode)
    return Stage(
        name=TASK_STAGE,
        steps=steps,
        rows=rows,
        length=length,
        model_flops=per_token * rows * length,
        compiled=finetuning_step(config, model, mesh, steps, ()),
        batch=finetuning_batch(config, encoder, rows, 1, mesh),
        mesh=mesh,
    )


def pretraining_batch(phase: Phase, mesh: Mesh) -> AbstractBatch:
    """Returns a batch of a phase (docs/architecture.md, "The batch")."""
    rows, slots = phase.batch_size, phase.data.max_examples_per_row
    fields = _token_fields(rows, phase.data.length, slots)
    fields["labels"] = (rows, slots), jnp.int32
    fields["weights"] = (rows, slots), jnp.float32
    fields["row_ids"] = (rows, 2), jnp.uint32
    return _placed(fields, mesh)


def finetuning_batch(
    config: FinetuneConfig, encoder: EncoderConfig, rows: int, slots: int, mesh: Mesh
) -> AbstractBatch:
    """Returns a batch of a task, of so many rows with so many examples each."""
    length, kind = config.data.length, KINDS[config.task]
    fields = _token_fields(rows, length, slots)
    places = (rows, slots if kind.whole_inputs or config.task is TaskKind.SPANS else length)
    ends = (2,) if config.task is TaskKind.SPANS else ()
    is_number = config.task is TaskKind.REGRESSION
    fields["labels"] = (*places, *ends), jnp.float32 if is_number else jnp.int32
    fields["weights"] = places, jnp.float32
    if config.encoder_mode is EncoderMode.CACHED:
        width = config.feature_layers * encoder.width
        fields["features"] = (rows, slots if kind.whole_inputs else length, width), jnp.float32
    return _placed(fields, mesh)


def _token_fields(rows: int, length: int, slots: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    names = ("token_ids", "example_ids", "segment_ids", "position_ids")
    fields: dict[str, tuple[tuple[int, ...], Any]]
    fields = {name: ((rows, length), jnp.int32) for name in names}
    return fields | {"pool_positions": ((rows, slots), jnp.int32)}


def _placed(fields: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> AbstractBatch:
    placing = NamedSharding(mesh, sharding.BATCH_SPEC)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=placing)
        for name, (shape, dtype) in fields.items()
    }
