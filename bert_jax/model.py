"""The encoder: embeddings, a scanned stack of blocks, and the pooler (BERT, section 3).

Everything here is a pure function of parameters and a batch. Names of logical axes stand beside the
parameters that have them; `sharding.py` says what they mean on a mesh.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.attention import attention, dropout
from bert_jax.config import EncoderConfig, Norm

Batch = dict[str, jax.Array]  # the fields of docs/architecture.md, "The batch"


def _kernel_init(config: EncoderConfig, *axes: str) -> nn.initializers.Initializer:
    init = nn.initializers.truncated_normal(config.init_stddev)
    return nn.with_logical_partitioning(init, axes)


def bias_init(*axes: str) -> nn.initializers.Initializer:
    """Starts at 0; `axes` are the logical axes."""
    return nn.with_logical_partitioning(nn.initializers.zeros_init(), axes)


def dense(
    config: EncoderConfig,
    features: int | tuple[int, ...],
    axes: tuple[str, ...],
    name: str,
    *,
    input_axes: int = 1,
) -> nn.DenseGeneral:
    """Returns an affine map of the last `input_axes` axes.

    Args:
      config: for the initial spread and the compute type.
      features: output sizes.
      axes: logical axes of the kernel: inputs, then outputs.
      name: of its parameters.
      input_axes: how many trailing axes it contracts.
    """
    return nn.DenseGeneral(
        features,
        axis=tuple(range(-input_axes, 0)),
        dtype=jnp.dtype(config.compute_type.value),
        kernel_init=_kernel_init(config, *axes),
        bias_init=bias_init(*axes[input_axes:]),
        name=name,
    )


def layer_norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
    """Returns a layer normalisation of the last axis; its statistics are float32."""
    return nn.LayerNorm(
        epsilon=config.norm_epsilon,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits
        dtype=jnp.dtype(config.compute_type.value),
        scale_init=nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",)),
        bias_init=bias_init("embed"),
        name=name,
    )


class Dropout(nn.Module):
    """`attention.dropout` with a key of the 'dropout' stream."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns `x` itself where `deterministic`."""
        if deterministic or self.rate == 0:
            return x
        return dropout(x, self.rate, self.make_rng("dropout"))


class Embeddings(nn.Module):
    """The sum of three embeddings, normalised (BERT, figure 2)."""

    config: EncoderConfig

    def setup(self) -> None:
        config = self.config
        init = functools.partial(_kernel_init, config)
        self.tokens = self.param(
            "tokens", init("vocab", "embed"), (config.vocab_size, config.width)
        )
        self.positions = self.param(
            "positions", init("positions", "embed"), (config.max_length, config.width)
        )
        self.segments = self.param(
            "segments", init("segments", "embed"), (config.segments, config.width)
        )
        self.norm = layer_norm(config, "norm")
        self.drop = Dropout(config.dropout_rate)

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns [B, T, D]."""
        x = (
            jnp.take(self.tokens, batch["token_ids"], axis=0)
            + jnp.take(self.segments, batch["segment_ids"], axis=0)
            + jnp.take(self.positions, batch["positions"], axis=0)
        )
        return self.drop(self.norm(x), deterministic=deterministic)


class SelfAttention(nn.Module):
    """Multi-head self-attention; query, key and value are stored apart."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, example_ids: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        config = self.config
        heads = (config.heads, config.width // config.heads)
        query, key, value = (
            dense(config, heads, ("embed", "heads", "kv"), name)(x)
            for name in ("query", "key", "value")
        )
        drops = not deterministic and config.attention_dropout_rate > 0
        x = attention(
            query,
            key,
            value,
            example_ids,
            dropout_rate=config.attention_dropout_rate,
            dropout_key=self.make_rng("dropout") if drops else None,
        )
        return dense(config, config.width, ("heads", "kv", "embed"), "out", input_axes=2)(x)


class FeedForward(nn.Module):
    """Two affine maps with the exact GELU between them."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        x = dense(self.config, self.config.mlp_width, ("embed", "mlp"), "up")(x)
        x = nn.gelu(x, approximate=False)
        return dense(self.config, self.config.width, ("mlp", "embed"), "down")(x)


class EncoderBlock(nn.Module):
    """One transformer layer: self-attention, then feed-forward, each in a residual sublayer.

    Post-norm (BERT): x <- norm(x + dropout(f(x))). Pre-norm: x <- x + dropout(f(norm(x))).
    Both orders have the same parameters.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, example_ids: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        config = self.config

        def sublayer(x, name, f):
            norm = layer_norm(config, f"{name}_norm")
            drop = functools.partial(Dropout(config.dropout_rate), deterministic=deterministic)
            if config.norm is Norm.PRE:
                return x + drop(f(norm(x)))
            return norm(x + drop(f(x)))

        attend = functools.partial(
            SelfAttention(config, name="attention"),
            example_ids=example_ids,
            deterministic=deterministic,
        )
        x = sublayer(x, "attention", attend)
        return sublayer(x, "mlp", FeedForward(config, name="mlp"))


class Encoder(nn.Module):
    """Token ids in, one vector per token out."""

    config: EncoderConfig

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.layers = EncoderBlock(self.config)
        if self.config.norm is Norm.PRE:
            self.final_norm = layer_norm(self.config, "final_norm")

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Encodes the rows; examples in one row do not see each other.

        Args:
          batch: `token_ids`, `example_ids`, `segment_ids`, `positions`, each [B, T] int32.
          deterministic: False draws dropout from the 'dropout' stream.

        Returns:
          [B, T, D] of the compute type.
        """

        def body(block: EncoderBlock, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, batch["example_ids"], deterministic=deterministic), None

        stack = nn.scan(
            body,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.config.layers,
            unroll=self.config.unroll,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = stack(self.layers, self.embeddings(batch, deterministic=deterministic), None)
        return self.final_norm(x) if self.config.norm is Norm.PRE else x


class Pooler(nn.Module):
    """The vector of a whole example: an affine map and tanh over its pooled position."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, pool_positions: jax.Array) -> jax.Array:
        """Maps [B, T, D] and [B, N] int32 to [B, N, D]."""
        pooled = gather_positions(x, pool_positions)
        return jnp.tanh(dense(self.config, self.config.width, ("embed", "pooled"), "dense")(pooled))


def gather_positions(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Picks tokens: [B, T, D] and [B, M] int32 in [0, T) to [B, M, D]."""
    return jnp.take_along_axis(x, positions[:, :, None], axis=1)
