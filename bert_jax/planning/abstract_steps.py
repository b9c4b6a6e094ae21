"""The train steps of a run with abstract arrays: `plan` compiles them, and nothing runs.

An abstract batch has the shapes, dtypes and sharding of the batches that a run loads.
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
from bert_jax.model.by_platform import for_devices
from bert_jax.model.observed import ObservedModel
from bert_jax.objectives.losses import Params
from bert_jax.objectives.masking import MaskVocabulary
from bert_jax.runs.steps import CompiledStep, finetuning_step, model_flops, pretraining_steps
from bert_jax.tasks.kinds import KINDS, make_model
from bert_jax.training.state import abstract_params

AbstractBatch = dict[str, jax.ShapeDtypeStruct]

FINETUNING = "fine-tuning"

_CLASSES = ("0", "1")  # of the planned task: more classes cost nearly the same


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """A train step to compile: one phase of pretraining, or fine-tuning.

    Attributes:
      name: in reports: "pretraining", "phase 1", "fine-tuning".
      steps: how often the run takes it.
      rows: B, of the global batch.
      length: T, tokens in a row.
      model_flops: of one step over all devices, by the formulas of `model/flops.py`.
      compiled: the jitted step with its model, optimizer and abstract state.
      batch: abstract arrays, sharded over the mesh.
      mesh: the devices.
      teacher: abstract parameters, of a distilling run.
    """

    name: str
    steps: int
    rows: int
    length: int
    model_flops: float
    compiled: CompiledStep
    batch: AbstractBatch
    mesh: Mesh
    teacher: Params | None = None

    @property
    def tokens(self) -> int:
        """Tokens of one step, B x T: full rows."""
        return self.rows * self.length

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint: the state of all devices, each array once."""
        state = self.compiled.abstract
        return _array_bytes((state.params, state.average, state.opt_state))

    @property
    def host_batch_bytes(self) -> float:
        """Bytes of the rows that a host makes for one step, the mean over the hosts.

        Where hosts share a model, each makes the same rows: see `sharding.host_rows`.
        """
        index_map = NamedSharding(self.mesh, sharding.BATCH_SPEC).devices_indices_map((self.rows,))
        made = {(device.process_index, str(rows)) for device, rows in index_map.items()}
        hosts = {host for host, _ in made}
        return _array_bytes(self.batch) * len(made) / sharding.row_groups(self.mesh) / len(hosts)

    def lower(self) -> jax.stages.Lowered:
        """Traces the step and lowers it for the devices of its mesh."""
        step: Any = self.compiled.train_step
        inputs = self.compiled.abstract_inputs()._replace(teacher=self.teacher)
        return step.lower(self.compiled.abstract, self.batch, inputs)


def abstract_pretraining_steps(
    config: PretrainConfig,
    vocabulary: MaskVocabulary,
    mesh: Mesh,
    teacher: ObservedModel | None = None,
) -> list[AbstractStep]:
    """Returns a step for each phase of a pretraining run.

    Args:
      config: of the run, with its vocabulary size.
      vocabulary: of its tokenizer.
      mesh: from `sharding.make_mesh`.
      teacher: of a distilling run, whose config is a `DistillConfig`.

    Raises:
      UserError: if a batch or the encoder does not divide over the mesh.
    """
    phases = resolve_phases(config)
    for phase in phases:
        sharding.check_batch_size(phase.batch_size, mesh, config.micro_batches, phase.batch_field)
    sharding.check_encoder(config.encoder, mesh)
    params = None
    if teacher:
        sharding.check_encoder(teacher.config, mesh)
        params = abstract_params(teacher, mesh)
    built = pretraining_steps(config, vocabulary, mesh, teacher)
    steps = []
    for phase, compiled in zip(phases, built, strict=True):
        rows, length = phase.batch_size, phase.data.length
        steps.append(
            AbstractStep(
                name=f"phase {phase.number + 1}" if len(phases) > 1 else "pretraining",
                steps=phase.end_step - phase.first_step,
                rows=rows,
                length=length,
                model_flops=model_flops(config, phase, teacher) * rows * length,
                compiled=compiled,
                batch=abstract_pretraining_batch(phase, mesh),
                mesh=mesh,
                teacher=params,
            )
        )
    return steps


