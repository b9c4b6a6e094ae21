"""Attention inside a window, in time and memory that grow with T, not T^2 (ModernBERT, 2.1.2).

Rows are cut into blocks of queries, and each block reads its own keys and those of its neighbours.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.model.attention import Tokens, attention
from bert_jax.model.layers import gather_positions

_LEAST_BLOCK = 32  # queries; products of fewer cost a device as much


def windowed_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    output_positions: jax.Array | None,
    *,
    window: int,
    **options: Any,
) -> jax.Array:
    """Lets each token attend to the tokens that it sees, at most `window` away.

    Args:
      query: [B, T, H, K] float, of all tokens.
      key: [B, T, H, K] float.
      value: [B, T, H, K] float.
      tokens: [B, T]; their places are 0 to T - 1.
      output_positions: [B, P] int32 in [0, T), the queries that are wanted; None: all, P = T.
      window: W, from 1.
      **options: of `attention`.

    Returns:
      [B, P, H, K], of the type of `value`.
    """
    length = key.shape[1]
    block, _ = blocks_of(window, length)
    if block == length:
        query, wanted = gather_positions(query, output_positions), tokens.at(output_positions)
        return attention(query, key, value, wanted, tokens, window=window, **options)
    if output_positions is not None and output_positions.shape[1] * (2 * window + 1) < length:
        return _by_query(query, key, value, tokens, output_positions, window=window, **options)
    out = _by_block(query, key, value, tokens, block, window=window, **options)
    return gather_positions(out, output_positions)


def blocks_of(window: int, length: int) -> tuple[int, int]:
    """Returns the number of queries in a block, and that of the keys that it reads.

    Args:
      window: W, from 1.
      length: T; where it is short, one block has all queries and keys.
    """
    block = max(window, _LEAST_BLOCK)
    return (block, 3 * block) if length > 3 * block else (length, length)


def _by_block(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    block: int,
    **options: Any,
) -> jax.Array:
    """Computes all queries, in blocks that each see three blocks of keys."""
    rows, length, *heads = query.shape
    blocks = -(-length // block)
    places = jnp.broadcast_to(tokens.places, tokens.examples.shape)

    def cut(x: jax.Array, before: int, fill: int) -> jax.Array:
        """Pads the tokens by blocks, and returns [B, before + blocks + before, block, ...]."""
        behind = (blocks + before) * block - length
        widths = [(0, 0), (before * block, behind), *[(0, 0)] * (x.ndim - 2)]
        x = jnp.pad(x, widths, constant_values=fill)
        return x.reshape(rows, -1, block, *x.shape[2:])

    def queries_of(x: jax.Array, fill: int = 0) -> jax.Array:
        x = cut(x, 0, fill)
        return x.reshape(rows * blocks, block, *x.shape[3:])

    def keys_of(x: jax.Array, fill: int = 0) -> jax.Array:
        x = cut(x, 1, fill)
        x = jnp.concatenate([x[:, n : n + blocks] for n in range(3)], axis=2)
        return x.reshape(rows * blocks, 3 * block, *x.shape[3:])

    out = attention(
        queries_of(query),
        keys_of(key),
        keys_of(value),
        Tokens(queries_of(tokens.examples), queries_of(places)),
        Tokens(keys_of(tokens.examples, -1), keys_of(places)),  # no query is of example -1
        **options,
    )
    return out.reshape(rows, blocks * block, *heads)[:, :length]


def _by_query(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    tokens: Tokens,
    positions: jax.Array,
    *,
    window: int,
    **options: Any,
) -> jax.Array:
    """Computes few queries, each of which gathers the keys of its window."""
    rows, wanted = positions.shape
    length = key.shape[1]
    offsets = jnp.arange(-window, window + 1, dtype=jnp.int32)
    near = positions[:, :, None] + offsets[None, None]  # [B, P, S]
    inside = (near >= 0) & (near < length)
    near = jnp.clip(near, 0, length - 1).reshape(rows, -1)

    def gather(x: jax.Array, positions: jax.Array, size: int) -> jax.Array:
        x = gather_positions(x, positions)
        return x.reshape(rows * wanted, size, *x.shape[2:])

    size = 2 * window + 1
    examples = jnp.where(inside.reshape(rows, -1), gather_positions(tokens.examples, near), -1)
    out = attention(
        gather(query, positions, 1),
        gather(key, near, size),
        gather(value, near, size),
        Tokens(gather(tokens.examples, positions, 1), positions.reshape(-1, 1)),
        Tokens(examples.reshape(-1, size), near.reshape(-1, size)),
        window=window,
        **options,
    )
    return out.reshape(rows, wanted, *query.shape[2:])
