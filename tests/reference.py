"""BERT in NumPy, float64, one example at a time: the oracle for `bert_jax.model` and `heads`.

It follows Devlin et al. (2019) and Vaswani et al. (2017). It has no padding, no packing and no
batch, so that it cannot share a mistake about them. Only the parameters' names are bert_jax's.
"""

import math
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Tree = dict[str, Any]


class Shape(NamedTuple):
    """What the parameters do not tell."""

    pre_norm: bool = False
    causal: bool = False
    epsilon: float = 1e-12


def to_float64(params: Tree) -> Tree:
    """Returns the same tree with float64 leaves."""
    return {
        name: to_float64(leaf) if isinstance(leaf, dict) else np.asarray(leaf, np.float64)
        for name, leaf in params.items()
    }


def encode(params: Tree, token_ids: Array, segment_ids: Array, shape: Shape) -> Array:
    """Maps one example, [n] and [n], to [n, D]; `params` is the group `encoder`."""
    x = trace(params, token_ids, segment_ids, shape)[0][-1]
    return normalise(params["final_norm"], x, shape) if shape.pre_norm else x


def trace(params: Tree, token_ids: Array, segment_ids: Array, shape: Shape) -> tuple[Array, Array]:
    """As `encode`, and keeps the residual stream, [L + 1, n, D], and who reads whom, [L, H, n, n].

    The first of the stream is the embeddings; in a pre-norm encoder no final norm is in it.
    """
    tables = params["embeddings"]
    x = tables["tokens"][token_ids] + tables["segments"][segment_ids]
    x = normalise(tables["norm"], x + tables["positions"][: len(token_ids)], shape)
    stacked, stream, readings = params["layers"], [x], []
    for i in range(len(stacked["attention_norm"]["scale"])):
        layer = _select(stacked, i)
        seen = normalise(layer["attention_norm"], x, shape) if shape.pre_norm else x
        readings.append(attention_weights(layer["attention"], seen, shape))
        x = x + attend(layer["attention"], seen, readings[-1])
        if shape.pre_norm:
            x = x + feed_forward(layer["mlp"], normalise(layer["mlp_norm"], x, shape))
        else:
            x = normalise(layer["attention_norm"], x, shape)
            x = normalise(layer["mlp_norm"], x + feed_forward(layer["mlp"], x), shape)
        stream.append(x)
    return np.stack(stream), np.stack(readings)


def attend(params: Tree, x: Array, weights: Array) -> Array:
    """Self-attention over all of [n, D], of which each token reads `weights`, [H, n, n]."""
    out = params["out"]["bias"].copy()
    for head, own in enumerate(weights):
        value = x @ params["value"]["kernel"][:, head] + params["value"]["bias"][head]
        out = out + own @ value @ params["out"]["kernel"][head]
    return out


def attention_weights(params: Tree, x: Array, shape: Shape) -> Array:
    """How much each of [n, D] reads from all, or from what is not later: [H, n, n]."""
    width, every = params["query"]["kernel"].shape[-1], []
    for head in range(params["query"]["kernel"].shape[1]):
        query, key = (
            x @ params[name]["kernel"][:, head] + params[name]["bias"][head]
            for name in ("query", "key")
        )
        weights = np.exp(query @ key.T / math.sqrt(width))
        if shape.causal:
            weights = np.tril(weights)
        every.append(weights / weights.sum(axis=1, keepdims=True))
    return np.stack(every)


def feed_forward(params: Tree, x: Array) -> Array:
    """Two affine maps and a GELU."""
    return affine(params["down"], gelu(affine(params["up"], x)))


def pool(params: Tree, x: Array) -> Array:
    """The vector of an example that was encoded to [n, D]: from its first token."""
    return np.tanh(affine(params["dense"], x[0]))


def masked_lm_logits(params: Tree, tokens: Array, x: Array, shape: Shape) -> Array:
    """Maps [n, D] to [n, V]; `params` is `mlm_head`, `tokens` the embedding table."""
    x = normalise(params["norm"], gelu(affine(params["transform"], x)), shape)
    return x @ tokens.T + params["bias"]


def affine(params: Tree, x: Array) -> Array:
    """Multiplies and adds."""
    return x @ params["kernel"] + params["bias"]


def normalise(params: Tree, x: Array, shape: Shape) -> Array:
    """Layer normalisation of the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + shape.epsilon) * params["scale"] + params["bias"]


def gelu(x: Array) -> Array:
    """Multiplies each value by the chance that a standard normal draw is below it."""
    return x * np.vectorize(lambda value: (1 + math.erf(value / math.sqrt(2))) / 2)(x)


def _select(tree: Tree, i: int) -> Tree:
    return {
        name: _select(leaf, i) if isinstance(leaf, dict) else leaf[i] for name, leaf in tree.items()
    }
