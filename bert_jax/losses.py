"""Losses as (sum, weight) pairs, to be added freely and divided once.

`make_pretraining_loss` and `make_classification_loss` bind a model; `training.py` differentiates
what they return.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.heads import PretrainingModel
from bert_jax.model import Batch

Params = dict[str, Any]


class Total(NamedTuple):
    """A sum over the global batch and the weight that it covers; float32 scalars."""

    sum: jax.Array
    weight: jax.Array


Totals = dict[str, Total]
# params, batch, dropout key (None: no dropout) -> loss in nats, totals to log
LossFn = Callable[[Params, Batch, jax.Array | None], tuple[jax.Array, Totals]]


def cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Total:
    """Sums the cross-entropy of the weighted slots.

    The caller divides, once, after adding every sum it wants: a mean of means would weigh short
    sequences too heavily.

    Args:
      logits: [B, M, V] float32, unnormalised.
      labels: [B, M] int32 in [0, V).
      weights: [B, M] float32; 0 leaves a slot out.

    Returns:
      The sum, in nats, and its weight. With zero weight both are 0.
    """
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    at_label = jnp.take_along_axis(logits, labels[:, :, None], axis=-1)[:, :, 0]
    return Total(jnp.sum((normaliser - at_label) * weights), jnp.sum(weights))


def accuracy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Total:
    """Counts the weighted slots whose highest logit is the label; shapes as `cross_entropy`."""
    return Total(jnp.sum((jnp.argmax(logits, axis=-1) == labels) * weights), jnp.sum(weights))


def mean(total: Total) -> jax.Array:
    """Divides, giving 0 where there is no weight."""
    return total.sum / jnp.maximum(total.weight, 1e-9)


def make_pretraining_loss(
    model: PretrainingModel, *, mlm_weight: float = 1.0, sentence_weight: float = 1.0
) -> LossFn:
    """Returns the joint loss of a pretraining model: weighted means of the MLM and sentence losses.

    Args:
      model: its objective names the sentence loss in the totals: `nsp_loss`, `sop_accuracy`, ...
      mlm_weight: of the mean MLM loss.
      sentence_weight: of the mean sentence loss.
    """
    name = model.objective.value
    positive = {"nsp": "random", "sop": "swapped"}.get(name)  # whose share tells the balance

    def loss_fn(params: Params, batch: Batch, dropout_key: jax.Array | None):
        logits = _apply(model, params, batch, dropout_key)
        mlm = logits.mlm, batch["mlm_labels"], batch["mlm_weights"]
        totals = {"mlm_loss": cross_entropy(*mlm), "mlm_accuracy": accuracy(*mlm)}
        loss = mlm_weight * mean(totals["mlm_loss"])
        if logits.sentence is None:
            return loss, totals
        labels, weights = batch["labels"], batch["weights"]
        sentence = logits.sentence, labels, weights
        totals |= {
            f"{name}_loss": cross_entropy(*sentence),
            f"{name}_accuracy": accuracy(*sentence),
            f"{name}_{positive}_share": Total(jnp.sum(labels * weights), jnp.sum(weights)),
        }
        return loss + sentence_weight * mean(totals[f"{name}_loss"]), totals

    return loss_fn


def make_classification_loss(model: nn.Module) -> LossFn:
    """Returns the mean cross-entropy of a `ClassificationModel`."""

    def loss_fn(params: Params, batch: Batch, dropout_key: jax.Array | None):
        logits = _apply(model, params, batch, dropout_key)
        labelled = logits, batch["labels"], batch["weights"]
        totals = {"loss": cross_entropy(*labelled), "accuracy": accuracy(*labelled)}
        return mean(totals["loss"]), totals

    return loss_fn


def without_gradients(loss_fn: LossFn, groups: frozenset[str]) -> LossFn:
    """Treats top-level parameter groups as constants: nothing is differentiated for them."""

    def wrapped(params: Params, batch: Batch, dropout_key: jax.Array | None):
        held = {group: jax.lax.stop_gradient(params[group]) for group in groups}
        return loss_fn(params | held, batch, dropout_key)

    return wrapped


def _apply(model: nn.Module, params: Params, batch: Batch, dropout_key: jax.Array | None) -> Any:
    if dropout_key is None:
        return model.apply({"params": params}, batch, deterministic=True)
    rngs = {"dropout": dropout_key}
    return model.apply({"params": params}, batch, deterministic=False, rngs=rngs)
