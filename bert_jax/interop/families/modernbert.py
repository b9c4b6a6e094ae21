"""ModernBERT (Warner et al., 2024): rotary positions, windows, gated units, no biases."""

from collections.abc import Mapping
from typing import Any

from bert_jax.config import (
    EncoderConfig,
    InputPooling,
    MlpKind,
    Norm,
    NormKind,
    PoolerKind,
    PositionEncoding,
)
from bert_jax.interop.families.family import Family, Head, Part
from bert_jax.interop.families.fields import (
    check_types,
    read_activation,
    read_theta,
    write_activation,
)
from bert_jax.model.layers import resolved_mlm_activation

_LAYER = "model.layers.{layer}"
_POOLINGS = (InputPooling.CLS, InputPooling.MEAN)
_FULL, _SLIDING = "full_attention", "sliding_attention"
_BIASES = ("attention_bias", "mlp_bias", "classifier_bias")
# Types of the fields that are read below, besides null; others are checked by their values.
_TYPES: dict[str, type] = {
    "layer_types": list,
    "rope_parameters": dict,
    **dict.fromkeys((*_BIASES, "norm_bias", "decoder_bias"), bool),
}


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Reads windows and rotary bases, in the old spelling or the new, and what has two fields."""
    check_types(values, _TYPES)
    period, width = _period(values), values["local_attention"]
    if type(width) is not int or width < 2:
        raise ValueError(f"local_attention={width}", "is no width of a window")
    window = width // 2 if period != 1 else 0
    rope = values.get("rope_parameters") or {}
    for kind in (_FULL, _SLIDING):
        if not isinstance(rope.get(kind) or {}, dict):
            raise ValueError(f"rope_parameters.{kind}={rope[kind]}", "is not of type dict")
    theta, local = (
        read_theta(rope.get(kind) or {}, values.get(old, default), f"rope_parameters.{kind}")
        for kind, old, default in (
            (_FULL, "global_rope_theta", 160_000.0),
            (_SLIDING, "local_rope_theta", 10_000.0),
        )
    )
    for name in _BIASES:
        if values[name] != values[_BIASES[0]]:
            raise ValueError(f"{name}={values[name]}", f"differs from {_BIASES[0]}")
    pooling = values["classifier_pooling"]
    if pooling not in [each.value for each in _POOLINGS]:
        raise ValueError(f"classifier_pooling={pooling}", "is neither cls nor mean")
    return {
        "window": window,
        "global_every": period if window else 0,
        "rope_theta": theta,
        "rope_theta_local": local if window and local != theta else 0.0,
        "biases": bool(values[_BIASES[0]]),
        "norm_kind": NormKind.LAYER_NORM if values["norm_bias"] else NormKind.LAYER_NORM_NO_BIAS,
        "mlm_bias": bool(values["decoder_bias"]),
        "mlm_activation": read_activation(values, "classifier_activation"),
        "pooling": InputPooling(pooling),
        "attention_output_dropout_rate": values["attention_dropout"],
    }


def _period(values: Mapping[str, Any]) -> int:
    """Returns n where every n-th layer, from the first on, sees all tokens; 1: all do; 0: none."""
    kinds = values.get("layer_types")
    if kinds is None:
        period = values["global_attn_every_n_layers"]
        if type(period) is not int or period < 1:
            raise ValueError(f"global_attn_every_n_layers={period}", "is not a number of layers")
        return period
    known = all(kind in (_FULL, _SLIDING) for kind in kinds)
    if len(kinds) != values["num_hidden_layers"] or not known:
        raise ValueError(f"layer_types={kinds}", f"is not {_FULL} or {_SLIDING} for each layer")
    full = [number for number, kind in enumerate(kinds) if kind == _FULL]
    period = full[1] if len(full) > 1 else max(len(kinds), 2) if full else 0
    expected = list(range(0, len(kinds), period)) if period else []
    if full != expected:
        raise ValueError(f"layer_types={kinds}", "is not every n-th layer, from the first on")
    return period if len(full) < len(kinds) else 1


def _write(encoder: EncoderConfig, pad_id: int) -> dict[str, Any]:
    every = encoder.global_every if encoder.window else 1
    kinds = [
        _FULL if every and number % every == 0 else _SLIDING for number in range(encoder.layers)
    ]
    theta = encoder.rope_theta
    return {
        "layer_types": kinds,
        "local_attention": 2 * encoder.window or 128,
        "rope_parameters": {
            _FULL: {"rope_type": "default", "rope_theta": theta},
            _SLIDING: {"rope_type": "default", "rope_theta": encoder.rope_theta_local or theta},
        },
        **dict.fromkeys(_BIASES, encoder.biases),
        "norm_bias": encoder.norm_kind is NormKind.LAYER_NORM,
        "decoder_bias": encoder.mlm_bias,
        "classifier_activation": write_activation(resolved_mlm_activation(encoder)),
        "classifier_pooling": encoder.pooling.value,
    }


MODERNBERT = Family(
    model_type="modernbert",
    classes="ModernBert",
    heads=(Head.MASKED_LM, Head.ENCODER, Head.CLASSES, Head.TOKENS, Head.SPANS),
    base="model.",
    names={
        "encoder/embeddings/tokens": "model.embeddings.tok_embeddings.weight",
        "encoder/embeddings/norm": "model.embeddings.norm",
        "encoder/layers/attention_norm": f"{_LAYER}.attn_norm",
        **{
            f"encoder/layers/attention/{name}": Part(f"{_LAYER}.attn.Wqkv", number, 3)
            for number, name in enumerate(("query", "key", "value"))
        },
        "encoder/layers/attention/out": f"{_LAYER}.attn.Wo",
        "encoder/layers/mlp_norm": f"{_LAYER}.mlp_norm",
        "encoder/layers/mlp/up": f"{_LAYER}.mlp.Wi",  # the activated half, then the gate
        "encoder/layers/mlp/down": f"{_LAYER}.mlp.Wo",
        "encoder/final_norm": "model.final_norm",
        "mlm_head/transform": "head.dense",
        "mlm_head/norm": "head.norm",
        "mlm_head/output": "decoder.weight",
        "mlm_head/bias": "decoder.bias",
        "pooler/dense": "head.dense",
        "pooler/norm": "head.norm",
        "classifier/dense": "classifier",
        "tagger/dense": "classifier",
        "span/dense": "classifier",
    },
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_width",
        "max_position_embeddings": "max_length",
        "norm_eps": "norm_epsilon",
        "initializer_range": "init_stddev",
        "embedding_dropout": "dropout_rate",
        "attention_dropout": "attention_dropout_rate",
        "mlp_dropout": "mlp_output_dropout_rate",
        "tie_word_embeddings": "mlm_tied",
    },
    activation="hidden_activation",
    mlm_activation=resolved_mlm_activation,
    defaults={
        "vocab_size": 50_368,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": False,
        **dict.fromkeys(_BIASES, False),
        "decoder_bias": True,
        "embedding_dropout": 0.0,
        "attention_dropout": 0.0,
        "mlp_dropout": 0.0,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "classifier_pooling": "cls",
        "classifier_activation": "gelu",
    },
    fixed={
        "segments": 0,
        "position_encoding": PositionEncoding.ROTARY,
        "norm": Norm.PRE,
        "first_norm": False,
        "mlp": MlpKind.GATED,
        "depth_scaled_init": True,
    },
    read_more=_read,
    write_more=_write,
    more=frozenset(
        "window global_every rope_theta rope_theta_local biases norm_kind mlm_bias mlm_activation"
        " pooling attention_output_dropout_rate".split()
    ),
    only={"position_embedding_type": "absolute"},  # of old files, and never read
    harmless=frozenset(
        "layer_types rope_parameters global_rope_theta local_rope_theta initializer_cutoff_factor"
        " classifier_dropout deterministic_flash_attn sparse_prediction sparse_pred_ignore_index"
        " reference_compile layer_norm_eps repad_logits_with_grad".split()
    ),
    pooler=PoolerKind.TRANSFORM,
    poolings=_POOLINGS,
    special={
        "bos_token_id": "cls",
        "eos_token_id": "sep",
        "cls_token_id": "cls",
        "sep_token_id": "sep",
    },
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
