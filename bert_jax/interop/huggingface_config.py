"""config.json of transformers: the encoder that it describes, and the one that describes ours."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from bert_jax.config import Activation, EncoderConfig, PoolerKind, validate_encoder
from bert_jax.errors import UserError
from bert_jax.interop.families.family import TASK_HEADS, Family, Head
from bert_jax.interop.families.fields import read_activation, write_activation
from bert_jax.model.layers import resolved_mlm_activation

# Why other kinds of models are not among the families.
_OTHERS = {
    "albert": "its layers share their parameters",
    "deberta": "its positions are relative",
    "deberta-v2": "its positions are relative",
    "mpnet": "its positions are relative",
}
# Fields that do not affect the output of a trained encoder, or that are read elsewhere.
_HARMLESS = frozenset(
    "architectures id2label label2id num_labels problem_type model_type"
    " _name_or_path transformers_version torch_dtype dtype use_cache return_dict"
    " attn_implementation _attn_implementation _attn_implementation_autoset"
    " gradient_checkpointing classifier_dropout finetuning_task task_specific_params"
    " tokenizer_class prefix pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id"
    " mask_token_id unk_token_id output_attentions output_hidden_states output_past torchscript"
    " max_length min_length num_beams num_beam_groups num_return_sequences"
    " temperature top_k top_p typical_p repetition_penalty length_penalty diversity_penalty"
    " encoder_no_repeat_ngram_size chunk_size_feed_forward do_sample early_stopping".split()
)
# Fields of ours that change no output, and how a model runs here.
_NO_OUTPUT = frozenset(
    "position_init init_stddev depth_scaled_init compute_type attention remat unroll dropout_rate"
    " attention_dropout_rate attention_output_dropout_rate mlp_output_dropout_rate".split()
)
_OF_HEADS = frozenset({"pooling", "pooler", "mlm_activation"})


def find_family(
    values: Mapping[str, Any], families: Mapping[str, Family], path: pathlib.Path
) -> Family:
    """Returns the family of a config.json; the oldest files name none and are BERT's.

    Args:
      values: the fields of the file.
      families: by `model_type`.
      path: of the file, for errors.

    Raises:
      UserError: if it is none of them.
    """
    name = values.get("model_type") or "bert"
    if not isinstance(name, str) or name not in families:
        why = f" ({_OTHERS[name]})" if isinstance(name, str) and name in _OTHERS else ""
        raise UserError(
            f"{path}: model_type={_shown(name)} is not implemented{why}: only"
            f" {', '.join(families)} are"
        )
    return families[name]


def read_encoder_config(
    family: Family, values: Mapping[str, Any], path: pathlib.Path
) -> EncoderConfig:
    """Returns the encoder of a config.json, or of Google's bert_config.json.

    Args:
      family: of the model.
      values: the fields of the file.
      path: of the file, for errors.

    Raises:
      UserError: if a field is unknown, or its value makes the model another one.
    """
    for name, only in family.only.items():
        if (value := values.get(name)) is not None and value != only:
            raise UserError(
                f"{path}: {name}={_shown(value)} is not implemented: only {name}={_shown(only)} is"
            )
    known = {*family.fields, *family.only, *family.harmless, *family.defaults, *_HARMLESS}
    for name, value in values.items():
        if name not in known and name != family.activation and value:
            raise UserError(
                f"{path}: {name}={_shown(value)} is not implemented: remove the field if the model"
                f" is a plain {family.classes} without it"
            )
    if "vocab_size" not in values and "vocab_size" not in family.defaults:
        raise UserError(f"{path} has no vocab_size: give the config of a model")
    stated = {name: value for name, value in values.items() if value is not None}
    values = {**family.defaults, **stated}
    found = {
        ours: _value(values, name, ours, path)
        for name, ours in family.fields.items()
        if name in values
    }
    try:
        found["activation"] = read_activation(values, family.activation)
        found |= family.read_more(_complete(family, values))
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(map(str, error.args))}") from None
    encoder = EncoderConfig(**{"pooler": family.pooler, **family.fixed, **found})
    encoder.mlm_activation = _told_apart(encoder, family.mlm_activation(encoder))
    try:
        validate_encoder(encoder)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return encoder


def _told_apart(encoder: EncoderConfig, activation: Activation) -> Activation:
    """Returns the activation of a transform, OF_ENCODER where it is that of the layers."""
    return Activation.OF_ENCODER if activation is encoder.activation else activation


def _complete(family: Family, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields with BERT base's values for those of the shape that are not there."""
    base = EncoderConfig()
    return {name: getattr(base, ours) for name, ours in family.fields.items()} | dict(values)


def _value(values: Mapping[str, Any], name: str, ours: str, path: pathlib.Path) -> Any:
    value = values[name]
    wanted = type(getattr(EncoderConfig(), ours))
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    if (isinstance(value, bool) and wanted is not bool) or not fits:
        raise UserError(
            f"{path}: {name}={_shown(value)} is not of type {wanted.__name__}: correct the file"
        )
    return wanted(value)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def misfit(family: Family, encoder: EncoderConfig, head: Head) -> str:
    """Returns the field, in words, by which an encoder with a head is not of a family; '' if none.

    Args:
      family: that it may be of.
      encoder: its shape.
      head: on it.
    """
    if head not in family.heads:
        return "data.objective" if head is Head.PRETRAINING else "task"
    base = EncoderConfig()
    written = {*family.fields.values(), *family.more, "activation"}
    for field in dataclasses.fields(encoder):
        if field.name in written | _NO_OUTPUT | _OF_HEADS:
            continue
        wanted = family.fixed.get(field.name, getattr(base, field.name))
        if (value := getattr(encoder, field.name)) != wanted:
            return _field(field.name, value)
    if "segments" in family.fields.values() and not encoder.segments:
        return _field("segments", 0)
    if head in (Head.MASKED_LM, Head.PRETRAINING) and encoder.mlm_transform:
        if family.mlm_activation(encoder) is not resolved_mlm_activation(encoder):
            return _field("mlm_activation", resolved_mlm_activation(encoder))
    reads_pooler = head in (Head.CLASSES, Head.PRETRAINING)
    is_transform = PoolerKind.TRANSFORM in (encoder.pooler, family.pooler)
    reads_transform = head in TASK_HEADS and is_transform
    if (reads_pooler or reads_transform) and encoder.pooler != family.pooler:
        return _field("pooler", encoder.pooler)
    if reads_pooler and encoder.pooling not in family.poolings:
        return _field("pooling", encoder.pooling)
    return ""


def _field(name: str, value: Any) -> str:
    return f"encoder.{name}={getattr(value, 'value', value)}"


def write_encoder_config(family: Family, encoder: EncoderConfig, pad_id: int) -> dict[str, Any]:
    """Returns the fields of config.json that describe an encoder of a family.

    Args:
      family: of the encoder (`misfit`).
      encoder: its shape.
      pad_id: of the padding piece.
    """
    encoder = dataclasses.replace(
        encoder,
        **{
            name: encoder.dropout_rate
            for name in ("attention_output_dropout_rate", "mlp_output_dropout_rate")
            if getattr(encoder, name) == -1
        },
    )
    fields = {name: getattr(encoder, ours) for name, ours in family.fields.items()}
    return {
        "model_type": family.model_type,
        **fields,
        **({} if "mlm_tied" in family.fields.values() else {"tie_word_embeddings": True}),
        family.activation: write_activation(encoder.activation),
        **family.write_more(encoder, pad_id),
        "dtype": "float32",
    }