def abstract_finetuning_step(
    config: FinetuneConfig, pretrained: EncoderConfig, examples: int, mesh: Mesh
) -> AbstractStep:
    """Returns the step of a fine-tuning run with one input in a row; packed runs cost less.

    Args:
      config: of the run.
      pretrained: shape of the encoder that it starts from.
      examples: size of the training split.
      mesh: from `sharding.make_mesh`.

    Raises:
      UserError: if the encoder cannot take the run's rows, or does not divide over the mesh.
    """
    encoder = task_encoder(pretrained, config)
    sharding.check_encoder(encoder, mesh)
    steps = config.epochs * math.ceil(examples / config.batch_size)
    groups = sharding.row_groups(mesh) * config.micro_batches
    columns = 1  # texts of an example
    if config.task is TaskKind.VECTORS:
        columns = 2 + len(list(filter(None, config.data.negative_columns.split(","))))
    rows = math.ceil(config.batch_size * columns / groups) * groups
    length = config.data.length
    model = make_model(config, for_devices(encoder, mesh, [length]), _CLASSES)
    per_token = flops.finetuning_flops(encoder, length, config.encoder_mode)
    return AbstractStep(
        name=FINETUNING,
        steps=steps,
        rows=rows,
        length=length,
        model_flops=per_token * rows * length,
        compiled=finetuning_step(config, model, mesh, steps, (), columns),
        batch=abstract_finetuning_batch(config, encoder, rows, 1, mesh),
        mesh=mesh,
    )


def abstract_pretraining_batch(phase: Phase, mesh: Mesh) -> AbstractBatch:
    """Returns the abstract batch of a phase (docs/architecture.md, "The batch")."""
    rows, slots = phase.batch_size, phase.data.max_examples_per_row
    fields = _token_fields(rows, phase.data.length, slots)
    fields["labels"] = (rows, slots), jnp.int32
    fields["weights"] = (rows, slots), jnp.float32
    fields["row_ids"] = (rows, 2), jnp.uint32
    return _abstract_batch(fields, mesh)


def abstract_finetuning_batch(
    config: FinetuneConfig, encoder: EncoderConfig, rows: int, slots: int, mesh: Mesh
) -> AbstractBatch:
    """Returns the abstract batch of a task.

    Args:
      config: of the run.
      encoder: its shape.
      rows: B, of the global batch.
      slots: examples in a row, at most.
      mesh: from `sharding.make_mesh`.
    """
    length, kind = config.data.length, KINDS[config.task]
    fields = _token_fields(rows, length, slots)
    labelled = (rows, slots if kind.whole_inputs or config.task is TaskKind.SPANS else length)
    ends = (2,) if config.task is TaskKind.SPANS else ()
    is_number = config.task in (TaskKind.REGRESSION, TaskKind.VECTORS)
    fields["labels"] = (*labelled, *ends), jnp.float32 if is_number else jnp.int32
    fields["weights"] = labelled, jnp.float32
    if config.task is TaskKind.VECTORS:
        fields |= {name: (labelled, jnp.int32) for name in ("places", "text_numbers")}
        fields["right_numbers"] = (rows, slots, 1), jnp.int32
    if config.encoder_mode is EncoderMode.CACHED:
        width = config.feature_layers * encoder.width
        fields["features"] = (rows, slots if kind.whole_inputs else length, width), jnp.float32
    return _abstract_batch(fields, mesh)


def _token_fields(rows: int, length: int, slots: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    names = ("token_ids", "example_ids", "segment_ids", "position_ids")
    fields: dict[str, tuple[tuple[int, ...], Any]]
    fields = {name: ((rows, length), jnp.int32) for name in names}
    return fields | {"pool_positions": ((rows, slots), jnp.int32)}


def _abstract_batch(fields: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> AbstractBatch:
    batch_sharding = NamedSharding(mesh, sharding.BATCH_SPEC)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding)
        for name, (shape, dtype) in fields.items()
    }


def _array_bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
