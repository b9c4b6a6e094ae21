"""The encoder: embeddings, a stack of layers, and the pooler (BERT, section 3).

Everything here is a pure function of parameters and a batch. Shapes: B rows of T tokens, D wide,
P of the tokens read at the end; H heads of K (docs/architecture.md, "The batch").
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.config import EncoderConfig, Norm, PositionInit
from bert_jax.model.attention import AttentionFn, attention
from bert_jax.model.layers import (
    ACTIVATIONS,
    Dropout,
    dense,
    gather_positions,
    kernel_init,
    layer_norm,
    sinusoidal_init,
)
from bert_jax.model.stack import LAYERS, init_stack, run_stack

Batch = dict[str, jax.Array]  # the fields of docs/architecture.md, "The batch"


class Embeddings(nn.Module):
    """The sum of three embeddings, normalised (BERT, figure 2)."""

    config: EncoderConfig

    def setup(self) -> None:
        config, width = self.config, self.config.width
        is_normal = config.position_init is PositionInit.NORMAL
        position_init = kernel_init if is_normal else sinusoidal_init
        self.tokens = self.param(
            "tokens", kernel_init(config, "vocab", "embed"), (config.vocab_size, width)
        )
        self.positions = self.param(
            "positions", position_init(config, "positions", "embed"), (config.max_length, width)
        )
        self.segments = self.param(
            "segments", kernel_init(config, "segments", "embed"), (config.segments, width)
        )
        self.norm = layer_norm(config, "norm")
        self.drop = Dropout(config.dropout_rate)

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns [B, T, D]."""
        # A model with one segment was trained with 0 for both texts.
        segment_ids = jnp.minimum(batch["segment_ids"], self.config.segments - 1)
        x = (
            jnp.take(self.tokens, batch["token_ids"], axis=0)
            + jnp.take(self.segments, segment_ids, axis=0)
            + jnp.take(self.positions, batch["position_ids"], axis=0)
        )
        return self.drop(self.norm(x), deterministic=deterministic)


class SelfAttention(nn.Module):
    """Multi-head self-attention inside examples."""

    config: EncoderConfig
    attend: AttentionFn = attention

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        example_ids: jax.Array,
        output_positions: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [B, T, D] to [B, P, D]: what the output tokens read from all that they see."""
        config = self.config
        project = functools.partial(
            dense, config, (config.heads, config.width // config.heads), ("embed", "heads", "kv")
        )
        query_index = None  # [1 or B, P], position of each query, the last one that it sees
        if config.causal:
            every_index = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
            query_index = every_index if output_positions is None else output_positions
        drops = not deterministic and config.attention_dropout_rate > 0
        x = self.attend(
            project("query")(gather_positions(x, output_positions)),
            project("key")(x),
            project("value")(x),
            gather_positions(example_ids, output_positions),
            example_ids,
            query_index,
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
        activation = ACTIVATIONS[config.activation]
        x = dense(config, config.mlp_width, ("embed", "mlp"), "up")(x)
        return dense(config, config.width, ("mlp", "embed"), "down", input_activation=activation)(x)


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
        output_positions: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [B, T, D] to [B, P, D].

        Args:
          x: the vectors of all tokens.
          example_ids: [B, T] int32.
          output_positions: [B, P] int32 in [0, T), the tokens to compute; None: all, P = T.
          deterministic: False draws dropout from the 'dropout' stream.
        """
        config = self.config
        attend = functools.partial(
            SelfAttention(config, self.attend, name="attention"),
            example_ids=example_ids,
            output_positions=output_positions,
            deterministic=deterministic,
        )
        feed_forward = FeedForward(config, name="mlp")
        attention_norm, mlp_norm = (layer_norm(config, f"{f}_norm") for f in ("attention", "mlp"))
        drop = functools.partial(Dropout(config.dropout_rate), deterministic=deterministic)

        if config.norm is Norm.PRE:
            x = gather_positions(x, output_positions) + drop(attend(attention_norm(x)))
            return x + drop(feed_forward(mlp_norm(x)))
        x = attention_norm(gather_positions(x, output_positions) + drop(attend(x)))
        return mlp_norm(x + drop(feed_forward(x)))


class Encoder(nn.Module):
    """Token ids in, one vector per token out; the parameters of all layers are stacked."""

    config: EncoderConfig
    attend: AttentionFn = attention

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.layers = self.param(LAYERS, self._init_layers)
        if self.config.norm is Norm.PRE:
            self.final_norm = layer_norm(self.config, "final_norm")

    def _init_layers(self, key: jax.Array) -> Any:
        block = EncoderBlock(self.config, parent=None)
        x, example_ids = jnp.zeros((1, 1, self.config.width)), jnp.zeros((1, 1), jnp.int32)

        def init_layer(key: jax.Array) -> Any:
            return block.init(key, x, example_ids, deterministic=True)["params"]

        return init_stack(init_layer, key, self.config.layers)

    def __call__(
        self,
        batch: Batch,
        output_positions: jax.Array | None = None,
        *,
        deterministic: bool,
        layers: int = 1,
    ) -> jax.Array:
        """Encodes the rows; examples in one row do not see each other.

        With `config.causal` a token sees those of its example that are not after it in the row.

        Args:
          batch: `token_ids`, `example_ids`, `segment_ids`, `position_ids`, each [B, T] int32.
          output_positions: [B, P] int32 in [0, T), the tokens whose vectors are wanted; None: all,
            P = T.
          deterministic: False draws dropout from the 'dropout' stream.
          layers: G in [1, L], the number of top layers whose vectors are wanted.

        Returns:
          [B, P, G D] of the compute type, the lowest of the G layers first.
        """
        block = EncoderBlock(self.config, self.attend, parent=None)
        dropout_keys = None  # [L]
        if not deterministic:
            dropout_keys = jax.random.split(self.make_rng("dropout"), self.config.layers)

        def apply_layer(
            x: jax.Array, layer: tuple[Any, Any], output_positions: jax.Array | None = None
        ) -> Any:
            params, dropout_key = layer
            return block.apply(
                {"params": params},
                x,
                batch["example_ids"],
                output_positions,
                deterministic=deterministic,
                rngs=None if deterministic else {"dropout": dropout_key},
            )

        x = self.embeddings(batch, deterministic=deterministic)
        stack = (self.layers, dropout_keys)
        wanted = run_stack(apply_layer, x, stack, self.config, output_positions, layers)
        if self.config.norm is Norm.PRE:
            wanted = [self.final_norm(x) for x in wanted]
        return wanted[0] if layers == 1 else jnp.concatenate(wanted, axis=-1)


class Pooler(nn.Module):
    """The vector of a whole example: an affine map and tanh of its [CLS] (or last) token's."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        return jnp.tanh(dense(self.config, self.config.width, ("embed", "pooled"), "dense")(x))
