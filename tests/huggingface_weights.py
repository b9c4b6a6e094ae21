"""The parameters of transformers' BertForPreTraining as a bert_jax tree: transposed and stacked."""

from collections.abc import Mapping

import numpy as np

from bert_jax.config import EncoderConfig
from bert_jax.losses import Params


def to_params(tensors: Mapping[str, np.ndarray], config: EncoderConfig) -> Params:
    """Maps named tensors to the tree of a `PretrainingModel`.

    It only moves numbers, so it maps gradients as well as values.

    Args:
      tensors: by their names in `BertForPreTraining.named_parameters()`; a tied one is there once.
      config: the encoder's shape.
    """
    heads = (config.heads, config.width // config.heads)

    def dense(name: str) -> Params:
        return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}

    def norm(name: str) -> Params:
        return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}

    def split(name: str) -> Params:
        whole = dense(name)
        return {
            "kernel": whole["kernel"].reshape(config.width, *heads),
            "bias": whole["bias"].reshape(heads),
        }

    def layer(name: str) -> Params:
        out = dense(f"{name}.attention.output.dense")
        attention = {
            part: split(f"{name}.attention.self.{part}") for part in ("query", "key", "value")
        }
        return {
            "attention": attention | {"out": out | {"kernel": out["kernel"].reshape(*heads, -1)}},
            "attention_norm": norm(f"{name}.attention.output.LayerNorm"),
            "mlp": {
                "up": dense(f"{name}.intermediate.dense"),
                "down": dense(f"{name}.output.dense"),
            },
            "mlp_norm": norm(f"{name}.output.LayerNorm"),
        }

    embeddings = "bert.embeddings"
    transform = "cls.predictions.transform"
    return {
        "encoder": {
            "embeddings": {
                "tokens": tensors[f"{embeddings}.word_embeddings.weight"],
                "positions": tensors[f"{embeddings}.position_embeddings.weight"],
                "segments": tensors[f"{embeddings}.token_type_embeddings.weight"],
                "norm": norm(f"{embeddings}.LayerNorm"),
            },
            "layers": _stack([layer(f"bert.encoder.layer.{i}") for i in range(config.layers)]),
        },
        "pooler": {"dense": dense("bert.pooler.dense")},
        "mlm_head": {
            "transform": dense(f"{transform}.dense"),
            "norm": norm(f"{transform}.LayerNorm"),
            "bias": tensors["cls.predictions.bias"],
        },
        "nsp_head": {"dense": dense("cls.seq_relationship")},
    }


def _stack(trees: list[Params]) -> Params:
    return {
        name: _stack([tree[name] for tree in trees])
        if isinstance(leaf, dict)
        else np.stack([tree[name] for tree in trees])
        for name, leaf in trees[0].items()
    }
