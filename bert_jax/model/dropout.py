"""Dropout in which each decision is a function of a key and of the element's index alone.

The bits are the same on any mesh and device, each device draws only those of its own elements, and
the backward pass keeps nothing but the key: it draws them again.
"""

import functools
import math

import jax
import jax.numpy as jnp

# The multipliers of a 32-bit mixer of low bias, found by search: Wellons, "Hash Prospector" (2018
# and on), github.com/skeeto/hash-prospector: bias 0.107.
_MULTIPLIERS = (0x21F0AAAD, 0xD35A2D97)
_GOLDEN = 0x9E3779B9  # 2^32 / phi: multiples of it are spread evenly


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Zeroes a share `rate` of the elements and scales the others by 1 / (1 - rate).

    Args:
      x: [B, ...] float; a row has at most 2^32 elements.
      rate: in [0, 1).
      key: a threefry key.
    """
    if rate == 0:
        return x
    return _dropped(x, jax.random.key_data(key), rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dropped(x: jax.Array, words: jax.Array, rate: float) -> jax.Array:
    keep, scale = dropout_mask(words, x.shape, rate)
    return jnp.where(keep, x * scale, 0)


def _forward(x: jax.Array, words: jax.Array, rate: float) -> tuple[jax.Array, jax.Array]:
    return _dropped(x, words, rate), words


def _backward(rate: float, words: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    return _dropped(gradient, words, rate), None


_dropped.defvjp(_forward, _backward)


def dropout_mask(
    key_data: jax.Array, shape: tuple[int, ...], rate: float
) -> tuple[jax.Array, float]:
    """Returns the mask of kept elements, `shape` bool, and the factor that they are multiplied by.

    Args:
      key_data: [2] uint32, of a threefry key.
      shape: of the elements; of the first axis, each row has at most 2^32.
      rate: in [0, 1).
    """
    threshold = min(round(rate * 2**32), 2**32 - 1)
    keep = hash_bits(key_data, shape) >= jnp.uint32(threshold)
    return keep, 1 / (1 - threshold / 2**32)


def hash_bits(key_data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns 32 pseudo-random bits for each element: a hash of the key and the element's index.

    Good enough for dropout; not for cryptography.

    Args:
      key_data: [2] uint32.
      shape: at least one axis; each row of the first has bits of its own.

    Returns:
      `shape` uint32.
    """
    row = jax.lax.broadcasted_iota(jnp.uint32, shape, 0)
    place = jnp.zeros(shape, jnp.uint32)
    for axis in range(1, len(shape)):
        stride = jnp.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        place += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
    word = _mixed(place + (key_data[0] ^ jnp.uint32(_GOLDEN)))
    return _mixed(word + (key_data[1] ^ (row * jnp.uint32(_GOLDEN))))


def _mixed(word: jax.Array) -> jax.Array:
    """A bijection of 32-bit words; each bit of the result depends on all of the argument."""
    first, second = map(jnp.uint32, _MULTIPLIERS)
    word = (word ^ (word >> 16)) * first
    word = (word ^ (word >> 15)) * second
    return word ^ (word >> 15)
