"""The teacher of a distilling run: restored, checked, and the beginning of a student."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bert_jax.checkpoints.checkpoint import (
    find_checkpoint,
    read_metadata,
    restore_groups,
)
from bert_jax.checkpoints.continued import FREE, OF_RUN
from bert_jax.checkpoints.fingerprint import json_digest, leaf_name
from bert_jax.config import (
    DistillConfig,
    EncoderConfig,
    Remat,
    check_layer,
    from_dict,
    layer_numbers,
    layer_pairs,
)
from bert_jax.data.pretraining.phases import resolve_phases
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.model.attention import AttentionFn, attention
from bert_jax.model.observed import ObservedModel
from bert_jax.model.stack import layer_kinds
from bert_jax.objectives.losses import Params
from bert_jax.text.tokenizer import Tokenizer
from bert_jax.training.state import abstract_params

# Fields of an encoder that a student may have otherwise where its layers begin as the teacher's:
# those that change no output of a layer, or that only heads of tasks read.
_FREE = OF_RUN | FREE | frozenset("layers segments max_length pooling pooler".split())


class TeacherShape(NamedTuple):
    """Shape of a teacher, known before it is restored.

    Attributes:
      encoder: its shape.
      has_head: True if it has a masked-LM head.
    """

    encoder: EncoderConfig
    has_head: bool


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model that is only read.

    Attributes:
      checkpoint: CHECKPOINTS/STEP.
      model: encoder, and the masked-LM head where it is read.
      params: of `model`.
      fingerprint: of these parameters.
    """

    checkpoint: pathlib.Path
    model: ObservedModel
    params: Params
    fingerprint: str


def trains_head(config: DistillConfig) -> bool:
    """Returns True if a masked-LM head is trained: the student's own loss or soft targets ask."""
    return config.distillation.mlm_weight > 0 or config.distillation.soft_weight > 0


def student_model(
    config: DistillConfig,
    encoder: EncoderConfig,
    teacher: ObservedModel,
    attend: AttentionFn = attention,
) -> ObservedModel:
    """Returns the student of a run.

    Args:
      config: of the run.
      encoder: of the student, in a phase.
      teacher: whose width hidden vectors are mapped to.
      attend: how the student attends.
    """
    pairs, width = layer_pairs(config.distillation), teacher.config.width
    return ObservedModel(encoder, trains_head(config), len(pairs), width, attend)


def load_teacher(path: str, config: DistillConfig, tokenizer: Tokenizer, mesh: Mesh) -> Teacher:
    """Restores a teacher, sharded as the student is.

    Args:
      path: a run, or RUN/checkpoints/STEP: pretrained, fine-tuned or imported.
      config: of the student's run.
      tokenizer: of its corpus.
      mesh: of its devices.

    Raises:
      UserError: if it cannot teach this student.
    """
    checkpoint = find_checkpoint(path)
    metadata = read_metadata(checkpoint)
    if metadata["tokenizer"]["fingerprint"] != tokenizer.fingerprint:
        raise UserError(
            f"--teacher={path} and the corpus have different tokenizers:"
            f" {corpus_remedy(checkpoint)}choose another teacher"
        )
    model = teacher_model(config, stored_shape(metadata))
    sharding.check_encoder(model.config, mesh)
    abstract = abstract_params(model, mesh)
    params = restore_groups(checkpoint, abstract, abstract)
    told = metadata["fingerprints"]["params"]
    read = {name: told[name] for name in sorted(told) if name.partition("/")[0] in abstract}
    return Teacher(checkpoint, model, params, json_digest(read))


def corpus_remedy(checkpoint: pathlib.Path) -> str:
    """Returns the first remedy for a corpus with another tokenizer, where there is one.

    A fine-tuned checkpoint has its tokenizer in its metadata alone.
    """
    folder = checkpoint.parent.parent / "tokenizer"
    return f"prepare the corpus with --tokenizer={folder}, or " if folder.is_dir() else ""


def stored_shape(metadata: dict[str, Any]) -> TeacherShape:
    """Returns the shape of a teacher that has been trained, from its checkpoint's metadata."""
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    return TeacherShape(encoder, metadata["kind"] == "pretraining")


def teacher_model(config: DistillConfig, teacher: TeacherShape) -> ObservedModel:
    """Returns the model of a teacher.

    Args:
      config: of the student's run.
      teacher: its shape.

    Raises:
      UserError: if it cannot teach this student.
    """
    reads_head = trains_head(config) and teacher.has_head
    check_teacher(config, teacher.encoder, reads_head=reads_head)
    compute_type = config.distillation.compute_type
    encoder = dataclasses.replace(teacher.encoder, compute_type=compute_type, remat=Remat.NONE)
    return ObservedModel(encoder, reads_head)


