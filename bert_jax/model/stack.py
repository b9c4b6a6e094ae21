"""Runs the layers of an encoder, whose parameters are stacked, one after another.

A scan runs all layers but the last, so that compiling takes the same time for any number of them.
The last one stands apart: where only some tokens are read, it computes no others (decision 0003).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from bert_jax.config import EncoderConfig, Remat
from bert_jax.model.layers import gather_positions

LAYERS = "layers"  # the parameter group whose arrays are stacked on a leading axis of size L

# x [B, T, D], (the layer's parameters, its dropout key), positions [B, P] or None -> [B, P, D]
ApplyLayer = Callable[..., jax.Array]


def init_stack(init_layer: Callable[[jax.Array], Any], key: jax.Array, layers: int) -> Any:
    """Draws the parameters of all layers; each has a key of its own."""
    stack = jax.vmap(init_layer)(jax.random.split(key, layers))
    return nn.meta.add_axis(stack, 0, {nn.PARTITION_NAME: LAYERS})


def run_stack(
    apply_layer: ApplyLayer,
    x: jax.Array,
    stack: Any,
    config: EncoderConfig,
    output_positions: jax.Array | None,
    outputs: int,
) -> list[jax.Array]:
    """Applies the layers from the lowest to the highest.

    Args:
      apply_layer: computes one layer.
      x: [B, T, D], the embeddings.
      stack: what `apply_layer` takes for a layer, each array with a leading axis of size L.
      config: for `remat` and `unroll`.
      output_positions: [B, P] int32, the tokens whose vectors are wanted; None: all, P = T.
      outputs: number of layers, from the top, whose vectors are wanted.

    Returns:
      [B, P, D] of each wanted layer, the lowest first.
    """
    apply_layer = _rematerialised(apply_layer, config)
    below, last = _split_last(stack)

    def step(x: jax.Array, layer: Any) -> tuple[jax.Array, jax.Array | None]:
        x = apply_layer(x, layer)
        return x, gather_positions(x, output_positions) if outputs > 1 else None

    kept: Any  # [L - 1, B, P, D]
    x, kept = jax.lax.scan(step, x, below, unroll=config.unroll)
    top = apply_layer(x, last, output_positions)
    return [*kept[1 - outputs :], top] if outputs > 1 else [top]


def _rematerialised(apply_layer: ApplyLayer, config: EncoderConfig) -> ApplyLayer:
    """Wraps a layer so that the backward pass computes again what is not kept."""
    if config.remat is Remat.NONE:
        return apply_layer
    # Where the scan is unrolled, the compiler would join the two computations, and keep all.
    checkpoint = functools.partial(jax.checkpoint, prevent_cse=config.unroll > 1)
    if config.remat is Remat.INPUTS:
        return checkpoint(apply_layer)
    return checkpoint(apply_layer, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)


def _split_last(stack: Any) -> tuple[Any, Any]:
    """Splits stacked arrays into all layers but the last, and the last without its axis."""
    leaves, tree = jax.tree.flatten(stack)
    # `split`, not two slices: its gradient is one concatenation rather than a sum of two arrays
    # of the whole stack's size.
    parts = [jax.lax.split(leaf, (leaf.shape[0] - 1, 1)) for leaf in leaves]
    below, last = (tree.unflatten([part[i] for part in parts]) for i in range(2))
    return below, jax.tree.map(lambda leaf: leaf.squeeze(0), last)
