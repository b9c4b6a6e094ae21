"""Losses as (sum, weight) pairs, to be added freely and divided once.

`make_pretraining_loss` and `make_task_loss` bind a model; `training/step.py` differentiates
what they return.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bert_jax.config import EncoderConfig
from bert_jax.model.encoder import Batch
from bert_jax.model.heads import PretrainingModel, score_tokens, token_scorer

Params = dict[str, Any]

_CHUNK = 32  # slots of a row whose vocabulary is scored at once, where nearly all have one


class Total(NamedTuple):
    """A sum over the global batch and the weight that it covers; float32 scalars."""

    sum: jax.Array
    weight: jax.Array


Totals = dict[str, Total]
# outputs, batch -> totals; the one named `loss` is minimised
TotalsOf = Callable[[jax.Array, Batch], Totals]


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A weighted sum of mean losses.

    Attributes:
      totals: params, batch, dropout key (None: no dropout) -> all totals, to log. Those that look
        at a teacher also take its parameters, as `teacher`.
      weights: batch -> the weight of each total in the loss. It needs no forward pass, so that
        micro-batches can be divided by the weight of the whole batch.
      factors: of the mean losses, by the names of their totals.
    """

    totals: Callable[..., Totals]
    weights: Callable[[Batch], dict[str, jax.Array]]
    factors: dict[str, float]

    def given(self, teacher: Params | None) -> "Loss":
        """Returns the loss with the parameters of a teacher, which its totals read; None: none."""
        if teacher is None:
            return self
        return dataclasses.replace(self, totals=functools.partial(self.totals, teacher=teacher))

    def __call__(
        self,
        params: Params,
        batch: Batch,
        dropout_key: jax.Array | None,
        weights: dict[str, jax.Array] | None = None,
    ) -> tuple[jax.Array, Totals]:
        """Returns the loss, in nats or squared units, and all totals.

        Args:
          params: of the model.
          batch: or a micro-batch.
          dropout_key: None for no dropout.
          weights: of the whole batch, for a micro-batch: the losses of micro-batches then add up.
        """
        totals = self.totals(params, batch, dropout_key)
        weights = self.weights(batch) if weights is None else weights
        terms = [
            factor * mean(Total(totals[name].sum, weights[name]))
            for name, factor in self.factors.items()
        ]
        return functools.reduce(jnp.add, terms), totals


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
    """Counts the weighted slots whose highest logit is the label; shapes as `cross_entropy`.

    Of equal logits the first counts. `argmax` says the same, at many times the cost on a CPU.
    """
    labels = labels[:, :, None]
    own = jnp.take_along_axis(logits, labels, axis=-1)
    later = labels <= jax.lax.broadcasted_iota(jnp.int32, logits.shape, 2)
    right = jnp.all((logits < own) | ((logits == own) & later), axis=-1)
    return Total(jnp.sum(right * weights), jnp.sum(weights))


def mean(total: Total) -> jax.Array:
    """Divides, giving 0 where there is no weight."""
    return total.sum / jnp.maximum(total.weight, 1e-9)


def make_pretraining_loss(model: PretrainingModel, *, sentence_weight: float = 1.0) -> Loss:
    """Returns the joint loss: the mean MLM loss plus a multiple of the mean sentence loss.

    Args:
      model: its objective names the sentence loss in the totals: `nsp_loss`, `sop_accuracy`, ...;
        a causal model's loss is `next_token_loss`, since no token is masked.
      sentence_weight: of the mean sentence loss.
    """
    name = model.objective.value
    positive = {"nsp": "random", "sop": "swapped"}.get(name)
    tokens = "next_token" if model.config.causal else "mlm"
    factors = {f"{tokens}_loss": 1.0}
    if positive:
        factors[f"{name}_loss"] = sentence_weight

    def totals_of(params: Params, batch: Batch, dropout_key: jax.Array | None) -> Totals:
        x, pair = _apply(model, params, batch, dropout_key, method=model.read)
        found = token_totals(model.config, params, x, batch)
        totals = {f"{tokens}_{each}": total for each, total in found.items()}
        if pair is None:
            return totals
        labels, weights = batch["labels"], batch["weights"]
        sentence = pair, labels, weights
        return totals | {
            f"{name}_loss": cross_entropy(*sentence),
            f"{name}_accuracy": accuracy(*sentence),
            f"{name}_{positive}_share": Total(jnp.sum(labels * weights), jnp.sum(weights)),
        }

    def weights_of(batch: Batch) -> dict[str, jax.Array]:
        weights = {f"{tokens}_loss": batch["mlm_weights"], f"{name}_loss": batch["weights"]}
        return {each: jnp.sum(weights[each]) for each in factors}

    return Loss(totals_of, weights_of, factors)


