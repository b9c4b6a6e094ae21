"""Fingerprints of arrays and digests of JSON, with which a checkpoint is verified."""

import functools
import hashlib
import json
import os
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_MIXER = 0x2C1B3C6D
_CHUNK = 1 << 18  # elements, which stay in the cache of a core; a power of 2, above 2^15


def leaf_name(path: tuple) -> str:
    """Joins the keys of a path in a tree: 'encoder/embeddings/tokens'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fingerprints(tree: Any) -> dict[str, int]:
    """Returns the fingerprint of each array of a tree, by name; every mesh gives the same.

    It is the sum over the elements, modulo 2^32, of the element's bits times an odd number derived
    from its position. One flipped bit changes it, and so do two elements swapped, unless they
    differ in their first bit alone: of the signs of float32 it tells only whether an even number
    changed.
    """
    # One array at a time, for each needs as much scratch memory as it has bytes.
    return {
        leaf_name(path): _of_host(np.asarray(leaf)) if _in_memory(leaf) else int(_of_device(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _in_memory(leaf: Any) -> bool:
    """Returns True if all of an array is in this process's memory, so that NumPy can look at it."""
    if not isinstance(leaf, jax.Array):
        return True
    whole = leaf.is_fully_addressable and leaf.is_fully_replicated
    return whole and all(device.platform == "cpu" for device in leaf.devices())


def _of_host(leaf: np.ndarray) -> int:
    """Computes the fingerprint without compiling anything, on all cores."""
    bits = np.ascontiguousarray(leaf).reshape(-1).view(f"u{leaf.dtype.itemsize}")
    begins = range(0, len(bits), _CHUNK)
    if len(begins) < 2:
        return _of_chunk(bits, 0)
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy's loops run side by side
        parts = pool.map(lambda begin: _of_chunk(bits[begin : begin + _CHUNK], begin), begins)
        return sum(parts) % 2**32


def _of_chunk(bits: np.ndarray, begin: int) -> int:
    # The position is begin ^ i, since `begin` is a multiple of the chunk, and shifts likewise.
    begin %= 2**32
    factor = _scattered()[: len(bits)] ^ np.uint32(begin ^ (begin >> 15))
    factor *= np.uint32(_MIXER)
    factor |= np.uint32(1)
    factor *= bits.astype(np.uint32, copy=False)
    return int(np.sum(factor, dtype=np.uint32))


@functools.cache
def _scattered() -> np.ndarray:
    """Returns i ^ (i >> 15) of the places in a chunk, [_CHUNK] uint32."""
    place = np.arange(_CHUNK, dtype=np.uint32)
    return place ^ (place >> 15)


@jax.jit
def _of_device(leaf: jax.Array) -> jax.Array:
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
    position = jnp.zeros(leaf.shape, jnp.uint32)
    for axis, size in enumerate(leaf.shape):
        along = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        position = position * jnp.uint32(size % 2**32) + along
    scattered = (position ^ (position >> 15)) * jnp.uint32(_MIXER)
    return jnp.sum(bits * (scattered | jnp.uint32(1)), dtype=jnp.uint32)


def json_digest(value: Any) -> str:
    """Returns a digest of a JSON-ready value; the order of keys does not matter."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
