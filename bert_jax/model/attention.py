"""Dot-product attention inside examples; in long rows a block of queries at a time."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.model.dropout import dropout_mask
from bert_jax.model.layers import gather_positions

AttentionFn = Callable[..., jax.Array]  # `attention`, or its fused counterpart

# More queries are cut into blocks, whose probabilities are computed again in the backward pass: so
# a row of 8,192 tokens keeps none of its 67 million a head.
_MOST_QUERIES, _BLOCK = 1024, 256


def attention_probabilities(query: jax.Array, key: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the attention probabilities of each token over those that it sees.

    Where a token sees none, all have the same probability: finite, and nothing reads it.

    Args:
      query: [B, P, H, K] float.
      key: [B, T, H, K] float.
      mask: [B, 1, P, T] bool, from `visible`.

    Returns:
      [B, H, P, T] float32; the last axis adds up to 1.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("bthk,bshk->bhts", query * scale, key, preferred_element_type=jnp.float32)
    return jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1)


class Tokens(NamedTuple):
    """Examples and places, which decide who sees whom: of queries [B, P], of keys [B, T]; int32."""

    examples: jax.Array  # the example of each token; 0: padding
    places: jax.Array  # the index of each token in its row; the first axis may be 1

    def at(self, positions: jax.Array | None) -> "Tokens":
        """Picks [B, P] tokens of whole rows, whose places are 0 to T - 1; None picks all."""
        if positions is None:
            return self
        return Tokens(gather_positions(self.examples, positions), positions)


def tokens_of(example_ids: jax.Array) -> Tokens:
    """Returns all tokens of rows: [B, T] int32, as a batch has it."""
    return Tokens(example_ids, jnp.arange(example_ids.shape[1], dtype=jnp.int32)[None])


def visible(queries: Tokens, keys: Tokens, *, causal: bool, window: int = 0) -> jax.Array:
    """Returns the mask of the keys that each query sees, [B, 1, P, T] bool.

    Tokens see their own example; padding sees padding, so that none sees nothing.

    Args:
      queries: P tokens of each row.
      keys: T tokens of each row.
      causal: True: no query sees later keys.
      window: greatest distance of a key that is seen; 0: any.
    """
    mask = queries.examples[:, :, None] == keys.examples[:, None, :]
    if causal:
        mask &= queries.places[:, :, None] >= keys.places[:, None, :]
    if window:
        mask &= jnp.abs(queries.places[:, :, None] - keys.places[:, None, :]) <= window
    return mask[:, None]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: Tokens,
    keys: Tokens,
    *,
    causal: bool,
    window: int = 0,
    dropout_rate: float,
    dropout_key: jax.Array | None,
) -> jax.Array:
    """Lets each token attend to the tokens that it sees.

    Args:
      query: [B, P, H, K] float.
      key: [B, T, H, K] float.
      value: [B, T, H, K] float.
      queries: [B, P], as `visible`.
      keys: [B, T], as `visible`.
      causal: as `visible`.
      window: as `visible`.
      dropout_rate: on the probabilities, in [0, 1).
      dropout_key: a jax key; None: no dropout.

    Returns:
      [B, P, H, K], of the type of `value`. Probabilities are computed in float32.
    """
    if query.shape[1] > _MOST_QUERIES:
        options = {"causal": causal, "window": window, "dropout_rate": dropout_rate}
        return _by_block(query, key, value, queries, keys, dropout_key=dropout_key, **options)
    mask = visible(queries, keys, causal=causal, window=window)
    probabilities = attention_probabilities(query, key, mask).astype(value.dtype)
    if dropout_key is None:
        return jnp.einsum("bhts,bshk->bthk", probabilities, value)
    return _weigh_values(probabilities, value, jax.random.key_data(dropout_key), dropout_rate)


class _Block(NamedTuple):
    """Some of the queries of each row; all blocks together have a leading axis for their number."""

    number: jax.Array  # [] int32
    query: jax.Array  # [B, P, H, K]
    tokens: Tokens  # [B, P]


def _by_block(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    queries: Tokens,
    keys: Tokens,
    *,
    dropout_key: jax.Array | None,
    **options: Any,
) -> jax.Array:
    """Computes `attention` for a block of queries after another, each with its own dropout."""
    rows, length = query.shape[:2]
    blocks = -(-length // _BLOCK)

    def cut(x: jax.Array) -> jax.Array:
        """Fills the last block with zeros, and returns [blocks, B, block, ...]."""
        x = jnp.pad(x, [(0, 0), (0, blocks * _BLOCK - length), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(x.reshape(rows, blocks, _BLOCK, *x.shape[2:]), 1, 0)

    places = jnp.broadcast_to(queries.places, queries.examples.shape)
    cut_queries = Tokens(cut(queries.examples), cut(places))
    all_blocks = _Block(jnp.arange(blocks), cut(query), cut_queries)
    out: Any = _attend_blocks(all_blocks, key, value, keys, dropout_key, tuple(options.items()))
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(rows, blocks * _BLOCK, *out.shape[3:])[:, :length]


_Options = tuple[tuple[str, Any], ...]  # of `attention`, those that are not arrays


def _attend_block(
    block: _Block,
    key: jax.Array,
    value: jax.Array,
    keys: Tokens,
    dropout_key: jax.Array | None,
    options: _Options,
) -> jax.Array:
    own = None if dropout_key is None else jax.random.fold_in(dropout_key, block.number)
    return attention(block.query, key, value, block.tokens, keys, dropout_key=own, **dict(options))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend_blocks(
    blocks: _Block,
    key: jax.Array,
    value: jax.Array,
    keys: Tokens,
    dropout_key: jax.Array | None,
    options: _Options,
) -> jax.Array:
    """Returns [blocks, B, block, H, K] from keys and values [B, T, H, K].

    The backward pass computes each block again, and adds up the gradients of keys and values.
    Not by `jax.checkpoint`: in a loop it keeps what is not differentiated, such as who sees whom.
    """
    return jax.lax.map(
        lambda block: _attend_block(block, key, value, keys, dropout_key, options), blocks
    )


def _attend_forward(*inputs: Any) -> tuple[Any, tuple[Any, ...]]:
    return _attend_blocks(*inputs), inputs[:-1]


def _attend_backward(options: _Options, inputs: tuple[Any, ...], gradients: jax.Array) -> tuple:
    blocks, key, value, keys, dropout_key = inputs

    def add_block(sums: Any, of_block: tuple[_Block, jax.Array]) -> tuple[Any, jax.Array]:
        block, gradient = of_block

        def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            there = block._replace(query=query)
            return _attend_block(there, key, value, keys, dropout_key, options)

        _, pull = jax.vjp(attend, block.query, key, value)
        of_query, *of_rest = pull(gradient)
        return jax.tree.map(jnp.add, sums, tuple(of_rest)), of_query

    zeros = (jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32))
    sums, of_query = jax.lax.scan(add_block, zeros, (blocks, gradients))
    of_key, of_value = sums[0].astype(key.dtype), sums[1].astype(value.dtype)
    # None: not differentiated.
    of_blocks = _Block(None, of_query, None)  # pyright: ignore[reportArgumentType]
    return of_blocks, of_key, of_value, None, None


_attend_blocks.defvjp(_attend_forward, _attend_backward)


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
