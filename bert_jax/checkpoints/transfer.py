"""Transfer of pretrained parameters into a fine-tuning run; the other groups start fresh."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.checkpoints.checkpoint import groups_in, read_metadata, restore_groups
from bert_jax.config import (
    AttentionKernel,
    EncoderConfig,
    EncoderMode,
    FinetuneConfig,
    InputPooling,
    PoolerKind,
    SentenceObjective,
    check_task_length,
    from_dict,
    validate_encoder,
)
from bert_jax.errors import UserError
from bert_jax.model.heads import PretrainingModel, TaskModel, VectorModel
from bert_jax.objectives.losses import Params
from bert_jax.training.state import abstract_params, init_params

TRANSFERRED = ("encoder", "pooler")  # groups that pretrained and task models share


def task_encoder(encoder: EncoderConfig, config: FinetuneConfig) -> EncoderConfig:
    """Returns a pretrained encoder's config with what the run sets: dropout, pooling and so on.

    Raises:
      UserError: if the run asks for longer rows, or more layers, than the encoder has, or for a
        pooling that its pooler does not allow.
    """
    check_task_length(config.data.length, encoder)
    for name in ("fresh_layers", "feature_layers"):
        if (asked := getattr(config, name)) > encoder.layers:
            raise UserError(
                f"--config.{name}={asked}, but the checkpoint's encoder has {encoder.layers}"
                f" layers: choose at most {encoder.layers}"
            )
    rate = config.dropout_rate
    own = {
        name: value
        for name, value in (("pooling", config.pooling), ("pooler", config.pooler))
        if value not in (InputPooling.OF_CHECKPOINT, PoolerKind.OF_CHECKPOINT)
    }
    made = dataclasses.replace(
        encoder,
        dropout_rate=rate,
        attention_dropout_rate=rate,
        attention_output_dropout_rate=-1.0,
        mlp_output_dropout_rate=-1.0,
        attention=AttentionKernel.PRODUCTS,
        remat=config.remat,
        unroll=0,
        **own,
    )
    validate_encoder(made)
    return made


def check_head(metadata: dict[str, Any], config: FinetuneConfig, labels: Sequence[str]) -> None:
    """Checks that `keep_head` can keep the head of a checkpoint.

    Args:
      metadata: of the checkpoint.
      config: of the run.
      labels: of its task.

    Raises:
      UserError: if the checkpoint has no head, or one of another task.
    """
    if not config.keep_head:
        return
    ours = {"task": config.task.value, "labels": list(labels)}
    theirs = {"task": metadata["kind"], "labels": metadata.get("labels", [])}
    field = "feature_layers"
    ours[field], theirs[field] = getattr(config, field), metadata["config"].get(field, 1)
    for name, value in ours.items():
        if theirs[name] != value:
            raise UserError(
                f"--config.keep_head=True: the checkpoint has {name}={theirs[name]}, and the run"
                f" {value}: leave keep_head out, or name a checkpoint of the same task"
            )


def initial_params(
    checkpoint: pathlib.Path,
    model: TaskModel | VectorModel,
    abstract: Params,
    config: FinetuneConfig,
) -> tuple[Params, frozenset[str]]:
    """Returns a run's initial parameters, and the names of the transferred groups.

    Fresh values depend on the run's seed alone.
    """
    fresh = init_params(model, config.seed, abstract)
    transferred = read_transferred(checkpoint, abstract, config)
    return over_fresh(transferred, fresh, config), frozenset(transferred)


def read_transferred(checkpoint: pathlib.Path, abstract: Params, config: FinetuneConfig) -> Params:
    """Restores the parameter groups that checkpoint and model share; {} if the run transfers none.

    A head is shared only with `keep_head`, after `check_head`. The pooler is left out if it would
    read another number of layers than it was trained on, or if the run has another kind. One that
    is a transform begins as that of the masked-LM head, as ModernBERT's does.
    """
    stored = groups_in(checkpoint) if config.transfer else ()
    wanted = abstract if config.keep_head else TRANSFERRED
    groups = [group for group in wanted if group in stored and group in abstract]
    metadata = read_metadata(checkpoint)
    encoder = from_dict(EncoderConfig, metadata["encoder"])
    kind = task_encoder(encoder, config).pooler
    same_layers = metadata["config"].get("feature_layers", 1) == config.feature_layers
    if not same_layers or kind is not encoder.pooler:
        groups = [group for group in groups if group != "pooler"]
    found = restore_groups(checkpoint, abstract, groups)
    has_its_shape = encoder.mlm_transform and encoder.embedding_width in (0, encoder.width)
    is_transform = kind is PoolerKind.TRANSFORM and has_its_shape and same_layers
    if is_transform and "pooler" in abstract and "pooler" not in found and "mlm_head" in stored:
        mesh = abstract["pooler"]["dense"]["kernel"].sharding.mesh
        model = abstract_params(PretrainingModel(encoder, SentenceObjective.NONE), mesh)
        head = restore_groups(checkpoint, model, ["mlm_head"])["mlm_head"]
        found |= {"pooler": {"dense": head["transform"], "norm": head["norm"]}}
    return found


def over_fresh(transferred: Params, fresh: Params, config: FinetuneConfig) -> Params:
    """Returns fresh parameters with transferred groups put in, but for the top `fresh_layers`."""
    if not transferred or not config.fresh_layers:
        return fresh | transferred

    def below_fresh(old: jax.Array, new: jax.Array) -> jax.Array:
        kept = np.arange(len(old)) < len(old) - config.fresh_layers
        return jnp.where(kept.reshape(-1, *[1] * (old.ndim - 1)), old, new)

    layers = (each["encoder"]["layers"] for each in (transferred, fresh))
    encoder = transferred["encoder"] | {"layers": jax.tree.map(below_fresh, *layers)}
    return fresh | transferred | {"encoder": encoder}


def frozen_groups(config: FinetuneConfig) -> frozenset[str]:
    """Returns the names of the parameter groups that are not trained."""
    return frozenset() if config.encoder_mode is EncoderMode.FULL else frozenset({"encoder"})


def transfer_table(params: Params, transferred: frozenset[str], config: FinetuneConfig) -> str:
    """Returns a table of the groups: size, transferred or fresh, trained or frozen, rate."""
    frozen = frozen_groups(config)
    lines = [f"{'group':12}{'parameters':>14}  {'values':14}{'training':10}rate"]
    for group, tree in params.items():
        count = sum(leaf.size for leaf in jax.tree.leaves(tree))
        values = "transferred" if group in transferred else "fresh"
        if group == "encoder" and group in transferred and config.fresh_layers:
            values = f"top {config.fresh_layers} fresh"
        training = "frozen" if group in frozen else "trained"
        rate = "0" if group in frozen else _rate(group, params, config)
        lines.append(f"{group:12}{count:>14,}  {values:14}{training:10}{rate}")
    return "\n".join(lines)


def _rate(group: str, params: Params, config: FinetuneConfig) -> str:
    rate = config.optimizer.learning_rate
    if group != "encoder":
        return f"{config.head_learning_rate or rate:g}"
    if config.layer_decay == 1:
        return f"{rate:g}"
    layers = jax.tree.leaves(params["encoder"]["layers"])[0].shape[0]
    lowest, top = (rate * config.layer_decay**depth for depth in (layers + 1, 1))
    return f"{lowest:.3g} (embeddings) to {top:.3g} (top layer)"
