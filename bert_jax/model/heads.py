"""Heads, and the models that are an encoder with heads on it.

The models agree on the names `encoder` and `pooler` and differ in their heads: that is what lets
fine-tuning swap one for another.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from bert_jax.config import (
    EncoderConfig,
    InputPooling,
    PoolerKind,
    SentenceObjective,
    VectorPooling,
)
from bert_jax.distributed.gathering import gather, keep_rows
from bert_jax.model.attention import AttentionFn, attention
from bert_jax.model.encoder import Batch, Encoder, Pooler
from bert_jax.model.layers import (
    Dropout,
    bias_init,
    dense,
    gather_positions,
    head_activation,
    kernel_init,
    layer_norm,
)

_TABLE = PartitionSpec("vocab", "embed")  # logical axes of the matrix of the vocabulary


class MaskedLMHead(nn.Module):
    """A transform, a product with the token table (tied) or a matrix of its own, and a bias."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, token_table: jax.Array) -> jax.Array:
        """Maps [B, M, D] and the table [V, E] to float32 logits [B, M, V]."""
        config = self.config
        if config.mlm_transform:
            width = token_table.shape[-1]
            axes = ("embed", "transformed")
            x = dense(config, width, axes, "transform", use_bias=config.biases)(x)
            x = layer_norm(config, "norm")(head_activation(config)(x))
        x = keep_rows(x)
        matrix = token_table
        if not config.mlm_tied:
            shape = (config.vocab_size, x.shape[-1])
            matrix = self.param("output", kernel_init(config, *_TABLE), shape)
        logits = jnp.einsum(
            "bmd,vd->bmv", x, matrix.astype(x.dtype), preferred_element_type=jnp.float32
        )
        if not config.mlm_bias:
            return logits
        bias: jax.Array = self.param("bias", bias_init("vocab"), (config.vocab_size,))
        return logits + bias[None, None, :]


def token_scorer(config: EncoderConfig, params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters that score tokens, of all those of a model with a masked-LM head."""
    head = params.get("mlm_head", {})  # tied, without transform and bias it has no parameters
    table = params["encoder"]["embeddings"]["tokens"]
    whole = functools.partial(gather, axes=_TABLE, dtype=config.compute_type.value)
    if config.mlm_tied:
        return {"head": head, "table": whole(table)}
    return {"head": {**head, "output": whole(head["output"])}, "table": table}


def score_tokens(config: EncoderConfig, scorer: dict[str, Any], x: jax.Array) -> jax.Array:
    """Maps vectors of tokens, [B, M, D], to float32 logits [B, M, V].

    Args:
      config: of the encoder.
      scorer: from `token_scorer`.
      x: the vectors.
    """
    variables = {"params": scorer["head"]}
    return MaskedLMHead(config).apply(variables, x, scorer["table"])  # pyright: ignore


def example_means(x: jax.Array, batch: Batch) -> jax.Array:
    """Averages the vectors of each example: [B, T, D] to [B, N, D] float32."""
    numbers = 1 + jnp.arange(batch["pool_positions"].shape[1], dtype=jnp.int32)
    own = batch["example_ids"][:, None, :] == numbers[None, :, None]  # [B, N, T]
    own_x = own.astype(jnp.float32), x.astype(jnp.float32)
    sums = jnp.einsum("bnt,btd->bnd", *own_x, precision=jax.lax.Precision.HIGHEST)
    return sums / jnp.maximum(own.sum(axis=-1, keepdims=True), 1)


class SentenceHead(nn.Module):
    """The binary question about a pair (`config.SentenceObjective`).

    NSP: class 0, B follows A; class 1, it is from another document. SOP: class 0, they are in their
    order; class 1, they are swapped.
    """

    config: EncoderConfig

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        """Maps [B, N, D] to float32 logits [B, N, 2]."""
        return dense(self.config, 2, ("embed", "classes"), "dense")(pooled).astype(jnp.float32)


class TaskHead(nn.Module):
    """The output layer of a labelled task, over pooled [CLS] vectors or over tokens."""

    config: EncoderConfig
    outputs: int  # C

    @nn.compact
    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps [B, N or T, D] to float32 [B, N or T, C]."""
        x = Dropout()(x, self.config.dropout_rate, deterministic=deterministic)
        outputs = dense(self.config, self.outputs, ("embed", "classes"), "dense")(x)
        return outputs.astype(jnp.float32)


class PretrainingLogits(NamedTuple):
    """The logits of a `PretrainingModel`."""

    mlm: jax.Array  # [B, M, V] float32
    sentence: jax.Array | None  # [B, N, 2] float32; None without a sentence objective


class PretrainingModel(nn.Module):
    """Encoder and masked-LM head; with a sentence objective also pooler and sentence head.

    The sentence head is `nsp_head` or `sop_head` (BERT, section 3.1; ALBERT, section 3.1). Without
    one, nothing would train the pooler, so there is none.
    """

    config: EncoderConfig
    objective: SentenceObjective = SentenceObjective.NSP
    attend: AttentionFn = attention

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.attend)
        self.mlm_head = MaskedLMHead(self.config)
        if self.objective is not SentenceObjective.NONE:
            if self.config.pooler is not PoolerKind.NONE:
                self.pooler = Pooler(self.config)
            setattr(self, f"{self.objective.value}_head", SentenceHead(self.config))

    def __call__(self, batch: Batch, *, deterministic: bool) -> PretrainingLogits:
        """Scores the vocabulary at `mlm_positions` only, and the pair at `pool_positions`."""
        masked, sentence = self.read(batch, deterministic=deterministic)
        return PretrainingLogits(self.mlm_head(masked, self.encoder.embeddings.tokens), sentence)

    def read(self, batch: Batch, *, deterministic: bool) -> tuple[jax.Array, jax.Array | None]:
        """Returns the vectors at `mlm_positions`, [B, M, D], and the logits of the pair."""
        masked_positions, pool_positions = batch["mlm_positions"], batch["pool_positions"]
        if self.objective is SentenceObjective.NONE:
            return self.encoder(batch, masked_positions, deterministic=deterministic), None
        if self.config.pooling is InputPooling.CLS:
            output_positions = jnp.concatenate([masked_positions, pool_positions], axis=1)
            x = self.encoder(batch, output_positions, deterministic=deterministic)
            masked, x = jnp.split(x, [masked_positions.shape[1]], axis=1)
        else:
            x = self.encoder(batch, deterministic=deterministic)
            masked = gather_positions(x, masked_positions)
        if self.config.pooling is InputPooling.MEAN:
            x = example_means(x, batch).astype(x.dtype)
        if self.config.pooler is not PoolerKind.NONE:
            x = self.pooler(x)
        if self.config.pooling is InputPooling.LATE:
            x = example_means(x, batch).astype(x.dtype)
        return masked, getattr(self, f"{self.objective.value}_head")(x)


