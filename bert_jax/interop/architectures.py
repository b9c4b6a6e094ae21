"""Correspondence between the model classes of transformers and the kinds of our checkpoints."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh

from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    PretrainConfig,
    SentenceObjective,
    TaskKind,
    from_dict,
    to_dict,
)
from bert_jax.distributed.sharding import replicated
from bert_jax.errors import UserError
from bert_jax.interop.huggingface_config import write_encoder_config
from bert_jax.interop.names import make_shapes
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import Params
from bert_jax.tasks.kinds import KINDS, make_model

PRETRAINING_KIND = "pretraining"  # `kind` of a checkpoint
ENCODER_KIND = "encoder"  # `kind` of a checkpoint without a head

PRETRAINING = "BertForPreTraining"
MASKED_LM = "BertForMaskedLM"
ENCODER = "BertModel"
CLASSES = "BertForSequenceClassification"
TOKENS = "BertForTokenClassification"
SPANS = "BertForQuestionAnswering"
# Class of transformers -> the groups of parameters that it always has.
GROUPS = {
    PRETRAINING: ("encoder", "pooler", "mlm_head", "nsp_head"),
    MASKED_LM: ("encoder", "mlm_head"),
    ENCODER: ("encoder",),
    CLASSES: ("encoder", "pooler", "classifier"),
    TOKENS: ("encoder", "tagger"),
    SPANS: ("encoder", "span"),
}
_OF_TASKS = {
    TaskKind.CLASSIFICATION: CLASSES,
    TaskKind.REGRESSION: CLASSES,
    TaskKind.TAGS: TOKENS,
    TaskKind.SPANS: SPANS,
}
_ORDER = ("encoder", "pooler", "mlm_head", "nsp_head", "classifier", "tagger", "span")
# Optional group -> a tensor whose presence shows it.
_SIGNS = {
    "pooler": "bert.pooler.dense.weight",
    "mlm_head": "cls.predictions.transform.dense.weight",
    "nsp_head": "cls.seq_relationship.weight",
}


class Model(NamedTuple):
    """A model on its way between two libraries."""

    params: Params  # NumPy arrays
    metadata: dict[str, Any]  # of a checkpoint: `kind`, `config`, `encoder`, `tokenizer` and others
    notes: list[str]  # remarks for the user about reading it


def groups_of_file(declared: str | None, names: Collection[str], where: object) -> tuple[str, ...]:
    """Returns the groups of parameters in a file, from its declared architecture and its tensors.

    A pretrained model gets every group of its file: many files declared as a masked LM have a
    pooler and a sentence head as well. A fine-tuned one may have a pooler that nothing reads.

    Args:
      declared: `architectures` of the config; None if it has none.
      names: canonical names of the tensors.
      where: the file or directory, for errors.

    Raises:
      UserError: if the architecture is not in `GROUPS`, or cannot be inferred.
    """
    if declared is not None and declared not in GROUPS:
        raise UserError(
            f"{where}: architectures={declared} is not implemented: only {', '.join(GROUPS)} are"
        )
    if declared is None and any(name.startswith(("classifier.", "qa_outputs.")) for name in names):
        raise UserError(
            f"{where}: the config has a head and no architectures: add one of"
            f" {', '.join(GROUPS)} to config.json"
        )
    groups = set(GROUPS[declared or ENCODER])
    fine_tuned = declared in _OF_TASKS.values()
    groups |= {
        group
        for group, sign in _SIGNS.items()
        if sign in names and (group == "pooler" or not fine_tuned)
    }
    if "nsp_head" in groups:
        groups |= set(GROUPS[PRETRAINING])
    return tuple(group for group in _ORDER if group in groups)


def pretrained_metadata(encoder: EncoderConfig, groups: Collection[str]) -> dict[str, Any]:
    """Returns the metadata of a checkpoint without a task's head."""
    config = PretrainConfig(encoder=encoder)
    if "nsp_head" not in groups:
        config.data.objective = SentenceObjective.NONE
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


def architecture_of(metadata: Mapping[str, Any]) -> str:
    """Returns the class of transformers for a checkpoint.

    Raises:
      UserError: if there is none.
    """
    if metadata["kind"] == ENCODER_KIND:
        return ENCODER
    if metadata["kind"] == PRETRAINING_KIND:
        return MASKED_LM if _objective(metadata) is SentenceObjective.NONE else PRETRAINING
    config = from_dict(FinetuneConfig, metadata["config"])
    if config.feature_layers > 1:
        raise UserError(
            f"feature_layers={config.feature_layers} cannot be exported: heads of transformers read"
            " only the last layer; fine-tune with --config.feature_layers=1"
        )
    return _OF_TASKS[config.task]


def groups_of_export(metadata: Mapping[str, Any], stored: Collection[str]) -> tuple[str, ...]:
    """Returns the groups of a checkpoint that its class of transformers has too.

    Raises:
      UserError: if there is no such class, or it cannot represent the encoder.
    """
    architecture = architecture_of(metadata)
    write_encoder_config(from_dict(EncoderConfig, metadata["encoder"]))  # raises if it cannot
    groups = GROUPS[architecture]
    if architecture == ENCODER and "pooler" in stored:
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
