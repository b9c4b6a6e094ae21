"""The encoder: embeddings, a stack of layers, and the pooler (BERT, section 3).

Everything here is a pure function of parameters and a batch. Shapes: B rows of T tokens, D wide,
P of the tokens read at the end; H heads of K (docs/architecture.md, "The batch").
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.config import (
    Activation,
    EncoderConfig,
    MlpKind,
    Norm,
    PoolerKind,
    PositionEncoding,
    PositionInit,
)
from bert_jax.distributed.gathering import exchange_parts, gather, is_fully_sharded, keep_rows
from bert_jax.model.attention import AttentionFn, Tokens, attention, tokens_of
from bert_jax.model.layers import (
    ACTIVATIONS,
    ActivatedDense,
    Dropout,
    dense,
    gather_positions,
    head_activation,
    kernel_init,
    layer_norm,
    sinusoidal_init,
    sinusoids,
)
from bert_jax.model.rotary import Rotation, rotate, rotations_of
from bert_jax.model.stack import (
    LAYERS,
    ApplyLayer,
    LayerKind,
    cut_stack,
    init_stack,
    layer_kinds,
    run_stack,
    unstack,
)
from bert_jax.model.windowed_attention import windowed_attention

Batch = dict[str, jax.Array]  # the fields of docs/architecture.md, "The batch"


class Embeddings(nn.Module):
    """The sum of the embeddings of token, segment and place, normalised (BERT, figure 2)."""

    config: EncoderConfig

    def setup(self) -> None:
        config = self.config
        width = config.embedding_width or config.width
        self.tokens = self.param(
            "tokens", kernel_init(config, "vocab", "embed"), (config.vocab_size, width)
        )
        if config.position_encoding is PositionEncoding.LEARNED:
            is_normal = config.position_init is PositionInit.NORMAL
            position_init = kernel_init if is_normal else sinusoidal_init
            self.positions = self.param(
                "positions", position_init(config, "positions", "embed"), (config.max_length, width)
            )
        if config.segments:
            self.segments = self.param(
                "segments", kernel_init(config, "segments", "embed"), (config.segments, width)
            )
        if config.embedding_norm:
            self.norm = layer_norm(config, "norm")
        self.drop = Dropout()
        if width != config.width:
            self.projection = dense(
                config, config.width, ("factor", "embed"), "projection", use_bias=config.biases
            )

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns [B, T, D]."""
        config = self.config
        x = jnp.take(self.tokens, batch["token_ids"], axis=0)
        if config.segments:
            # A model with one segment was trained with 0 for both texts.
            segment_ids = jnp.minimum(batch["segment_ids"], config.segments - 1)
            x = x + jnp.take(self.segments, segment_ids, axis=0)
        if config.position_encoding is PositionEncoding.LEARNED:
            x = x + jnp.take(self.positions, batch["position_ids"], axis=0)
        elif config.position_encoding is PositionEncoding.SINUSOIDAL:
            # With the spread of the other embeddings, as a learned table begins.
            table = config.init_stddev * 2**0.5 * sinusoids(config.max_length, x.shape[-1])
            x = x + jnp.take(table, batch["position_ids"], axis=0)
        x = exchange_parts(x)
        x = self.norm(x) if config.embedding_norm else x
        x = self.drop(x, config.dropout_rate, deterministic=deterministic)
        x = x if x.shape[-1] == config.width else self.projection(x)
        return keep_rows(x.astype(config.compute_type.value))