def reads_pooler(config: EncoderConfig, *, whole_inputs: bool) -> bool:
    """Returns True if the head of a task reads vectors through the pooler."""
    kind = config.pooler
    return kind is PoolerKind.TRANSFORM or (whole_inputs and kind is not PoolerKind.NONE)


class TaskModel(nn.Module):
    """Encoder and the head of a labelled task.

    Tasks of whole inputs read [CLS], or a mean, through the pooler; tasks of tokens read every
    one, through the pooler where that is a transform. The name of the head is that of its parameter
    group, as `tasks/kinds.py` has it.
    """

    config: EncoderConfig
    head: str  # 'classifier', 'tagger' or 'span'
    outputs: int  # C
    whole_inputs: bool  # reads [CLS]; False: every token
    feature_layers: int = 1  # G
    frozen_encoder: bool = False  # it runs without dropout, and nothing is differentiated in it

    def setup(self) -> None:
        self.encoder = Encoder(self.config)

    @property
    def pool_last(self) -> bool:
        """True if the token that `pool_positions` name is the last one of an input."""
        return self.config.causal

    def features(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns the vectors that pooler and head read.

        Those of whole inputs are [B, N, G D], those of tokens, or for late pooling, [B, T, G D].
        """
        pooling = self.config.pooling if self.whole_inputs else None
        x = self.encoder(
            batch,
            batch["pool_positions"] if pooling is InputPooling.CLS else None,
            deterministic=deterministic or self.frozen_encoder,
            layers=self.feature_layers,
        )
        x = example_means(x, batch).astype(x.dtype) if pooling is InputPooling.MEAN else x
        return jax.lax.stop_gradient(x) if self.frozen_encoder else x

    @nn.compact
    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns float32 [B, N, C] of inputs, [B, T, C] of tokens.

        A batch with `features` is read from there, and the encoder does not run.
        """
        x = batch.get("features")
        if x is None:
            x = self.features(batch, deterministic=deterministic)
        if reads_pooler(self.config, whole_inputs=self.whole_inputs):
            x = Pooler(self.config, name="pooler")(x)
        if self.whole_inputs and self.config.pooling is InputPooling.LATE:
            x = example_means(x, batch).astype(x.dtype)
        return TaskHead(self.config, self.outputs, name=self.head)(x, deterministic=deterministic)


def normalised(vectors: jax.Array) -> jax.Array:
    """Divides vectors, [..., D] float32, by their lengths; 0 stays 0, with a gradient of 0."""
    squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    is_zero = squares == 0
    return jnp.where(is_zero, 0, vectors * jax.lax.rsqrt(jnp.where(is_zero, 1, squares)))


class VectorModel(nn.Module):
    """An encoder whose output is a vector of each text; it has no parameters of its own."""

    config: EncoderConfig
    pooling: VectorPooling
    normalised: bool

    whole_inputs: ClassVar[bool] = True

    def setup(self) -> None:
        self.encoder = Encoder(self.config)

    @property
    def pool_last(self) -> bool:
        """True if the token that `pool_positions` name is the last one of a text."""
        return self.config.causal or self.pooling is VectorPooling.LAST

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns float32 [B, N, D]."""
        is_mean = self.pooling is VectorPooling.MEAN
        positions = None if is_mean else batch["pool_positions"]
        x = self.encoder(batch, positions, deterministic=deterministic)
        vectors = example_means(x, batch) if is_mean else x.astype(jnp.float32)
        return normalised(vectors) if self.normalised else vectors
