"""Numbers for the bits of arrays and of JSON: how a checkpoint knows that it is what was saved."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp


def leaf_name(path: tuple) -> str:
    """Joins a path of a tree: 'encoder/embeddings/tokens'."""
    return "/".join(
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    )


def fingerprints(tree: Any) -> dict[str, int]:
    """Returns the fingerprint of each array of a tree by its name, the same on every mesh.

    It is the sum, modulo 2^32, of each element's bits times an odd number that depends on its
    place: any one flipped bit changes it, and a swap of two elements does too.
    """
    # One after another: each needs as much scratch memory as it is large.
    sums = [jax.device_get(_fingerprint(leaf)) for leaf in jax.tree.leaves(tree)]
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): int(value) for (path, _), value in zip(paths, sums, strict=True)}


@jax.jit
def _fingerprint(leaf: jax.Array) -> jax.Array:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        place = place * jnp.uint32(size % 2**32) + along
    scattered = (place ^ (place >> 15)) * jnp.uint32(0x2C1B3C6D)
    return jnp.sum(bits * (scattered | jnp.uint32(1)), dtype=jnp.uint32)


def json_digest(value: Any) -> str:
    """Returns a digest of what JSON can hold; the order of keys does not matter."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
