"""Runs the layers of an encoder, whose parameters are stacked, one after another.

A scan runs all layers but the last, so that compiling takes the same time for any number of them,
unless `encoder.unroll` puts several into an iteration. The last one stands apart: where only some
tokens are read, it computes no others (decision 0003). Where windowed and global layers take turns,
the scan runs a period of them at once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from bert_jax.config import EncoderConfig, Remat
from bert_jax.distributed.gathering import gather_again, is_fully_sharded
from bert_jax.model.layers import gather_positions

LAYERS = "layers"  # the parameter group whose arrays are stacked on a leading axis of size L

# x [B, T, D], (the layer's parameters, its dropout key), its kind, positions [B, P] or None
# -> [B, P, D]
ApplyLayer = Callable[..., jax.Array]


class LayerKind(NamedTuple):
    """Differences among the layers of an encoder, whose parameters have one shape."""

    window: int = 0  # tokens to each side that are seen; 0: all
    attention_norm: bool = True  # False: its own stays unused, as layer 0's without `first_norm`


def layer_kinds(config: EncoderConfig) -> tuple[LayerKind, ...]:
    """Returns the kind of each layer, the lowest first."""
    every = config.global_every
    return tuple(
        LayerKind(
            window=0 if every and layer % every == 0 else config.window,
            attention_norm=config.first_norm or layer > 0,
        )
        for layer in range(config.layers)
    )


def init_stack(init_layer: Callable[[jax.Array], Any], key: jax.Array, layers: int) -> Any:
    """Draws the parameters of all layers; each has a key of its own."""
    stack = jax.vmap(init_layer)(jax.random.split(key, layers))
    return nn.meta.add_axis(stack, 0, {nn.PARTITION_NAME: LAYERS})


def run_stack(
    apply_layer: ApplyLayer,
    x: jax.Array,
    stack: Any,
    kinds: Sequence[LayerKind],
    config: EncoderConfig,
    output_positions: jax.Array | None,
    outputs: int = 1,
) -> list[jax.Array]:
    """Applies layers, all or some of an encoder's, from the lowest to the highest.

    Args:
      apply_layer: computes one layer.
      x: [B, T, D], what the lowest of them reads.
      stack: what `apply_layer` takes for a layer, each array with a leading axis for the layers.
      kinds: of these layers.
      config: for `remat` and `unroll`.
      output_positions: [B, P] int32, the tokens whose vectors are wanted; None: all, P = T.
      outputs: number of layers, from the top, whose vectors are wanted.

    Returns:
      [B, P, D] of each wanted layer, the lowest first.
    """
    *below, top = kinds
    apply_layer = _rematerialised(apply_layer, config)
    # A first layer of its own kind, periods in a scan, what is left of one, and the last layer.
    first = 1 if below and not below[0].attention_norm else 0
    period = _period(below[first:])
    periods = (len(below) - first) // period
    rest = len(below) - first - periods * period
    parts = _split(stack, (first, periods * period, rest, 1))
    kept: list[jax.Array] = []  # [B, P, D] of each layer below the last, if they are wanted

    def run(x: jax.Array, layers: Sequence[Any], kinds: Sequence[LayerKind]) -> Any:
        wanted = []
        for layer, kind in zip(layers, kinds, strict=True):
            x = apply_layer(x, layer, kind)
            wanted += [gather_positions(x, output_positions)] if outputs > 1 else []
        return x, wanted

    def scan(x: jax.Array, layers: Sequence[Any]) -> Any:
        return run(x, layers, below[first : first + period])

    x, wanted = run(x, unstack(parts[0], first), below[:first])
    kept += wanted
    if periods:
        by_period = jax.tree.map(
            lambda leaf: leaf.reshape(periods, period, *leaf.shape[1:]), parts[1]
        )
        by_layer = unstack(by_period, period, axis=1)
        x, scanned = jax.lax.scan(scan, x, by_layer, unroll=max(1, config.unroll // period))
        kept += [each[number] for number in range(periods) for each in scanned]
    x, wanted = run(x, unstack(parts[2], rest), below[len(below) - rest :])
    kept += wanted
    [last] = unstack(parts[3], 1)
    return [*kept[len(kept) + 1 - outputs :], apply_layer(x, last, top, output_positions)]


def cut_stack(stack: Any, begin: int, end: int) -> Any:
    """Returns the layers of a stack from `begin` to before `end`."""
    return jax.tree.map(lambda leaf: leaf[begin:end], stack)


def _period(kinds: Sequence[LayerKind]) -> int:
    """Returns the least number of layers after which the kinds repeat."""
    return next(n for n in range(1, len(kinds) + 2) if list(kinds[n:]) == list(kinds[:-n]))


def _rematerialised(apply_layer: ApplyLayer, config: EncoderConfig) -> ApplyLayer:
    """Wraps a layer so that the backward pass computes again what is not kept."""
    if config.remat is Remat.NONE and not is_fully_sharded():
        return apply_layer
    # Where the scan is unrolled, the compiler would join the two computations, and keep all.
    checkpoint = functools.partial(jax.checkpoint, prevent_cse=config.unroll > 1)
    policy = {
        Remat.NONE: gather_again,
        Remat.PRODUCTS: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        Remat.INPUTS: None,
    }[config.remat]
    return checkpoint(apply_layer, policy=policy, static_argnums=(2,))  # the kind of the layer


def unstack(stack: Any, count: int, axis: int = 0) -> list[Any]:
    """Returns the `count` trees of which `axis` of each array is made."""
    parts = _split(stack, (1,) * count, axis)
    return [jax.tree.map(lambda leaf: leaf.squeeze(axis), part) for part in parts]


def _split(stack: Any, sizes: Sequence[int], axis: int = 0) -> list[Any]:
    """Splits each array along an axis."""
    leaves, tree = jax.tree.flatten(stack)
    # `split`, not slices: its gradient is one concatenation rather than a sum of arrays of the
    # whole stack's size.
    parts = [jax.lax.split(leaf, sizes, axis) for leaf in leaves]
    return [tree.unflatten([part[number] for part in parts]) for number in range(len(sizes))]
