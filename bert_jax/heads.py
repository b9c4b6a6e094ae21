"""Heads, and the models that are an encoder with heads on it.

The models agree on the names `encoder` and `pooler` and differ in their heads: that is what lets
fine-tuning swap one for another.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.config import EncoderConfig
from bert_jax.model import (
    Batch,
    Dropout,
    Encoder,
    Pooler,
    bias_init,
    dense,
    gelu,
    layer_norm,
)


class MaskedLMHead(nn.Module):
    """Transform, then a product with the token table (tied) and a bias."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, token_table: jax.Array) -> jax.Array:
        """Maps [B, M, D] and the table [V, D] to float32 logits [B, M, V]."""
        config = self.config
        x = dense(config, config.width, ("embed", "transformed"), "transform")(x)
        x = layer_norm(config, "norm")(gelu(x))
        logits = jnp.einsum(
            "bmd,vd->bmv", x, token_table.astype(x.dtype), preferred_element_type=jnp.float32
        )
        bias: jax.Array = self.param("bias", bias_init("vocab"), (config.vocab_size,))
        return logits + bias[None, None, :]


class NextSentenceHead(nn.Module):
    """Does B follow A? Class 0: yes; class 1: B is from another document."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, pooled: jax.Array) -> jax.Array:
        """Maps [B, N, D] to float32 logits [B, N, 2]."""
        return dense(self.config, 2, ("embed", "classes"), "dense")(pooled).astype(jnp.float32)


class ClassificationHead(nn.Module):
    """A label for a whole input, from its pooled [CLS]."""

    config: EncoderConfig
    classes: int  # C

    @nn.compact
    def __call__(self, pooled: jax.Array, *, deterministic: bool) -> jax.Array:
        """Maps [B, N, D] to float32 logits [B, N, C]."""
        pooled = Dropout(self.config.dropout_rate)(pooled, deterministic=deterministic)
        logits = dense(self.config, self.classes, ("embed", "classes"), "dense")(pooled)
        return logits.astype(jnp.float32)


class PretrainingLogits(NamedTuple):
    """What `PretrainingModel` returns."""

    mlm: jax.Array  # [B, M, V] float32
    nsp: jax.Array  # [B, N, 2] float32


class PretrainingModel(nn.Module):
    """Encoder, pooler, masked-LM head and next-sentence head (BERT, section 3.1)."""

    config: EncoderConfig

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        self.pooler = Pooler(self.config)
        self.mlm_head = MaskedLMHead(self.config)
        self.nsp_head = NextSentenceHead(self.config)

    def __call__(self, batch: Batch, *, deterministic: bool) -> PretrainingLogits:
        """Scores the vocabulary at `mlm_positions` only, and the pair at `pool_positions`."""
        positions = [batch["mlm_positions"], batch["pool_positions"]]
        x = self.encoder(batch, jnp.concatenate(positions, axis=1), deterministic=deterministic)
        masked, pooled = jnp.split(x, [positions[0].shape[1]], axis=1)
        return PretrainingLogits(
            mlm=self.mlm_head(masked, self.encoder.embeddings.tokens),
            nsp=self.nsp_head(self.pooler(pooled)),
        )


class ClassificationModel(nn.Module):
    """Encoder, pooler and a classifier of whole inputs."""

    config: EncoderConfig
    classes: int  # C

    def setup(self) -> None:
        self.encoder = Encoder(self.config)
        self.pooler = Pooler(self.config)
        self.classifier = ClassificationHead(self.config, self.classes)

    def __call__(self, batch: Batch, *, deterministic: bool) -> jax.Array:
        """Returns float32 logits [B, N, C]."""
        x = self.encoder(batch, batch["pool_positions"], deterministic=deterministic)
        return self.classifier(self.pooler(x), deterministic=deterministic)
