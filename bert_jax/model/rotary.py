"""Rotary positions: queries and keys are turned by angles that grow with their place.

Su et al., 2021, "RoFormer", section 3.2. A pair that is turned together is a channel of the first
half of a head and the channel as far into the second half, as in published models.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bert_jax.config import EncoderConfig, PositionEncoding


class Rotation(NamedTuple):
    """The rotation of each pair of channels of each token."""

    cos: jax.Array  # [B, T, K / 2] float32
    sin: jax.Array


def rotations_of(
    config: EncoderConfig, position_ids: jax.Array
) -> tuple[Rotation | None, Rotation | None]:
    """Returns the rotations of global layers, then of windowed ones; None: they have none.

    Args:
      config: of the encoder.
      position_ids: [B, T] int32, counted from the start of each example.
    """
    if config.position_encoding is not PositionEncoding.ROTARY:
        return None, None
    found = _rotation(config, config.rope_theta, position_ids)
    if not config.rope_theta_local:
        return found, found
    return found, _rotation(config, config.rope_theta_local, position_ids)


def _rotation(config: EncoderConfig, theta: float, position_ids: jax.Array) -> Rotation:
    width = config.width // config.heads
    frequencies = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)  # [K / 2]
    # A table, as the compiler would repeat sines and cosines wherever a layer uses them.
    angles = jnp.outer(jnp.arange(config.max_length, dtype=jnp.float32), frequencies)
    cos, sin = (
        jnp.take(table, position_ids, axis=0) for table in (jnp.cos(angles), jnp.sin(angles))
    )
    return Rotation(cos, sin)


def rotate(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Turns [B, T, H, K] by [B, T, K / 2], in float32."""
    cos, sin = (each[:, :, None, :] for each in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
