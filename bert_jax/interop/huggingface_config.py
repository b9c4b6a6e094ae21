"""config.json of transformers: the names of the encoder's fields, and checks that it is a BERT."""

import dataclasses
import pathlib
from typing import Any

from bert_jax.config import Activation, EncoderConfig, validate_encoder
from bert_jax.errors import UserError

# Theirs: ours. Defaults of missing fields are the same in both projects: those of BERT base.
_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "max_length",
    "type_vocab_size": "segments",
    "layer_norm_eps": "norm_epsilon",
    "initializer_range": "init_stddev",
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
}
_ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_fast": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
}
_WRITTEN_ACTIVATIONS = {
    Activation.GELU: "gelu",
    Activation.GELU_TANH: "gelu_new",
    Activation.RELU: "relu",
    Activation.SILU: "silu",
}
# Ours that do not have BERT's value alone: they are written, or change no output.
_FREE = frozenset(_FIELDS.values()) | {
    "activation",
    "position_init",
    "depth_scaled_init",
    "rope_theta",
    "attention_output_dropout_rate",
    "mlp_output_dropout_rate",
    "compute_type",
    "attention",
    "remat",
    "unroll",
}
# Fields that must have one value if they are present; a field that is off, such as false, passes.
_ONLY = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
    "directionality": "bidi",
}
# Why other kinds of models are not BERT.
_OTHERS = {
    "roberta": "its positions start after the padding id",
    "xlm-roberta": "its positions start after the padding id",
    "camembert": "its positions start after the padding id",
    "albert": "its layers share their parameters",
    "deberta": "its positions are relative",
    "deberta-v2": "its positions are relative",
    "mpnet": "its positions are relative",
    "electra": "its embeddings have another width than its layers",
    "distilbert": "it has no segments",
    "modernbert": "it has rotary positions",
}
# Fields that do not affect the output of a trained encoder, or that are read elsewhere.
_HARMLESS = frozenset(
    "architectures id2label label2id num_labels problem_type"
    " _name_or_path transformers_version torch_dtype dtype use_cache return_dict"
    " attn_implementation _attn_implementation _attn_implementation_autoset"
    " gradient_checkpointing classifier_dropout finetuning_task task_specific_params"
    " tokenizer_class prefix pad_token_id bos_token_id eos_token_id sep_token_id cls_token_id"
    " mask_token_id unk_token_id output_attentions output_hidden_states output_past torchscript"
    " pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head"
    " pooler_type max_length min_length num_beams num_beam_groups num_return_sequences"
    " temperature top_k top_p typical_p repetition_penalty length_penalty diversity_penalty"
    " encoder_no_repeat_ngram_size chunk_size_feed_forward do_sample early_stopping".split()
)


def read_encoder_config(values: dict[str, Any], path: pathlib.Path) -> EncoderConfig:
    """Returns the encoder of a config.json, or of Google's bert_config.json.

    Args:
      values: the fields of the file.
      path: of the file, for errors.

    Raises:
      UserError: if a field is unknown, or its value makes the model another than BERT.
    """
    for name, only in _ONLY.items():
        if (value := values.get(name)) is not None and value != only:
            is_other = name == "model_type" and isinstance(value, str) and value in _OTHERS
            why = f" ({_OTHERS[value]})" if is_other else ""
            raise UserError(
                f"{path}: {name}={_shown(value)} is not BERT{why}: only {name}={_shown(only)} can"
                " be converted"
            )
    known = _FIELDS.keys() | _ONLY.keys() | _HARMLESS | {"hidden_act"}
    for name, value in values.items():
        if name not in known and value:
            raise UserError(
                f"{path}: {name}={_shown(value)} is not implemented: remove the field if the model"
                " is a plain BERT without it"
            )
    if "vocab_size" not in values:
        raise UserError(f"{path} has no vocab_size: give the config of a BERT")
    activation = values.get("hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise UserError(
            f"{path}: hidden_act={_shown(activation)} is not implemented: only models with one of"
            f" {', '.join(_ACTIVATIONS)} can be converted"
        )
    found = {ours: _number(values, name, path) for name, ours in _FIELDS.items() if name in values}
    encoder = EncoderConfig(activation=_ACTIVATIONS[activation], **found)
    try:
        validate_encoder(encoder)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return encoder


def _number(values: dict[str, Any], name: str, path: pathlib.Path) -> Any:
    value = values[name]
    wanted = type(getattr(EncoderConfig(), _FIELDS[name]))
    if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else int):
        raise UserError(
            f"{path}: {name}={_shown(value)} is not of type {wanted.__name__}: correct the file"
        )
    return wanted(value)


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def write_encoder_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the fields of config.json that describe an encoder.

    Raises:
      UserError: if transformers' BERT cannot represent it, such as pre-norm.
    """
    bert = EncoderConfig()
    for field in dataclasses.fields(encoder):
        value, wanted = getattr(encoder, field.name), getattr(bert, field.name)
        if value != wanted and field.name not in _FREE:
            raise UserError(
                f"encoder.{field.name}={getattr(value, 'value', value)} cannot be exported: only"
                f" {field.name}={getattr(wanted, 'value', wanted)} is BERT in transformers"
            )
    fields = {name: getattr(encoder, ours) for name, ours in _FIELDS.items()}
    return {
        "model_type": "bert",
        **fields,
        "hidden_act": _WRITTEN_ACTIVATIONS[encoder.activation],
        "dtype": "float32",
    }
