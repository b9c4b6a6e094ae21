"""Correspondence between the model classes of transformers and the kinds of our checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from bert_jax.config import (
    EncoderConfig,
    ExampleFormat,
    FinetuneConfig,
    NormKind,
    PoolerKind,
    PositionEncoding,
    PretrainConfig,
    SentenceObjective,
    TaskKind,
    from_dict,
    to_dict,
)
from bert_jax.distributed.sharding import replicated
from bert_jax.errors import UserError
from bert_jax.interop.families.bert import BERT
from bert_jax.interop.families.eurobert import EUROBERT
from bert_jax.interop.families.family import GROUPS, TASK_HEADS, Family, Head
from bert_jax.interop.families.modernbert import MODERNBERT
from bert_jax.interop.families.registry import FAMILIES
from bert_jax.interop.families.roberta import ROBERTA
from bert_jax.interop.huggingface_config import misfit
from bert_jax.interop.names import make_shapes
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import Params
from bert_jax.tasks.kinds import KINDS, make_model

PRETRAINING_KIND = "pretraining"  # `kind` of a checkpoint
ENCODER_KIND = "encoder"  # `kind` of a checkpoint without a head

_OF_TASKS = {
    TaskKind.CLASSIFICATION: Head.CLASSES,
    TaskKind.REGRESSION: Head.CLASSES,
    TaskKind.TAGS: Head.TOKENS,
    TaskKind.SPANS: Head.SPANS,
    TaskKind.VECTORS: Head.ENCODER,
}
_ORDER = ("encoder", "pooler", "mlm_head", "nsp_head", "classifier", "tagger", "span")


class Model(NamedTuple):
    """A model on its way between two libraries."""

    params: Params  # NumPy arrays
    metadata: dict[str, Any]  # of a checkpoint: `kind`, `config`, `encoder`, `tokenizer` and others
    notes: list[str]  # remarks for the user about reading it


def groups_of_file(
    family: Family, declared: str | None, names: Collection[str], where: object
) -> tuple[str, ...]:
    """Returns the groups of parameters in a file, from its declared architecture and its tensors.

    A pretrained model gets every group of its file: many files declared as a masked LM have a
    pooler and a sentence head as well. A fine-tuned one may have a pooler that nothing reads.

    Args:
      family: of the model.
      declared: `architectures` of the config; None if it has none.
      names: canonical names of the tensors.
      where: the file or directory, for errors.

    Raises:
      UserError: if the architecture is not implemented, or cannot be inferred.
    """
    classes = ", ".join(map(family.architecture, family.heads))
    head = Head.ENCODER if declared is None else family.head_of(declared)
    if head is None:
        raise UserError(f"{where}: architectures={declared} is not implemented: only {classes} are")
    if declared is None and any(name.startswith(("classifier.", "qa_outputs.")) for name in names):
        raise UserError(
            f"{where}: the config has a head and no architectures: add one of {classes} to"
            " config.json"
        )
    groups = set(groups_of_head(family, head))
    signs = {"pooler": "pooler/dense"} if family.has_encoder_pooler else {}
    if head not in TASK_HEADS:
        signs |= {"mlm_head": "mlm_head/transform", "nsp_head": "nsp_head/dense"}
    groups |= {
        group
        for group, module in signs.items()
        if module in family.names and f"{family.names[module]}.weight" in names
    }
    if "nsp_head" in groups:
        groups |= set(GROUPS[Head.PRETRAINING])
    return tuple(group for group in _ORDER if group in groups)


def groups_of_head(family: Family, head: Head) -> tuple[str, ...]:
    """Returns the groups of parameters that a model of a family always has."""
    groups = GROUPS[head]
    if head in TASK_HEADS and family.pooler is PoolerKind.TRANSFORM and "pooler" not in groups:
        return (*groups, "pooler")
    return groups


def pretrained_metadata(encoder: EncoderConfig, groups: Collection[str]) -> dict[str, Any]:
    """Returns the metadata of a checkpoint without a task's head."""
    config = PretrainConfig(encoder=encoder)
    if "nsp_head" not in groups:
        config.data.objective = SentenceObjective.NONE
        config.data.format = ExampleFormat.FULL_SENTENCES  # as continued pretraining makes them
    return {
        "kind": PRETRAINING_KIND if "mlm_head" in groups else ENCODER_KIND,
        "config": to_dict(config),
        "encoder": to_dict(encoder),
    }


