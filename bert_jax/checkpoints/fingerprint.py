"""Fingerprints of arrays and digests of JSON, with which a checkpoint is verified."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp


def leaf_name(path: tuple) -> str:
    """Joins the keys of a path in a tree: 'encoder/embeddings/tokens'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fingerprints(tree: Any) -> dict[str, int]:
    """Returns the fingerprint of each array of a tree, by name; every mesh gives the same.

    It is the sum over the elements, modulo 2^32, of the element's bits times an odd number derived
    from its position: one flipped bit, or two elements swapped, change it.
    """
    # One array at a time, for each needs as much scratch memory as it has bytes.
    sums = [jax.device_get(_fingerprint(leaf)) for leaf in jax.tree.leaves(tree)]
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): int(value) for (path, _), value in zip(paths, sums, strict=True)}


@jax.jit
def _fingerprint(leaf: jax.Array) -> jax.Array:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        position = position * jnp.uint32(size % 2**32) + along
    scattered = (position ^ (position >> 15)) * jnp.uint32(0x2C1B3C6D)
    return jnp.sum(bits * (scattered | jnp.uint32(1)), dtype=jnp.uint32)


def json_digest(value: Any) -> str:
    """Returns a digest of a JSON-ready value; the order of keys does not matter."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
