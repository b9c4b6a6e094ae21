"""The encoder: embeddings, a scanned stack of blocks, and the pooler (BERT, section 3).

Everything here is a pure function of parameters and a batch. Names of logical axes stand beside the
parameters that have them; `sharding.py` says what they mean on a mesh.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bert_jax.config import Activation, EncoderConfig, Norm, PositionInit, Remat
from bert_jax.model.attention import AttentionFn, attention
from bert_jax.model.dropout import dropout

# A product with parameters that rematerialisation does not know for one: it has its own gradient.
_PRODUCT = "product"

Batch = dict[str, jax.Array]  # the fields of docs/architecture.md, "The batch"


def _kernel_init(config: EncoderConfig, *axes: str) -> nn.initializers.Initializer:
    init = nn.initializers.truncated_normal(config.init_stddev)
    return nn.with_logical_partitioning(init, axes)


def _position_init(config: EncoderConfig) -> nn.initializers.Initializer:
    if config.position_init is PositionInit.NORMAL:
        return _kernel_init(config, "positions", "embed")

    def init(key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> jax.Array:
        """Sines in the first half of the width, cosines in the second; the spread of a kernel."""
        del key
        length, width = shape
        frequencies = 10_000.0 ** (-jnp.arange(width // 2) / (width // 2))
        angles = jnp.outer(jnp.arange(length), frequencies)
        table = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
        return (config.init_stddev * 2**0.5 * table).astype(dtype)

    return nn.with_logical_partitioning(init, ("positions", "embed"))


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
    activation: Callable[..., jax.Array] | None = None,
) -> nn.DenseGeneral:
    """Returns an affine map of the last `input_axes` axes.

    Args:
      config: for the initial spread and the compute type.
      features: output sizes.
      axes: logical axes of the kernel: inputs, then outputs.
      name: of its parameters.
      input_axes: how many trailing axes it contracts.
      activation: of `ACTIVATIONS`, applied to the input; it is not kept for the backward pass.
    """
    return nn.DenseGeneral(
        features,
        axis=tuple(range(-input_axes, 0)),
        dtype=jnp.dtype(config.compute_type.value),
        kernel_init=_kernel_init(config, *axes),
        bias_init=bias_init(*axes[input_axes:]),
        dot_general=functools.partial(_activated_product, activation)
        if activation
        else _flat_product,
        name=name,
    )


def _flat_product(x: jax.Array, kernel: jax.Array, axes: Any, precision: Any = None) -> jax.Array:
    """Multiplies as matrices: gradients of kernels with more axes are transposed apart."""
    (contracted, _), _ = axes
    inputs, outputs = kernel.shape[: len(contracted)], kernel.shape[len(contracted) :]
    rows = x.reshape(*x.shape[: -len(contracted)], math.prod(inputs))
    product = jnp.dot(rows, kernel.reshape(math.prod(inputs), -1), precision=precision)
    return product.reshape(*rows.shape[:-1], *outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def _activated_product(
    activation: Callable[..., jax.Array],
    x: jax.Array,
    kernel: jax.Array,
    axes: Any,
    precision: Any = None,
) -> jax.Array:
    """Multiplies activation(x) by the kernel, and keeps `x` alone for the backward pass."""
    return _flat_product(activation(x), kernel, axes, precision)


def _activated_forward(
    activation: Any, x: jax.Array, kernel: jax.Array, *rest: Any
) -> tuple[jax.Array, Any]:
    return _activated_product(activation, x, kernel, *rest), (x, kernel)


def _activated_backward(
    activation: Any, axes: Any, precision: Any, kept: Any, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _flat_product(activation(x, again=True), kernel, axes, precision)

    return jax.vjp(product, x, kernel)[1](gradient)


_activated_product.defvjp(_activated_forward, _activated_backward)


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


def gelu(x: jax.Array, *, again: bool = False) -> jax.Array:
    """The exact GELU; written with erf, which costs less than the erfc of `jax.nn.gelu`.

    Where it is computed `again` for the backward pass, erf(-x) = -erf(x) gives the same bits, and
    keeps the compiler from finding the first result, and keeping it until then.
    """
    wide = x.astype(jnp.float32)  # in bfloat16 1 + erf would lose the tail
    sign = -1 if again else 1
    return (0.5 * wide * (1 + sign * jax.lax.erf(wide * (sign * 0.5**0.5)))).astype(x.dtype)


def gelu_tanh(x: jax.Array, *, again: bool = False) -> jax.Array:
    """The approximation of GELU by tanh; `again` as in `gelu`."""
    wide, sign = x.astype(jnp.float32), -1 if again else 1
    inner = sign * (2 / jnp.pi) ** 0.5 * (wide + 0.044715 * wide**3)
    return (0.5 * wide * (1 + sign * jnp.tanh(inner))).astype(x.dtype)


def relu(x: jax.Array, *, again: bool = False) -> jax.Array:
    """The larger of x and 0; cheap enough that the compiler never keeps it."""
    del again
    return jax.nn.relu(x)


ACTIVATIONS = {Activation.GELU: gelu, Activation.GELU_TANH: gelu_tanh, Activation.RELU: relu}


class Dropout(nn.Module):
    """`dropout.dropout` with a key of the 'dropout' stream."""

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
            "positions", _position_init(config), (config.max_length, config.width)
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
    attend: AttentionFn = attention

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        example_ids: jax.Array,
        positions: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [B, T, D] to [B, P, D]: what the tokens at `positions` read from all they see."""
        config = self.config
        split = functools.partial(
            dense, config, (config.heads, config.width // config.heads), ("embed", "heads", "kv")
        )
        places = None
        if config.causal:
            every = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
            places = every if positions is None else positions
        drops = not deterministic and config.attention_dropout_rate > 0
        x = self.attend(
            split("query")(gather_positions(x, positions)),
            split("key")(x),
            split("value")(x),
            gather_positions(example_ids, positions),
            example_ids,
            places,
            dropout_rate=config.attention_dropout_rate,
            dropout_key=self.make_rng("dropout") if drops else None,
        )
        return dense(config, config.width, ("heads", "kv", "embed"), "out", input_axes=2)(x)


class FeedForward(nn.Module):
    """Two affine maps with the activation between them."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        config = self.config
        x = dense(config, config.mlp_width, ("embed", "mlp"), "up")(x)
        activation = ACTIVATIONS[config.activation]
        x = dense(config, config.width, ("mlp", "embed"), "down", activation=activation)(x)
        return checkpoint_name(x, _PRODUCT)


class EncoderBlock(nn.Module):
    """One transformer layer: self-attention, then feed-forward, each in a residual sublayer.

    Post-norm (BERT): x <- norm(x + dropout(f(x))). Pre-norm: x <- x + dropout(f(norm(x))).
    Both orders have the same parameters.
    """

    config: EncoderConfig
    attend: AttentionFn = attention

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        example_ids: jax.Array,
        positions: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [B, T, D] to [B, P, D].

        Args:
          x: the vectors of all tokens.
          example_ids: [B, T] int32.
          positions: [B, P] int32, the tokens to compute; None: all, P = T.
          deterministic: False draws dropout from the 'dropout' stream.
        """
        config = self.config
        attend = functools.partial(
            SelfAttention(config, self.attend, name="attention"),
            example_ids=example_ids,
            positions=positions,
            deterministic=deterministic,
        )
        feed_forward = FeedForward(config, name="mlp")
        attention_norm, mlp_norm = (layer_norm(config, f"{f}_norm") for f in ("attention", "mlp"))
        drop = functools.partial(Dropout(config.dropout_rate), deterministic=deterministic)

        if config.norm is Norm.PRE:
            x = gather_positions(x, positions) + drop(attend(attention_norm(x)))
            return x + drop(feed_forward(mlp_norm(x)))
        x = attention_norm(gather_positions(x, positions) + drop(attend(x)))
        return mlp_norm(x + drop(feed_forward(x)))


class Encoder(nn.Module):
    """Token ids in, one vector per token out.

    The parameters of all layers are stacked on a leading axis, and the layers run in a scan. The
    last one stands apart from it: where only some tokens are read, it computes no others.
    """

    config: EncoderConfig
    attend: AttentionFn = attention

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.layers = self.param("layers", self._init_layers)
        if self.config.norm is Norm.PRE:
            self.final_norm = layer_norm(self.config, "final_norm")

    def _init_layers(self, key: jax.Array) -> Any:
        block = EncoderBlock(self.config, parent=None)
        x, example_ids = jnp.zeros((1, 1, self.config.width)), jnp.zeros((1, 1), jnp.int32)

        def init(key: jax.Array) -> Any:
            return block.init(key, x, example_ids, deterministic=True)["params"]

        layers = jax.vmap(init)(jax.random.split(key, self.config.layers))
        return nn.meta.add_axis(layers, 0, {nn.PARTITION_NAME: "layers"})

    def __call__(
        self,
        batch: Batch,
        positions: jax.Array | None = None,
        *,
        deterministic: bool,
        layers: int = 1,
    ) -> jax.Array:
        """Encodes the rows; examples in one row do not see each other.

        With `config.causal` a token sees those of its example that are not after it in the row.

        Args:
          batch: `token_ids`, `example_ids`, `segment_ids`, `positions`, each [B, T] int32.
          positions: [B, P] int32 in [0, T), the tokens whose vectors are wanted; None: all, P = T.
          deterministic: False draws dropout from the 'dropout' stream.
          layers: G in [1, L], whose vectors are wanted: the last ones, from below to above.

        Returns:
          [B, P, G D] of the compute type.
        """
        block = EncoderBlock(self.config, self.attend, parent=None)

        def run(x: jax.Array, layer: tuple[Any, Any], positions: jax.Array | None = None) -> Any:
            params, dropout_key = layer
            if self.config.unroll > 1:
                x, params = _in_turn(x, params)
            return block.apply(
                {"params": params},
                x,
                batch["example_ids"],
                positions,
                deterministic=deterministic,
                rngs=None if deterministic else {"dropout": dropout_key},
            )

        keys = None
        if not deterministic:
            keys = jax.random.split(self.make_rng("dropout"), self.config.layers)
        run = _rematerialised(run, self.config)
        below, last = _split_last((self.layers, keys))
        x = self.embeddings(batch, deterministic=deterministic)

        def step(x: jax.Array, layer: tuple[Any, Any]) -> tuple[jax.Array, jax.Array | None]:
            x = run(x, layer)
            return x, gather_positions(x, positions) if layers > 1 else None

        kept: Any  # [L - 1, B, P, D]
        x, kept = jax.lax.scan(step, x, below, unroll=self.config.unroll)
        wanted = [run(x, last, positions)]
        if layers > 1:
            wanted = [*kept[1 - layers :], *wanted]
        if self.config.norm is Norm.PRE:
            wanted = [self.final_norm(x) for x in wanted]
        return wanted[0] if layers == 1 else jnp.concatenate(wanted, axis=-1)


@jax.custom_vjp
def _in_turn(x: jax.Array, params: Any) -> tuple[jax.Array, Any]:
    """Returns both; backward, the gradient of a layer's input waits for those of its parameters.

    Where the scan is unrolled nothing else puts them before the layers below, and XLA on a CPU,
    which ignores barriers, left them to the end with all that they are computed from. Elsewhere the
    compiler knows better, and to wait would be to wait for other devices.
    """
    return x, params


def _in_turn_backward(_: None, gradients: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
    of_x, of_params = gradients

    def wait() -> jax.Array:
        # To wait is to look at a number of each; where it is NaN the step is skipped anyhow.
        looked_at = jnp.stack([leaf.ravel()[0] for leaf in jax.tree.leaves(of_params)])
        return jnp.where(jnp.isnan(looked_at).any(), 0, of_x)

    return jax.lax.platform_dependent(cpu=wait, default=lambda: of_x), of_params


_in_turn.defvjp(lambda x, params: ((x, params), None), _in_turn_backward)


def _rematerialised(run: Callable[..., Any], config: EncoderConfig) -> Callable[..., Any]:
    """Wraps a layer so that the backward pass computes again what is not kept."""
    if config.remat is Remat.NONE:
        return run
    # Where the scan is unrolled, the compiler would join the two computations, and keep all.
    checkpoint = functools.partial(jax.checkpoint, prevent_cse=config.unroll > 1)
    if config.remat is Remat.INPUTS:
        return checkpoint(run)
    policies = jax.checkpoint_policies
    by_name = policies.save_only_these_names(_PRODUCT)
    by_kind = policies.dots_with_no_batch_dims_saveable
    return checkpoint(run, policy=policies.save_from_both_policies(by_kind, by_name))


def _split_last(stack: Any) -> tuple[Any, Any]:
    """Splits stacked arrays into all layers but the last, and the last without its axis."""
    leaves, tree = jax.tree.flatten(stack)
    # `split`, not two slices: its gradient is one concatenation rather than a sum of two arrays
    # of the whole stack's size.
    parts = [jax.lax.split(leaf, (leaf.shape[0] - 1, 1)) for leaf in leaves]
    below, last = (tree.unflatten([part[i] for part in parts]) for i in range(2))
    return below, jax.tree.map(lambda leaf: leaf.squeeze(0), last)


class Pooler(nn.Module):
    """The vector of a whole example: an affine map and tanh of what stands for it."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        return jnp.tanh(dense(self.config, self.config.width, ("embed", "pooled"), "dense")(x))


def gather_positions(x: jax.Array, positions: jax.Array | None) -> jax.Array:
    """Picks tokens: [B, T, ...] and [B, P] int32 in [0, T) to [B, P, ...]; None picks all."""
    if positions is None:
        return x
    return jnp.take_along_axis(x, jnp.expand_dims(positions, range(2, x.ndim)), axis=1)