def check_teacher(config: DistillConfig, teacher: EncoderConfig, *, reads_head: bool) -> None:
    """Checks that lessons can be compared.

    Raises:
      UserError: naming the field that does not suit.
    """
    student, lessons, layers = config.encoder, config.distillation, teacher.layers
    lengths = [config.data.length, *(phase.length for phase in config.phases)]
    if max(lengths) > teacher.max_length:
        raise UserError(
            f"--config.data.length={max(lengths)} is longer than what the teacher takes"
            f" (max_length={teacher.max_length}): lower it, or choose another teacher"
        )
    if teacher.causal != student.causal:
        raise UserError(
            f"--config.encoder.causal={student.causal}, and the teacher has {teacher.causal}: make"
            " them the same"
        )
    if lessons.soft_weight and not reads_head:
        raise UserError(
            f"--config.distillation.soft_weight={lessons.soft_weight}: the teacher has no masked-LM"
            " head: set it to 0, or choose a pretrained teacher"
        )
    if lessons.cosine_weight and teacher.width != student.width:
        raise UserError(
            f"--config.distillation.cosine_weight={lessons.cosine_weight} compares vectors, and the"
            f" student has width={student.width}, the teacher {teacher.width}: set it to 0, or use"
            " hidden_pairs, which are mapped"
        )
    if (
        lessons.attention_weight
        or lessons.query_weight
        or lessons.key_weight
        or lessons.value_weight
    ):
        number = lessons.teacher_layer
        check_layer("distillation.teacher_layer", number, layers, "teacher", lowest=-layers)
        heads = lessons.relation_heads
        if not heads and teacher.heads != student.heads:
            raise UserError(
                "--config.distillation.relation_heads=0 compares head with head, and the student"
                f" has {student.heads}, the teacher {teacher.heads}: set relation_heads to a number"
                f" that divides the widths {student.width} and {teacher.width}"
            )
        if heads and teacher.width % heads:
            raise UserError(
                f"--config.distillation.relation_heads={heads} does not divide the teacher's width,"
                f" {teacher.width}: choose a number that divides both widths"
            )
        _check_windows(config, teacher)
    for _, number in layer_pairs(lessons):
        check_layer("distillation.hidden_pairs", number, layers, "teacher", lowest=-1)
    if config.student_layers:
        _check_taken_over(config, teacher)


def _check_windows(config: DistillConfig, teacher: EncoderConfig) -> None:
    """Raises UserError if the layers whose heads are compared see other tokens, in any phase."""
    lessons = config.distillation
    theirs = layer_kinds(teacher)[lessons.teacher_layer].window
    for phase in resolve_phases(config):
        ours = layer_kinds(phase.encoder)[lessons.student_layer].window
        if ours != theirs:
            where = f" in phases[{phase.number}]" if config.phases else ""
            raise UserError(
                f"--config.distillation.student_layer={lessons.student_layer} has window={ours}"
                f"{where}, and teacher_layer={lessons.teacher_layer} window={theirs} (0: all):"
                " choose layers of one window, or set encoder.window and global_every"
            )


def _check_taken_over(config: DistillConfig, teacher: EncoderConfig) -> None:
    for number in layer_numbers("student_layers", config.student_layers):
        check_layer("student_layers", number, teacher.layers, "teacher")
    for field in dataclasses.fields(EncoderConfig):
        ours, theirs = getattr(config.encoder, field.name), getattr(teacher, field.name)
        if ours != theirs and field.name not in _FREE:
            ours, theirs = (getattr(each, "value", each) for each in (ours, theirs))
            raise UserError(
                f"--config.encoder.{field.name}={ours}, and the teacher has {theirs}: layers can be"
                " taken over between the same encoders alone: change it, or leave student_layers"
                " out"
            )


def taken_over(params: Params, teacher: Teacher, layers: Sequence[int]) -> Params:
    """Returns a student's parameters, with the teacher's in the place of random ones.

    Embeddings, norms and the masked-LM head are taken along; a student without segments drops the
    teacher's, as DistilBERT does.

    Args:
      params: of the student, random.
      teacher: to begin as.
      layers: of the teacher, one for each of the student's.

    Raises:
      UserError: if a parameter has another shape.
    """
    theirs = {
        leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(teacher.params)
    }
    chosen = jnp.array(layers)

    def take(path: tuple, ours: jax.Array) -> jax.Array:
        name = leaf_name(path)
        if name.partition("/")[0] not in teacher.params:
            return ours
        found = theirs.get(name)
        is_layer = name.startswith("encoder/layers/")
        shape = (
            None if found is None else (len(layers), *found.shape[1:]) if is_layer else found.shape
        )
        if found is None or shape != ours.shape:
            raise UserError(
                f"--config.student_layers={','.join(map(str, layers))}: {name} is"
                f" {list(ours.shape)} in the student and {list(shape or ()) or 'missing'} in"
                f" {teacher.checkpoint}: make the encoders alike, or leave student_layers out"
            )
        make = jax.jit(
            lambda leaf: leaf[chosen] if is_layer else leaf + 0, out_shardings=ours.sharding
        )
        return make(found)

    return jax.tree_util.tree_map_with_path(take, params)