def fine_tuned_metadata(
    encoder: EncoderConfig, task: TaskKind, labels: Sequence[str], *, pairs: bool
) -> dict[str, Any]:
    """Returns the metadata of a checkpoint with a task's head.

    Args:
      encoder: its shape; inputs are cut to windows as long as its position table.
      task: the kind.
      labels: names of the classes.
      pairs: True if it reads two texts; spans always do.
    """
    config = FinetuneConfig(task=task)
    config.data.length, config.data.stride = encoder.max_length, max(1, encoder.max_length // 2)
    config.data.question_length = min(config.data.question_length, max(1, encoder.max_length // 4))
    if pairs:
        config.data.text_pair_column = "text_pair"
    return {
        "kind": task.value,
        "config": to_dict(config),
        "encoder": to_dict(encoder),
        "labels": list(labels),
        "scores": {},
    }


def head_of(metadata: Mapping[str, Any]) -> Head:
    """Returns the head of a checkpoint.

    Raises:
      UserError: if no class of transformers has it.
    """
    if metadata["kind"] == ENCODER_KIND:
        return Head.ENCODER
    if metadata["kind"] == PRETRAINING_KIND:
        has_pairs = _objective(metadata) is not SentenceObjective.NONE
        return Head.PRETRAINING if has_pairs else Head.MASKED_LM
    config = from_dict(FinetuneConfig, metadata["config"])
    if config.feature_layers > 1:
        raise UserError(
            f"feature_layers={config.feature_layers} cannot be exported: heads of transformers read"
            " only the last layer; fine-tune with --config.feature_layers=1"
        )
    return _OF_TASKS[config.task]


def family_of(metadata: Mapping[str, Any]) -> Family:
    """Returns the family of a checkpoint: that of its import, or the first that fits.

    Raises:
      UserError: if there is none, or no class of its has the head.
    """
    head, encoder = head_of(metadata), from_dict(EncoderConfig, metadata["encoder"])
    separators = metadata.get("tokenizer", {}).get("settings", {}).get("separators", 1)
    closest = ROBERTA if separators > 1 else BERT
    if encoder.position_encoding is PositionEncoding.ROTARY:
        closest = EUROBERT if encoder.norm_kind is NormKind.RMS_NORM else MODERNBERT
    if "family" in metadata:
        closest = FAMILIES[metadata["family"]]
        if not misfit(closest, encoder, head):
            return closest
    for family in FAMILIES.values():
        if family.separators == separators and not misfit(family, encoder, head):
            return family
    reason = misfit(closest, encoder, head)
    if reason in ("data.objective", "task"):
        value = metadata["config"]["data"]["objective"] if reason != "task" else metadata["kind"]
        raise UserError(
            f"{reason}={value} cannot be exported: {closest.classes} of transformers has no class"
            " for it"
        )
    raise UserError(
        f"{reason or f'{separators} separators between two texts'} cannot be exported: it is not"
        f" {closest.classes} of transformers, nor of another family"
    )


def architecture_of(metadata: Mapping[str, Any]) -> str:
    """Returns the class of transformers for a checkpoint.

    Raises:
      UserError: if there is none.
    """
    return family_of(metadata).architecture(head_of(metadata))


def groups_of_export(metadata: Mapping[str, Any], stored: Collection[str]) -> tuple[str, ...]:
    """Returns the groups of a checkpoint that its class of transformers has too.

    Raises:
      UserError: if there is no such class, or it cannot represent the encoder.
    """
    family, head = family_of(metadata), head_of(metadata)
    groups = groups_of_head(family, head)
    if head is Head.ENCODER and family.has_encoder_pooler and "pooler" in stored:
        groups = (*groups, "pooler")
    return tuple("sop_head" if g == "nsp_head" and "sop_head" in stored else g for g in groups)


def module_of(metadata: Mapping[str, Any]) -> nn.Module:
    """Builds the model of a checkpoint; for an encoder without a head, the pretraining model."""
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    if metadata["kind"] in (PRETRAINING_KIND, ENCODER_KIND):
        return PretrainingModel(encoder, _objective(metadata))
    return make_model(from_dict(FinetuneConfig, metadata["config"]), encoder, metadata["labels"])


def abstract_groups(metadata: Mapping[str, Any], groups: Collection[str], mesh: Mesh) -> Params:
    """Returns abstract parameters of some groups of a checkpoint, replicated over the mesh.

    Shapes are from the table of names: tracing the model would take longer than reading a file.
    """
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    outputs = 0
    if metadata["kind"] not in (PRETRAINING_KIND, ENCODER_KIND):
        outputs = KINDS[TaskKind(metadata["kind"])].outputs or len(metadata["labels"])
    tree: Params = {}
    for path, shape in make_shapes(encoder, groups, outputs).items():
        *parents, leaf = path.split("/")
        group = tree
        for parent in parents:
            group = group.setdefault(parent, {})
        group[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=replicated(mesh))
    return tree


def _objective(metadata: Mapping[str, Any]) -> SentenceObjective:
    return SentenceObjective(metadata["config"]["data"]["objective"])
