"""Dot-product attention inside examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.model.dropout import dropout_mask

AttentionFn = Callable[..., jax.Array]  # `attention`, or its fused counterpart


def attention_probabilities(
    query: jax.Array,
    key: jax.Array,
    query_examples: jax.Array,
    key_examples: jax.Array,
    query_index: jax.Array | None = None,
) -> jax.Array:
    """Returns the attention probabilities of each token over the tokens of its own example.

    The arguments are those of `attention`. Padding (example 0) attends to padding, so that no row
    of probabilities is empty; nothing reads what comes of it.

    Returns:
      [B, H, P, T] float32; the last axis adds up to 1.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bthk,bshk->bhts", query * scale, key, preferred_element_type=jnp.float32)
    mask = visible(query_examples, key_examples, query_index)
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def visible(
    query_examples: jax.Array, key_examples: jax.Array, query_index: jax.Array | None
) -> jax.Array:
    """Returns the mask of the keys that each query sees, [B, 1, P, T] bool; see `attention`."""
    mask = query_examples[:, None, :, None] == key_examples[:, None, None, :]
    if query_index is not None:
        key_index = jnp.arange(key_examples.shape[1], dtype=jnp.int32)
        mask &= query_index[:, None, :, None] >= key_index[None, None, None, :]
    return mask


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    query_examples: jax.Array,
    key_examples: jax.Array,
    query_index: jax.Array | None = None,
    *,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Lets each token attend to the tokens of its own example: all, or none after itself.

    Args:
      query: [B, P, H, K] float.
      key: [B, T, H, K] float.
      value: [B, T, H, K] float.
      query_examples: [B, P] int32, the example of each query.
      key_examples: [B, T] int32, the example of each key.
      query_index: [B, P] or [1, P] int32 in [0, T), the index of each query in its row, for causal
        attention: it does not see later keys; None: it sees all.
      dropout_rate: on the probabilities, in [0, 1).
      dropout_key: a jax key; None: no dropout.

    Returns:
      [B, P, H, K], of the type of `value`. Probabilities are computed in float32.
    """
    probabilities = attention_probabilities(query, key, query_examples, key_examples, query_index)
    probabilities = probabilities.astype(value.dtype)
    if dropout_key is None:
        return jnp.einsum("bhts,bshk->bthk", probabilities, value)
    return _weigh_values(probabilities, value, jax.random.key_data(dropout_key), dropout_rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weigh_values(
    probabilities: jax.Array, value: jax.Array, key_data: jax.Array, rate: float
) -> jax.Array:
    """Sums the values with dropout; the backward pass draws the mask again."""
    keep, scale = dropout_mask(key_data, probabilities.shape, rate)
    return jnp.einsum("bhts,bshk->bthk", jnp.where(keep, probabilities * scale, 0), value)


def _read_forward(
    probabilities: jax.Array, value: jax.Array, key_data: jax.Array, rate: float
) -> tuple[Any, tuple[jax.Array, ...]]:
    out = _weigh_values(probabilities, value, key_data, rate)
    return out, (probabilities, value, key_data)


def _read_backward(rate: float, kept: tuple[jax.Array, ...], gradient: jax.Array) -> tuple:
    probabilities, value, key_data = kept
    keep, scale = dropout_mask(key_data, probabilities.shape, rate)
    # Scaled after the choice: written as it is forward, the compiler would keep that result.
    some = jnp.where(keep, probabilities, 0) * scale
    of_value = jnp.einsum("bhts,bthk->bshk", some, gradient)
    of_some = jnp.einsum("bthk,bshk->bhts", gradient, value)
    return jnp.where(keep, of_some * scale, 0), of_value, None


_weigh_values.defvjp(_read_forward, _read_backward)