def token_totals(config: EncoderConfig, params: Params, x: jax.Array, batch: Batch) -> Totals:
    """Returns the cross-entropy of the language model, `loss`, and its `accuracy`.

    Args:
      config: of the encoder.
      params: of the model.
      x: [B, M, D], the vectors of the slots.
      batch: `mlm_labels` [B, M] int32, `mlm_weights` [B, M] float32.
    """

    def totals(scorer: Params, x: jax.Array, labels: jax.Array, weights: jax.Array) -> SlotTotals:
        logits = score_tokens(config, scorer, x)
        loss, right = (each(logits, labels, weights) for each in (cross_entropy, accuracy))
        return {"loss": loss}, {"accuracy": right}

    fields = x, batch["mlm_labels"], batch["mlm_weights"]
    losses, others = add_up(
        totals, token_scorer(config, params), fields, batch["token_ids"].shape[1]
    )
    return losses | others


# Losses, whose sums are differentiated, and other totals.
SlotTotals = tuple[Totals, Totals]


def add_up(
    totals: Callable[..., SlotTotals], scorer: Params, fields: tuple[jax.Array, ...], length: int
) -> SlotTotals:
    """Adds up what a function makes of the slots of rows.

    Where there are many, it takes some of them at a time: so what it needs for each slot, such as
    the logits of a vocabulary, is never there for all.

    Args:
      totals: `scorer` and the fields of some slots to totals of them.
      scorer: parameters that it is differentiated by.
      fields: [B, M, ...] each; it is differentiated by the first one. 0 in all of them must add
        nothing.
      length: T of the rows.
    """
    slots = fields[0].shape[1]
    if slots <= max(_CHUNK, length // 2):
        return totals(scorer, *fields)
    chunks = -(-slots // _CHUNK)

    def cut(field: jax.Array) -> jax.Array:
        """Fills up with zeros, and returns [chunks, B, m, ...]."""
        filling = [(0, 0), (0, chunks * _CHUNK - slots), *[(0, 0)] * (field.ndim - 2)]
        field = jnp.pad(field, filling)
        return jnp.moveaxis(field.reshape(len(field), chunks, _CHUNK, *field.shape[2:]), 1, 0)

    x, *others = map(cut, fields)
    return _add_chunks(totals, scorer, x, others)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _add_chunks(
    totals: Callable[..., SlotTotals], scorer: Params, x: jax.Array, others: list[jax.Array]
) -> SlotTotals:
    """Returns the totals of all chunks: x [chunks, B, m, D], `others` [chunks, B, m, ...]."""

    def add(sums: SlotTotals, chunk: tuple[jax.Array, ...]) -> tuple[SlotTotals, None]:
        return jax.tree.map(jnp.add, sums, totals(scorer, *chunk)), None

    shapes = jax.eval_shape(totals, scorer, x[0], *(each[0] for each in others))
    return jax.lax.scan(add, _zeros(shapes), (x, *others))[0]


def _add_chunks_forward(
    totals: Callable[..., SlotTotals], scorer: Params, x: jax.Array, others: list[jax.Array]
) -> tuple[SlotTotals, tuple[dict[str, Params], dict[str, jax.Array]]]:
    """Also returns the gradients of each loss, made while the logits of a chunk are there."""

    def add(carry: Any, chunk: tuple[jax.Array, ...]) -> tuple[Any, dict[str, jax.Array]]:
        x, *others = chunk

        def losses(scorer: Params, x: jax.Array) -> tuple[dict[str, jax.Array], SlotTotals]:
            found = totals(scorer, x, *others)
            return {name: loss.sum for name, loss in found[0].items()}, found

        sums, pull, found = jax.vjp(losses, scorer, x, has_aux=True)
        pulled = {name: pull({each: jnp.float32(each == name) for each in sums}) for name in sums}
        own = found, {name: by_scorer for name, (by_scorer, _) in pulled.items()}
        return jax.tree.map(jnp.add, carry, own), {name: by_x for name, (_, by_x) in pulled.items()}

    shapes = jax.eval_shape(totals, scorer, x[0], *(each[0] for each in others))
    zeros = _zeros(shapes), {name: _zeros(scorer) for name in shapes[0]}
    (found, by_scorer), by_x = jax.lax.scan(add, zeros, (x, *others))
    return found, (by_scorer, by_x)


def _add_chunks_backward(
    totals: Callable[..., SlotTotals],
    gradients: tuple[dict[str, Params], dict[str, jax.Array]],
    cotangents: SlotTotals,
) -> tuple[Params, jax.Array, None]:
    del totals
    factors = [loss.sum for loss in cotangents[0].values()]

    def weigh(*leaves: Any) -> Any:
        terms = [factor * leaf for factor, leaf in zip(factors, leaves, strict=True)]
        return functools.reduce(jnp.add, terms).astype(leaves[0].dtype)

    by_scorer, by_x = (each.values() for each in gradients)
    return jax.tree.map(weigh, *by_scorer), weigh(*by_x), None


_add_chunks.defvjp(_add_chunks_forward, _add_chunks_backward)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)


def make_task_loss(
    model: nn.Module,
    totals_of: TotalsOf,
    class_weights: tuple[float, ...] = (),
    *,
    taught_weight: float = 0.0,
) -> Loss:
    """Returns the loss of a `TaskModel`.

    Args:
      model: gives the outputs.
      totals_of: outputs and batch to the totals, such as `class_totals`.
      class_weights: as `totals_of` has them.
      taught_weight: of `taught_loss`, which then is among the totals; that of labels has the rest.
    """

    def totals(params: Params, batch: Batch, dropout_key: jax.Array | None) -> Totals:
        return totals_of(_apply(model, params, batch, dropout_key), batch)

    def weights_of(batch: Batch) -> dict[str, jax.Array]:
        weights = {"loss": jnp.sum(weights_in_loss(batch, class_weights))}
        if taught_weight:
            weights["taught_loss"] = jnp.sum(batch["taught_weights"])
        return weights

    factors = {"loss": 1.0 - taught_weight}
    if taught_weight:
        factors["taught_loss"] = taught_weight
    return Loss(totals, weights_of, factors)


def weights_in_loss(batch: Batch, class_weights: tuple[float, ...]) -> jax.Array:
    """Returns the weight of each slot in the loss, [B, N or T] float32: its own, by class."""
    weights = batch["weights"]
    return weights * jnp.asarray(class_weights)[batch["labels"]] if class_weights else weights


def class_totals(
    logits: jax.Array,
    batch: Batch,
    *,
    label_smoothing: float = 0.0,
    class_weights: tuple[float, ...] = (),
) -> Totals:
    """The cross-entropy of classes, of whole inputs or of tokens.

    Args:
      logits: [B, M, C] float32, M = N or T.
      batch: `labels` [B, M] int32, `weights` [B, M] float32.
      label_smoothing: share of the target that is spread over all classes evenly.
      class_weights: [C], of the examples of each class in the loss; () for 1. The accuracy does not
        know them.

    Returns:
      `loss`, in nats, and `accuracy`.
    """
    labels, weights = batch["labels"], batch["weights"]
    in_loss = weights_in_loss(batch, class_weights)
    loss = cross_entropy(logits, labels, in_loss)
    if label_smoothing:
        even = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
        spread = jnp.sum(even * in_loss)
        loss = loss._replace(sum=(1 - label_smoothing) * loss.sum + label_smoothing * spread)
    return {"loss": loss, "accuracy": accuracy(logits, labels, weights)}


def number_totals(values: jax.Array, batch: Batch) -> Totals:
    """The squared error of numbers.

    Args:
      values: [B, N, 1] float32.
      batch: `labels` and `weights` [B, N] float32.

    Returns:
      `loss`, in squared units of the labels.
    """
    weights = batch["weights"]
    errors = jnp.square(values[:, :, 0] - batch["labels"])
    return {"loss": Total(jnp.sum(errors * weights), jnp.sum(weights))}


def span_totals(logits: jax.Array, batch: Batch) -> Totals:
    """The cross-entropy of the first and the last token of answers (BERT, section 4.2).

    The softmax is over the tokens of the example alone, so packing does not change it.

    Args:
      logits: [B, T, 2] float32, of the first and of the last token.
      batch: `example_ids`, `position_ids` [B, T] int32; `labels` [B, N, 2] int32,
        position ids; `weights` [B, N] float32.

    Returns:
      `loss`, the mean of both in nats, and `accuracy`: of both being the likeliest.
    """
    labels, weights = batch["labels"], batch["weights"]
    slots = 1 + jnp.arange(weights.shape[1])
    own = batch["example_ids"][:, None, :] == slots[None, :, None]  # [B, N, T]
    losses, right = jnp.zeros_like(weights), jnp.ones_like(weights)
    for side in range(2):
        scores = jnp.where(own, logits[:, None, :, side], -1e30)  # finite: a slot may be empty
        at = own & (batch["position_ids"][:, None, :] == labels[:, :, None, side])
        chosen = jnp.sum(jnp.where(at, logits[:, None, :, side], 0), axis=-1)
        losses += 0.5 * (jax.nn.logsumexp(scores, axis=-1) - chosen)
        right *= jnp.max(scores, axis=-1) == chosen
    weight = jnp.sum(weights)
    loss = Total(jnp.sum(jnp.where(weights > 0, losses, 0) * weights), weight)
    return {"loss": loss, "accuracy": Total(jnp.sum(right * weights), weight)}


def _apply(
    model: nn.Module,
    params: Params,
    batch: Batch,
    dropout_key: jax.Array | None,
    method: Any = None,
) -> Any:
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    is_still = dropout_key is None
    return model.apply({"params": params}, batch, deterministic=is_still, rngs=rngs, method=method)
