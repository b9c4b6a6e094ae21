"""The parts that the encoder and the heads are made of.

Names of logical axes stand beside the parameters that have them; `distributed/sharding.py` says
what they mean on a mesh.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from bert_jax.config import Activation, EncoderConfig, MlpKind, NormKind, Remat
from bert_jax.model.dropout import dropout


def kernel_init(
    config: EncoderConfig, *axes: str, to_residual: bool = False
) -> nn.initializers.Initializer:
    """Returns the initializer of kernels and tables.

    Args:
      config: for the initial spread.
      axes: the logical axes.
      to_residual: True for a kernel whose output is added to the residual stream.
    """
    stddev = config.init_stddev
    if to_residual and config.depth_scaled_init:
        stddev /= (2 * config.layers) ** 0.5  # the sum of all then has the spread of one
    return nn.with_logical_partitioning(nn.initializers.truncated_normal(stddev), axes)


def sinusoids(length: int, width: int) -> jax.Array:
    """Returns the [length, width] float32 table of sines and cosines.

    Sines are in the first half of the width, cosines in the second (Vaswani et al., section 3.5).
    """
    frequencies = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2))
    angles = jnp.outer(jnp.arange(length), frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


def sinusoidal_init(config: EncoderConfig, *axes: str) -> nn.initializers.Initializer:
    """Returns the initializer of a table of `sinusoids`, with the spread of a kernel."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        return (config.init_stddev * 2**0.5 * sinusoids(*shape)).astype(dtype)

    return nn.with_logical_partitioning(init, axes)


def bias_init(*axes: str) -> nn.initializers.Initializer:
    """Returns the initializer of biases, zeros; `axes` are the logical axes."""
    return nn.with_logical_partitioning(nn.initializers.zeros_init(), axes)


def dense(
    config: EncoderConfig,
    features: int | tuple[int, ...],
    axes: tuple[str, ...],
    name: str,
    *,
    input_axes: int = 1,
    to_residual: bool = False,
    use_bias: bool = True,
) -> nn.DenseGeneral:
    """Returns an affine map of the last `input_axes` axes.

    Args:
      config: for the initial spread and the compute type.
      features: output sizes.
      axes: logical axes of the kernel: inputs, then outputs.
      name: of its parameters.
      input_axes: number of trailing axes that it contracts.
      to_residual: True if the output is added to the residual stream.
      use_bias: False: the map is linear.
    """
    return nn.DenseGeneral(
        features,
        axis=tuple(range(-input_axes, 0)),
        use_bias=use_bias,
        dtype=jnp.dtype(config.compute_type.value),
        kernel_init=kernel_init(config, *axes, to_residual=to_residual),
        bias_init=bias_init(*axes[input_axes:]),
        name=name,
    )


class ActivatedDense(nn.Module):
    """The activation, then an affine map to the residual stream.

    The backward pass computes the activation again: base in bfloat16, 256 rows of 512 tokens, holds
    7.9 GiB on each chip of v5e:4x4, 11.4 without.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, F] to [B, T, D]; gated pairs, [B, T, 2, F], too."""
        config, width = self.config, self.config.width
        kernel: jax.Array = self.param(
            "kernel", kernel_init(config, "mlp", "embed", to_residual=True), (x.shape[-1], width)
        )
        x, kernel = promote_dtype(x, kernel, dtype=config.compute_type.value)

        def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return activate(config, x) @ kernel

        # With `encoder.remat` the layer as a whole decides what is kept.
        out = (jax.checkpoint(product) if config.remat is Remat.NONE else product)(x, kernel)
        if not config.biases:
            return out
        bias: jax.Array = self.param("bias", bias_init("embed"), (width,))
        return out + jnp.expand_dims(bias.astype(out.dtype), range(out.ndim - 1))


def activate(config: EncoderConfig, x: jax.Array) -> jax.Array:
    """Applies the activation: [..., F] to [..., F]; of a gated pair, [..., 2, F] to [..., F].

    The first of a pair is activated, the second multiplies it (Shazeer, 2020, equation 6).
    """
    activation = ACTIVATIONS[config.activation]
    if config.mlp is MlpKind.PLAIN:
        return activation(x)
    return activation(x[..., 0, :]) * x[..., 1, :]


def layer_norm(config: EncoderConfig, name: str, axis: str = "embed") -> nn.Module:
    """Returns a normalisation of the last axis, of `config.norm_kind`; statistics are float32.

    Args:
      config: for the kind, epsilon and compute type.
      name: of its parameters.
      axis: logical name of the last axis.
    """
    common: dict[str, Any] = {
        "epsilon": config.norm_epsilon,
        "use_fast_variance": False,  # E[x^2] - E[x]^2 loses digits
        "dtype": jnp.dtype(config.compute_type.value),
        "scale_init": nn.with_logical_partitioning(nn.initializers.ones_init(), (axis,)),
        "name": name,
    }
    if config.norm_kind is NormKind.RMS_NORM:
        return nn.RMSNorm(**common)
    has_bias = config.norm_kind is NormKind.LAYER_NORM
    return nn.LayerNorm(use_bias=has_bias, bias_init=bias_init(axis), **common)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, by erf: cheaper than the erfc of `jax.nn.gelu`."""
    wide = x.astype(jnp.float32)  # in bfloat16 1 + erf would lose the tail
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The approximation of GELU by tanh."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


ACTIVATIONS = {
    Activation.GELU: gelu,
    Activation.GELU_TANH: gelu_tanh,
    Activation.RELU: jax.nn.relu,
    Activation.SILU: jax.nn.silu,
}


def resolved_mlm_activation(config: EncoderConfig) -> Activation:
    """Returns the name of the activation of the masked-LM transform."""
    own = config.mlm_activation
    return config.activation if own is Activation.OF_ENCODER else own


def head_activation(config: EncoderConfig) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation of the masked-LM transform."""
    return ACTIVATIONS[resolved_mlm_activation(config)]


class Dropout(nn.Module):
    """`dropout.dropout` with a key of the 'dropout' stream."""

    @nn.compact
    def __call__(self, x: jax.Array, rate: float, *, deterministic: bool) -> jax.Array:
        """Returns `x` itself where `deterministic`."""
        if deterministic or rate == 0:
            return x
        return dropout(x, rate, self.make_rng("dropout"))


def gather_positions(x: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Picks tokens: [B, T, ...] and [B, P] int32 in [0, T) to [B, P, ...]; None picks all."""
    if positions is None:
        return x
    return jnp.take_along_axis(x, jnp.expand_dims(positions, range(2, x.ndim)), axis=1)
