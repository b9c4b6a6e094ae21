"""Fully sharded steps: activations stay with their rows, and parameters come to them.

A device stores 1/fsdp of each parameter, and gathers those of a layer while it computes the layer,
forward and backward (ZeRO, Rajbhandari et al., 2020, stage 3). Left alone, XLA splits activations
by their width, as the parameters are, and sends those: docs/scaling.md has the bytes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax.linen.spmd import logical_to_mesh
from jax.sharding import Mesh, PartitionSpec

from bert_jax.distributed.sharding import BATCH_SPEC, LOGICAL_AXIS_RULES

_AXIS = "fsdp"
_LAYOUT = ("sharding_constraint", "reshape", "transpose", "squeeze")


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns a function to compile, in which `keep_rows` and `gather` know the mesh.

    Elsewhere they do nothing.
    """

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def is_fully_sharded() -> bool:
    """Returns True where the mesh is known, and splits the width of parameters."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape[_AXIS] > 1


def keep_rows(x: jax.Array) -> jax.Array:
    """Has each device hold its rows of activations, [B, ...], and hold them whole.

    Where a `vmap` is over the rows, as `row_axes` tells it, a single one is seen here.
    """
    if not is_fully_sharded():
        return x
    return jax.lax.with_sharding_constraint(x, BATCH_SPEC if len(x) > 1 else PartitionSpec())


def exchange_parts(x: jax.Array) -> jax.Array:
    """Has each device hold its rows of vectors from tables, [B, T, D], and hold them whole.

    Tables are split by their width, and are not sent: a device looks up its part of the width for
    all rows of its group, and the group exchanges the parts.
    """
    if is_fully_sharded() and len(x) > 1:
        x = jax.lax.with_sharding_constraint(x, PartitionSpec("data", None, _AXIS))
    return keep_rows(x)


def row_axes() -> tuple[str, ...] | None:
    """Returns the mesh axes that rows are split over, for the `spmd_axis_name` of a `vmap`."""
    return BATCH_SPEC[0] if is_fully_sharded() else None


def gather(params: Any, axes: Any, dtype: Any) -> Any:
    """Has each device hold parameters whole, except for what `tensor` splits.

    Their gradients are added up where the parameters are stored.

    Args:
      params: a tree of arrays.
      axes: the logical axes of each array, as a `PartitionSpec`.
      dtype: of products: kernels and tables are sent in it.
    """
    if not is_fully_sharded():
        return params

    def whole(leaf: jax.Array, stored: PartitionSpec) -> jax.Array:
        if _AXIS not in stored:
            return leaf
        return _gathered(leaf.astype(dtype) if leaf.ndim > 1 else leaf, stored)

    leaves, tree = jax.tree.flatten(params)
    specs = jax.tree.leaves(logical_to_mesh(axes, LOGICAL_AXIS_RULES))
    return tree.unflatten(map(whole, leaves, specs))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _gathered(leaf: jax.Array, stored: PartitionSpec) -> jax.Array:
    here = PartitionSpec(*(None if axis == _AXIS else axis for axis in stored))
    return jax.lax.with_sharding_constraint(leaf, here)


def _forward(leaf: jax.Array, stored: PartitionSpec) -> tuple[jax.Array, None]:
    return _gathered(leaf, stored), None


def _backward(stored: PartitionSpec, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    return (jax.lax.with_sharding_constraint(gradient, stored),)


_gathered.defvjp(_forward, _backward)


def gather_again(primitive: Any, *_: Any, call_jaxpr: Any = None, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: the backward pass gathers again, and computes nothing again.

    It keeps everything but what only lies or is shaped in another way than something else.
    """
    called = [each.primitive for each in call_jaxpr.eqns] if call_jaxpr else [primitive]
    return any(each.name not in _LAYOUT for each in called)
