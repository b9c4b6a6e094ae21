"""EuroBERT (Boizard et al., 2025): the layers of Llama, read in both directions."""

from collections.abc import Mapping
from typing import Any

from bert_jax.config import (
    Activation,
    EncoderConfig,
    InputPooling,
    MlpKind,
    Norm,
    NormKind,
    PoolerKind,
    PositionEncoding,
)
from bert_jax.interop.families.family import Family, Head
from bert_jax.interop.families.fields import check_types, read_theta

_LAYER = "model.layers.{layer}"
_POOLINGS = {"bos": InputPooling.CLS, "mean": InputPooling.MEAN, "late": InputPooling.LATE}
# Types of the fields that are read below, besides null.
_TYPES: dict[str, type] = {
    "attention_bias": bool,
    "mlp_bias": bool,
    "classifier_pooling": str,
    "head_dim": int,
    "num_key_value_heads": int,
    "rope_parameters": dict,
}


def _read(values: Mapping[str, Any]) -> dict[str, Any]:
    check_types(values, _TYPES)
    if values["attention_bias"] != values["mlp_bias"]:
        raise ValueError(f"mlp_bias={values['mlp_bias']}", "differs from attention_bias")
    heads, own = values["num_attention_heads"], values.get("head_dim")
    if own is not None and own * heads != values["hidden_size"]:
        raise ValueError(f"head_dim={own}", "is not hidden_size / num_attention_heads")
    kv_heads = values.get("num_key_value_heads") or heads
    pooling = values["classifier_pooling"]
    if pooling not in _POOLINGS:
        raise ValueError(f"classifier_pooling={pooling}", f"is none of {', '.join(_POOLINGS)}")
    rope = values.get("rope_parameters") or {}
    return {
        "kv_heads": 0 if kv_heads == heads else kv_heads,
        "rope_theta": read_theta(rope, values.get("rope_theta", 10_000.0), "rope_parameters"),
        "biases": bool(values["mlp_bias"]),
        "mlm_bias": bool(values["mlp_bias"]),
        "pooling": _POOLINGS[pooling],
    }


def _write(encoder: EncoderConfig, pad_id: int) -> dict[str, Any]:
    return {
        "num_key_value_heads": encoder.kv_heads or encoder.heads,
        "head_dim": encoder.width // encoder.heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": encoder.rope_theta},
        "attention_bias": encoder.biases,
        "mlp_bias": encoder.biases,
        "classifier_pooling": {ours: name for name, ours in _POOLINGS.items()}[encoder.pooling],
    }


EUROBERT = Family(
    model_type="eurobert",
    classes="EuroBert",
    heads=(Head.MASKED_LM, Head.ENCODER, Head.CLASSES, Head.TOKENS),
    base="model.",
    names={
        "encoder/embeddings/tokens": "model.embed_tokens.weight",
        "encoder/layers/attention_norm": f"{_LAYER}.input_layernorm",
        "encoder/layers/attention/query": f"{_LAYER}.self_attn.q_proj",
        "encoder/layers/attention/key": f"{_LAYER}.self_attn.k_proj",
        "encoder/layers/attention/value": f"{_LAYER}.self_attn.v_proj",
        "encoder/layers/attention/out": f"{_LAYER}.self_attn.o_proj",
        "encoder/layers/mlp_norm": f"{_LAYER}.post_attention_layernorm",
        "encoder/layers/mlp/up": (f"{_LAYER}.mlp.gate_proj", f"{_LAYER}.mlp.up_proj"),
        "encoder/layers/mlp/down": f"{_LAYER}.mlp.down_proj",
        "encoder/final_norm": "model.norm",
        "mlm_head/output": "lm_head.weight",
        "mlm_head/bias": "lm_head.bias",
        "pooler/dense": "dense",
        "classifier/dense": "classifier",
        "tagger/dense": "classifier",
    },
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "mlp_width",
        "max_position_embeddings": "max_length",
        "rms_norm_eps": "norm_epsilon",
        "initializer_range": "init_stddev",
        "attention_dropout": "attention_dropout_rate",
        "tie_word_embeddings": "mlm_tied",
    },
    mlm_activation=lambda encoder: Activation.OF_ENCODER,  # there is no transform
    defaults={
        "vocab_size": 128_256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "classifier_pooling": "late",
    },
    fixed={
        "segments": 0,
        "position_encoding": PositionEncoding.ROTARY,
        "norm": Norm.PRE,
        "norm_kind": NormKind.RMS_NORM,
        "embedding_norm": False,
        "mlp": MlpKind.GATED,
        "mlm_transform": False,
        "dropout_rate": 0.0,
    },
    read_more=_read,
    write_more=_write,
    more=frozenset({"kv_heads", "rope_theta", "biases", "mlm_bias", "pooling"}),
    only={"pretraining_tp": 1},
    harmless=frozenset({"head_dim", "rope_parameters", "rope_theta", "num_key_value_heads"}),
    pooler=PoolerKind.GELU,
    poolings=tuple(_POOLINGS.values()),
    special={"bos_token_id": "cls", "eos_token_id": "sep", "mask_token_id": "mask"},
    copies={"lm_head.weight": "model.embed_tokens.weight"},
)
