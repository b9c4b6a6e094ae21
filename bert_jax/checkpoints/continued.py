"""Continued pretraining: what a run takes over from the checkpoint that it starts from."""

import dataclasses
import os
from collections.abc import Collection
from typing import Any

from bert_jax.checkpoints.checkpoint import find_checkpoint, read_metadata
from bert_jax.config import EncoderConfig, PretrainConfig, PretrainDataConfig, from_dict
from bert_jax.errors import UserError

# Fields of the encoder that are the run's own: how it computes, and whether it looks ahead, which
# belongs to the objective.
OF_RUN = frozenset({"compute_type", "attention", "remat", "unroll", "causal"})
# Fields that no parameter depends on: the run may set them.
FREE = frozenset(
    "dropout_rate attention_dropout_rate attention_output_dropout_rate mlp_output_dropout_rate"
    " init_stddev position_init depth_scaled_init".split()
)
_OF_DATA = ("format", "objective", "random_b_rate")


def continued(
    config: PretrainConfig,
    init: str | os.PathLike[str],
    given: Collection[str] = (),
) -> PretrainConfig:
    """Returns a run's config with the encoder and the examples of a checkpoint.

    A field that the config leaves at its default, and that is not given, is the checkpoint's. Only
    a pretraining run says how its examples were made; an encoder without a masked-LM head leaves
    that to the config.

    Args:
      config: of the run, not yet validated.
      init: a run, or RUN/checkpoints/STEP.
      given: fields that the user named, such as `encoder.width`, whatever their value.

    Raises:
      UserError: if the config sets a field of the shape to another value than the checkpoint's.
    """
    checkpoint = find_checkpoint(init)
    metadata = read_metadata(checkpoint)
    stored, usual = from_dict(EncoderConfig, metadata["encoder"]), EncoderConfig()
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(EncoderConfig):
        ours, theirs = getattr(config.encoder, field.name), getattr(stored, field.name)
        if field.name in OF_RUN or ours == theirs:
            continue
        is_given = f"encoder.{field.name}" in given
        if ours == getattr(usual, field.name) and not is_given:
            changes[field.name] = theirs
        elif field.name not in FREE:
            shown = getattr(theirs, "value", theirs)
            remedy = "it out" if is_given else "the encoder out of the recipe"
            raise UserError(
                f"--config.encoder.{field.name}={getattr(ours, 'value', ours)}, and"
                f" {checkpoint} has {shown}: leave {remedy}, the encoder is that of --init"
            )
    encoder = dataclasses.replace(config.encoder, **changes)
    data = config.data
    if metadata["kind"] == "pretraining":
        told, default = metadata["config"]["data"], PretrainDataConfig()
        kinds = {name: type(getattr(default, name)) for name in _OF_DATA}
        data = dataclasses.replace(
            data,
            **{
                name: kinds[name](told[name])
                for name in _OF_DATA
                if getattr(data, name) == getattr(default, name)
                and name in told
                and f"data.{name}" not in given
            },
        )
    return dataclasses.replace(config, encoder=encoder, data=data)