class SelfAttention(nn.Module):
    """Multi-head self-attention inside examples, of all their tokens or of a window."""

    config: EncoderConfig
    window: int = 0  # tokens to each side that are seen; 0: all
    attend: AttentionFn = attention

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tokens: Tokens,
        rotation: Rotation | None,
        output_positions: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [B, T, D] to [B, P, D]: what the output tokens read from all that they see."""
        config = self.config
        width = config.width // config.heads
        kv_heads = config.kv_heads or config.heads
        project = functools.partial(dense, config, use_bias=config.biases)
        axes = ("embed", "heads", "kv")
        # Windowed attention picks its queries itself: it may need all to be quick.
        asked = None if self.window else output_positions
        query = project((config.heads, width), axes, "query")(gather_positions(x, asked))
        key = project((kv_heads, width), axes, "key")(x)
        value = project((kv_heads, width), axes, "value")(x)
        if config.qk_norm:
            query = layer_norm(config, "query_norm", "kv")(query)
            key = layer_norm(config, "key_norm", "kv")(key)
        if rotation is not None:
            query = rotate(query, Rotation(*(gather_positions(each, asked) for each in rotation)))
            key = rotate(key, rotation)
        if kv_heads != config.heads:
            key, value = (
                jnp.repeat(each, config.heads // kv_heads, axis=2) for each in (key, value)
            )
        for name, each in (("queries", query), ("keys", key), ("values", value)):
            self.sow("intermediates", name, each)  # for `inspection`, and for teachers and students

        drops = not deterministic and config.attention_dropout_rate > 0
        options: dict[str, Any] = {
            "causal": config.causal,
            "dropout_rate": config.attention_dropout_rate,
            "dropout_key": self.make_rng("dropout") if drops else None,
        }
        if self.window:
            x = windowed_attention(
                query, key, value, tokens, output_positions, window=self.window, **options
            )
        else:
            x = self.attend(query, key, value, tokens.at(output_positions), tokens, **options)
        return dense(
            config,
            config.width,
            ("heads", "kv", "embed"),
            "out",
            input_axes=2,
            to_residual=True,
            use_bias=config.biases,
        )(x)


class FeedForward(nn.Module):
    """Two affine maps with the activation, and perhaps a gate, between them."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, T, D] to [B, T, D]."""
        config = self.config
        up = functools.partial(dense, config, name="up", use_bias=config.biases)
        if config.mlp is MlpKind.GATED:
            x = up((2, config.mlp_width), ("embed", "gate", "mlp"))(x)
        else:
            x = up(config.mlp_width, ("embed", "mlp"))(x)
        return ActivatedDense(config, name="down")(x)


class EncoderBlock(nn.Module):
    """One transformer layer: self-attention, then feed-forward, each in a residual sublayer.

    Post-norm (BERT): x <- norm(x + dropout(f(x))). Pre-norm: x <- x + dropout(f(norm(x))).
    Both orders have the same parameters.
    """

    config: EncoderConfig
    kind: LayerKind = LayerKind()
    attend: AttentionFn = attention

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        tokens: Tokens,
        rotation: Rotation | None,
        output_positions: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Maps [B, T, D] to [B, P, D].

        Args:
          x: the vectors of all tokens.
          tokens: [B, T], who sees whom.
          rotation: [B, T, K / 2], of queries and keys by their place; None: they stay.
          output_positions: [B, P] int32 in [0, T), the tokens to compute; None: all, P = T.
          deterministic: False draws dropout from the 'dropout' stream.
        """
        config = self.config
        attend = functools.partial(
            SelfAttention(config, self.kind.window, self.attend, name="attention"),
            tokens=tokens,
            rotation=rotation,
            output_positions=output_positions,
            deterministic=deterministic,
        )
        feed_forward = FeedForward(config, name="mlp")
        attention_norm, mlp_norm = (layer_norm(config, f"{f}_norm") for f in ("attention", "mlp"))
        drop = functools.partial(Dropout(), deterministic=deterministic)
        attention_rate, mlp_rate = (
            config.dropout_rate if rate == -1 else rate
            for rate in (config.attention_output_dropout_rate, config.mlp_output_dropout_rate)
        )

        if config.norm is Norm.PRE:
            normed = attention_norm(x) if self.kind.attention_norm else x
            x = gather_positions(x, output_positions) + drop(attend(normed), attention_rate)
            return x + drop(feed_forward(mlp_norm(x)), mlp_rate)
        x = gather_positions(x, output_positions) + drop(attend(x), attention_rate)
        x = attention_norm(x)
        return mlp_norm(x + drop(feed_forward(x), mlp_rate))


class Heads(NamedTuple):
    """Queries, keys and values of a layer's heads: [B, T, H, K], turned where positions are."""

    queries: jax.Array
    keys: jax.Array
    values: jax.Array


class Observed(NamedTuple):
    """The insides of an encoder, from `Encoder.observe`."""

    vectors: jax.Array  # [B, P, D], of the last layer
    hidden: dict[int, jax.Array]  # layer -> [B, T, D]
    heads: Heads | None


