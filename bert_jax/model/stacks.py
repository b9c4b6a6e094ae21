"""Kernels of all layers in one array, as they are stored, or apart, as unrolled steps hold them.

Parameters are made, stored and read with the layers stacked. A step whose scan is unrolled would
cut every kernel out of its stack, and join the gradients again: in base on two cores 5 % of its
time and 0.25 GB. So between two steps the kernels lie apart: a list of arrays where the stack was.

Biases and norms stay stacked: they are small, and each array costs time at the start of a run.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

LAYERS = "layers"  # the group of a model's parameters whose arrays are stacks


def names_of(path: tuple) -> list[str]:
    """Returns the names in the path of a parameter or of its moments."""
    return [each.key for each in path if isinstance(each, jax.tree_util.DictKey)]


def layer_of(path: tuple) -> int | None:
    """Returns the layer of a kernel that lies apart; None for every other array."""
    last = path[-1]
    return last.idx if isinstance(last, jax.tree_util.SequenceKey) else None


def apart(abstract: Any) -> Any:
    """Says how `hold` lays a tree of abstract arrays with shardings."""
    return _map_stacks(_layers_of, abstract)


def hold(tree: Any) -> Any:
    """Cuts the stacked kernels of parameters or of a state; the stacks are gone afterwards."""

    def cut(stack: jax.Array) -> list[jax.Array]:
        shardings = [layer.sharding for layer in _layers_of(stack)]
        layers = jax.jit(list, out_shardings=shardings)(stack)
        stack.delete()
        return layers

    return _map_stacks(cut, tree)


def stacked(tree: Any) -> Any:
    """Stacks the kernels that lie apart, inside a program; what is stacked stays as it is."""
    return _map_lists(jnp.stack, tree)


def store(tree: Any) -> Any:
    """Stacks the kernels that lie apart, on their devices; what is stacked stays as it is."""

    def join(layers: list[jax.Array]) -> jax.Array:
        placed = layers[0].sharding
        assert isinstance(placed, NamedSharding)
        sharding = NamedSharding(placed.mesh, PartitionSpec(None, *placed.spec))
        return jax.jit(jnp.stack, out_shardings=sharding)(layers)

    return _map_lists(join, tree)


def _map_stacks(fn: Callable[[Any], list[Any]], tree: Any) -> Any:
    def each(path: tuple, leaf: Any) -> Any:
        names = names_of(path)
        return fn(leaf) if LAYERS in names and names[-1] == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(each, tree)


def _map_lists(fn: Callable[[list[Any]], Any], tree: Any) -> Any:
    def is_list(node: Any) -> bool:
        return isinstance(node, list)

    return jax.tree.map(lambda node: fn(node) if is_list(node) else node, tree, is_leaf=is_list)


def _layers_of(stack: Any) -> list[jax.ShapeDtypeStruct]:
    sharding = NamedSharding(stack.sharding.mesh, PartitionSpec(*stack.sharding.spec[1:]))
    layer = jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype, sharding=sharding)
    return [layer] * stack.shape[0]
