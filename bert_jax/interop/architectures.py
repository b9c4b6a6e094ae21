"""Which models of transformers and which of our checkpoints are the same, and what both need."""

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
from bert_jax.interop.huggingface_config import write_encoder
from bert_jax.interop.names import make_shapes
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import Params
from bert_jax.tasks.kinds import KINDS, make_model

PRETRAINING_KIND = "pretraining"  # of a checkpoint
ENCODER_KIND = "encoder"  # of one without any head

PRETRAINING = "BertForPreTraining"
MASKED_LM = "BertForMaskedLM"
ENCODER = "BertModel"
CLASSES = "BertForSequenceClassification"
TOKENS = "BertForTokenClassification"
SPANS = "BertForQuestionAnswering"
# The groups of parameters that a model of theirs always has.
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
# A tensor that tells of a group which may be there besides.
_SIGNS = {
    "pooler": "bert.pooler.dense.weight",
    "mlm_head": "cls.predictions.transform.dense.weight",
    "nsp_head": "cls.seq_relationship.weight",
}


class Model(NamedTuple):
    """A model between two libraries."""

    params: Params  # NumPy arrays
    metadata: dict[str, Any]  # of a checkpoint: `kind`, `config`, `encoder`, `tokenizer` and others
    notes: list[str]  # what a user should know of its reading


def groups_of_file(declared: str | None, names: Collection[str], where: object) -> tuple[str, ...]:
    """Decides what a file of theirs holds, from its declared architecture and its tensors.

    A pretrained model has what its file has: many files that are declared to be a masked LM hold a
    pooler and a sentence head as well. A fine-tuned one may have a pooler that nothing reads.

    Args:
      declared: `architectures` of the config; None where it does not say.
      names: of the tensors, canonical.
      where: what an error calls the directory.

    Raises:
      UserError: if it is none of `GROUPS`.
    """
    if declared is not None and declared not in GROUPS:
        raise UserError(
            f"{where}: architectures={declared} is not implemented: only {', '.join(GROUPS)} are"
        )
    if declared is None and any(name.startswith(("classifier.", "qa_outputs.")) for name in names):
        raise UserError(
            f"{where}: config.json does not say what the head is for: add architectures, one of"
            f" {', '.join(GROUPS)}"
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
      labels: of its classes.
      pairs: whether it reads two texts; spans always do.
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
    """Names their model that a checkpoint is.

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
            f"feature_layers={config.feature_layers} cannot be exported: the heads of transformers"
            " read the last layer alone"
        )
    return _OF_TASKS[config.task]


def groups_of_export(metadata: Mapping[str, Any], stored: Collection[str]) -> tuple[str, ...]:
    """Returns the groups of a checkpoint that its model of theirs has a place for.

    Raises:
      UserError: if there is no such model.
    """
    architecture = architecture_of(metadata)
    write_encoder(from_dict(EncoderConfig, metadata["encoder"]))  # raises for what has no place
    groups = GROUPS[architecture]
    if architecture == ENCODER and "pooler" in stored:
        groups = (*groups, "pooler")
    return tuple("sop_head" if g == "nsp_head" and "sop_head" in stored else g for g in groups)


def module_of(metadata: Mapping[str, Any]) -> nn.Module:
    """Builds the model of a checkpoint; of an encoder alone, the one that it was pretrained in."""
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    if metadata["kind"] in (PRETRAINING_KIND, ENCODER_KIND):
        return PretrainingModel(encoder, _objective(metadata))
    return make_model(from_dict(FinetuneConfig, metadata["config"]), encoder, metadata["labels"])


def abstract_groups(metadata: Mapping[str, Any], groups: Collection[str], mesh: Mesh) -> Params:
    """Returns the shapes of some groups of a checkpoint's parameters, whole on every device.

    They are the table's, not the model's: to trace a model takes longer than to read a file.
    """
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    outputs = 0
    if metadata["kind"] not in (PRETRAINING_KIND, ENCODER_KIND):
        outputs = KINDS[TaskKind(metadata["kind"])].outputs or len(metadata["labels"])
    tree: Params = {}
    for path, shape in make_shapes(encoder, groups, outputs).items():
        *parents, leaf = path.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=replicated(mesh))
    return tree


def _objective(metadata: Mapping[str, Any]) -> SentenceObjective:
    return SentenceObjective(metadata["config"]["data"]["objective"])