class Encoder(nn.Module):
    """Token ids in, one vector per token out; the parameters of all layers are stacked."""

    config: EncoderConfig
    attend: AttentionFn = attention

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config)
        self.layers = self.param(LAYERS, self._init_layers)
        self.has_final_norm = self.config.norm is Norm.PRE and self.config.final_norm
        if self.has_final_norm:
            self.final_norm = layer_norm(self.config, "final_norm")

    def _init_layer(self, key: jax.Array) -> Any:
        block = EncoderBlock(self.config, parent=None)
        x, tokens = jnp.zeros((1, 1, self.config.width)), tokens_of(jnp.zeros((1, 1), jnp.int32))
        return block.init(key, x, tokens, None, deterministic=True)["params"]

    def _init_layers(self, key: jax.Array) -> Any:
        return init_stack(self._init_layer, key, self.config.layers)

    def _layer_axes(self) -> Any:
        """Returns the logical axes of each parameter of a layer."""
        return nn.get_partition_spec(jax.eval_shape(self._init_layer, jax.random.key(0)))

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
        config, x = self.config, self.embeddings(batch, deterministic=deterministic)
        apply_layer, stack = self._layers_of(batch, deterministic=deterministic)
        kinds = layer_kinds(config)
        wanted = run_stack(apply_layer, x, stack, kinds, config, output_positions, layers)
        if self.has_final_norm:
            wanted = [self.final_norm(x) for x in wanted]
        return wanted[0] if layers == 1 else jnp.concatenate(wanted, axis=-1)

    def observe(
        self,
        batch: Batch,
        output_positions: jax.Array | None = None,
        *,
        deterministic: bool,
        hidden: Sequence[int] = (),
        heads_of: int | None = None,
    ) -> Observed:
        """Encodes the rows, and tells what passes between the layers.

        Args:
          batch: as in `__call__`.
          output_positions: as in `__call__`.
          deterministic: as in `__call__`.
          hidden: layers from 0, whose vectors are wanted; -1: the embeddings.
          heads_of: the layer whose queries, keys and values are wanted; None: of no layer.
        """
        config, x = self.config, self.embeddings(batch, deterministic=deterministic)
        apply_layer, stack = self._layers_of(batch, deterministic=deterministic)
        kinds, top = layer_kinds(config), config.layers - 1
        kept, heads = {-1: x}, None
        # The layers in parts, which end where something is wanted.
        ends = {number + 1 for number in hidden} | {config.layers}
        ends |= set() if heads_of is None else {heads_of, heads_of + 1}
        begin = 0
        is_cut = top in hidden or top == heads_of  # the last layer then computes all tokens
        for end in sorted(ends - {0}):
            if begin == heads_of:
                [layer] = unstack(cut_stack(stack, begin, end), 1)
                x, heads = apply_layer(x, layer, kinds[begin], tells_heads=True)
            else:
                positions = None if end < config.layers or is_cut else output_positions
                part = cut_stack(stack, begin, end)
                [x] = run_stack(apply_layer, x, part, kinds[begin:end], config, positions)
            kept[end - 1], begin = x, end
        x = gather_positions(x, output_positions) if is_cut else x
        x = self.final_norm(x) if self.has_final_norm else x
        return Observed(x, {number: kept[number] for number in hidden}, heads)

    def _layers_of(self, batch: Batch, *, deterministic: bool) -> tuple[ApplyLayer, Any]:
        """Returns what computes a layer for these rows, and the stack of what it takes for each."""
        config = self.config
        dropout_keys = None  # [L]
        if not deterministic:
            dropout_keys = jax.random.split(self.make_rng("dropout"), config.layers)
        tokens = tokens_of(batch["example_ids"])
        rotations = rotations_of(config, batch["position_ids"])
        axes = self._layer_axes() if is_fully_sharded() else None

        def apply_layer(
            x: jax.Array,
            layer: tuple[Any, Any],
            kind: LayerKind,
            output_positions: jax.Array | None = None,
            *,
            tells_heads: bool = False,
        ) -> Any:
            params, dropout_key = layer
            params = gather(params, axes, config.compute_type.value)
            made: Any = EncoderBlock(config, kind, self.attend, parent=None).apply(
                {"params": params},
                x,
                tokens,
                rotations[kind.window > 0],
                output_positions,
                deterministic=deterministic,
                rngs=None if deterministic else {"dropout": dropout_key},
                mutable=["intermediates"] if tells_heads else False,
            )
            if not tells_heads:
                return keep_rows(made)
            x, told = made
            of_attention = told["intermediates"]["attention"]
            return keep_rows(x), Heads(*(of_attention[name][0] for name in Heads._fields))

        return apply_layer, (self.layers, dropout_keys)


class Pooler(nn.Module):
    """A map of vectors before the output layer of a task, of `config.PoolerKind`."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        config, kind = self.config, self.config.pooler
        use_bias = config.biases or kind in (PoolerKind.RELU, PoolerKind.GELU)
        x = dense(config, config.width, ("embed", "pooled"), "dense", use_bias=use_bias)(x)
        match kind:
            case PoolerKind.RELU:
                return ACTIVATIONS[Activation.RELU](x)
            case PoolerKind.GELU:
                return ACTIVATIONS[Activation.GELU](x)
            case PoolerKind.TRANSFORM:
                return layer_norm(config, "norm")(head_activation(config)(x))
        return jnp.tanh(x)
