"""The lessons of a teacher as (sum, weight) pairs, and the loss that a student trains by.

Each lesson compares what a student and its teacher make of the same rows, masks included. Nothing
is differentiated by the teacher: its parameters are an input of the step, and it has no dropout.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bert_jax.config import LESSONS, DistillationConfig, DistilledTokens, layer_pairs
from bert_jax.model.attention import tokens_of, visible
from bert_jax.model.encoder import Batch, Heads, Observed
from bert_jax.model.heads import score_tokens, token_scorer
from bert_jax.model.layers import gather_positions
from bert_jax.model.observed import ObservedModel
from bert_jax.model.stack import layer_kinds
from bert_jax.objectives.losses import (
    Loss,
    Params,
    SlotTotals,
    Total,
    Totals,
    accuracy,
    add_up,
    cross_entropy,
)

# Lesson -> the two of `Heads` whose products it compares (MiniLM, 3.1 and 3.2; MiniLMv2, 3.1).
_RELATIONS = {
    "attention": ("queries", "keys"),
    "query": ("queries", "queries"),
    "key": ("keys", "keys"),
    "value": ("values", "values"),
}


Pair = tuple[jax.Array, jax.Array]


def soft_target_total(
    student: jax.Array, teacher: jax.Array, weights: jax.Array, temperature: float
) -> Total:
    """Sums T^2 KL(teacher || student) over the weighted slots (Hinton et al., 2015, section 2).

    T^2 keeps the size of its gradients where the temperature changes.

    Args:
      student: [B, M, V] float32 logits.
      teacher: [B, M, V] float32 logits.
      weights: [B, M] float32; 0 leaves a slot out.
      temperature: T, of both.
    """
    expected = jax.nn.log_softmax(teacher / temperature, axis=-1)
    found = jax.nn.log_softmax(student / temperature, axis=-1)
    divergence = jnp.sum(jnp.exp(expected) * (expected - found), axis=-1)
    return Total(temperature**2 * jnp.sum(divergence * weights), jnp.sum(weights))


def cosine_total(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> Total:
    """Sums 1 - cosine of the weighted vectors: [B, M, D] each, weights [B, M]."""
    student, teacher = student.astype(jnp.float32), teacher.astype(jnp.float32)
    lengths = jnp.sum(student**2, axis=-1) * jnp.sum(teacher**2, axis=-1)
    cosine = jnp.sum(student * teacher, axis=-1) * jax.lax.rsqrt(jnp.maximum(lengths, 1e-12))
    return Total(jnp.sum((1 - cosine) * weights), jnp.sum(weights))


def hidden_total(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> Total:
    """Sums the squared error, a mean over the width, of vectors as in `cosine_total`."""
    errors = jnp.square(student.astype(jnp.float32) - teacher.astype(jnp.float32))
    return Total(jnp.sum(jnp.mean(errors, axis=-1) * weights), jnp.sum(weights))


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """Splits the width of all heads together into others: [B, T, H, K] to [B, T, R, H K / R]."""
    rows, length = x.shape[:2]
    return x.reshape(rows, length, heads, -1)


def relation_total(
    student: Pair,
    teacher: Pair,
    mask: jax.Array,
    weights: jax.Array,
) -> Total:
    """Sums KL(teacher || student) of softmax(X Y^T / sqrt K), a mean over the heads, by token.

    Args:
      student: X and Y, [B, T, R, K] each.
      teacher: the same of the teacher, whose K may differ.
      mask: [B, 1, T, T] bool, from `visible`.
      weights: [B, T] float32; 0 leaves a token out.
    """

    @jax.checkpoint
    def divergence(student: Pair, teacher: Pair) -> jax.Array:
        expected, found = (_log_relations(x, y, mask) for x, y in (teacher, student))
        terms = jnp.where(mask, jnp.exp(expected) * (expected - found), 0)
        return jnp.mean(jnp.sum(terms, axis=-1), axis=1)  # [B, T]

    return Total(jnp.sum(divergence(student, teacher) * weights), jnp.sum(weights))


def _log_relations(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns [B, R, T, T] float32, over the tokens that each one sees."""
    scores = jnp.einsum(
        "bthk,bshk->bhts", x * x.shape[-1] ** -0.5, y, preferred_element_type=jnp.float32
    )
    return jax.nn.log_softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min / 2), axis=-1)


def taught_classes(logits: jax.Array, batch: Batch, temperature: float) -> Total:
    """Sums T^2 KL to a teacher's classes: logits, `taught` [B, M, C], `taught_weights` [B, M]."""
    return soft_target_total(logits, batch["taught"], batch["taught_weights"], temperature)


def taught_numbers(values: jax.Array, batch: Batch, temperature: float) -> Total:
    """Sums the squared error to a teacher's numbers, [B, N, 1]; there is no temperature."""
    del temperature
    return hidden_total(values, batch["taught"], batch["taught_weights"])


def taught_spans(logits: jax.Array, batch: Batch, temperature: float) -> Total:
    """Sums T^2 KL to a teacher's first and last tokens of answers, the mean of both.

    The probabilities are over the tokens of the example, as in `losses.span_totals`.

    Args:
      logits: [B, T, 2] float32.
      batch: `taught` [B, T, 2] and `taught_weights` [B, N] float32; `example_ids` [B, T] int32.
      temperature: T, of both.
    """
    weights = batch["taught_weights"]
    slots = 1 + jnp.arange(weights.shape[1])
    own = batch["example_ids"][:, None, :] == slots[None, :, None]  # [B, N, T]
    total = jnp.zeros((), jnp.float32)
    for side in range(2):
        student, teacher = (
            jnp.where(own, each[:, None, :, side], -1e30) for each in (logits, batch["taught"])
        )
        total += 0.5 * soft_target_total(student, teacher, weights, temperature).sum
    return Total(total, jnp.sum(weights))


def agreement(student: jax.Array, teacher: jax.Array, weights: jax.Array) -> Total:
    """Counts the weighted slots whose likeliest token is that of the teacher: logits [B, M, V]."""
    best = [logits == jnp.max(logits, axis=-1, keepdims=True) for logits in (student, teacher)]
    return Total(jnp.sum(jnp.any(best[0] & best[1], axis=-1) * weights), jnp.sum(weights))


def make_distillation_loss(
    student: ObservedModel, teacher: ObservedModel, config: DistillationConfig
) -> Loss:
    """Returns the loss of a student: its own masked-LM loss and the lessons, each with its weight.

    The totals are `mlm_loss`, `mlm_accuracy` and `soft_loss`, `cosine_loss`, ... of the lessons
    with a weight. Without dropout, which is an evaluation, `teacher_mlm_loss` and `agreement` are
    there as well, where both have a head.

    Args:
      student: whose parameters are trained.
      teacher: whose parameters are the `teacher` of `Loss.given`.
      config: of the lessons.
    """
    lessons = Lessons(student, teacher, config)
    factors = {f"{name}_loss": getattr(config, f"{name}_weight") for name in ("mlm", *LESSONS)}
    factors = {name: factor for name, factor in factors.items() if factor}

    def weights_of(batch: Batch) -> dict[str, jax.Array]:
        found = dict.fromkeys(factors, _real(batch))
        found["mlm_loss"] = batch["mlm_weights"]
        found["soft_loss"] = found["cosine_loss"] = lessons.weights(batch)
        return {name: jnp.sum(found[name]) for name in factors}

    return Loss(lessons.totals, weights_of, factors)


class Lessons:
    """The comparison of a student with its teacher on a batch."""

    def __init__(
        self, student: ObservedModel, teacher: ObservedModel, config: DistillationConfig
    ) -> None:
        """Takes the models, and what is compared; computes nothing.

        Layers whose heads are compared have one window: `runs.teacher` sees to it.
        """
        self._student, self._teacher, self._config = student, teacher, config
        self._pairs = layer_pairs(config)
        self._relations = [name for name in _RELATIONS if getattr(config, f"{name}_weight")]
        looks = bool(config.soft_weight or config.cosine_weight)
        self._whole = looks and config.tokens is DistilledTokens.ALL  # all tokens are encoded
        # A table may have more rows than the tokenizer has tokens.
        self._shared = min(student.config.vocab_size, teacher.config.vocab_size)

    def weights(self, batch: Batch) -> jax.Array:
        """Returns the weights of the tokens that soft targets and cosine look at, [B, M or T]."""
        if self._config.tokens is DistilledTokens.MASKED:
            return (batch["mlm_weights"] > 0).astype(jnp.float32)
        return _real(batch)

    def totals(
        self, params: Params, batch: Batch, dropout_key: jax.Array | None, *, teacher: Params
    ) -> Totals:
        """Returns all totals; see `make_distillation_loss`."""
        config = self._config
        hidden = [pair[0] for pair in self._pairs], [pair[1] for pair in self._pairs]
        positions = None if self._whole else batch["mlm_positions"]
        observe = functools.partial(_observe, batch=batch, positions=positions)
        ours = observe(
            self._student,
            params,
            hidden=hidden[0],
            heads_of=self._heads_of(self._student, config.student_layer),
            dropout_key=dropout_key,
        )
        theirs = observe(
            self._teacher,
            teacher,
            hidden=hidden[1],
            heads_of=self._heads_of(self._teacher, config.teacher_layer),
            dropout_key=None,
        )
        totals = self._compare_heads(ours.heads, theirs.heads, batch)
        if config.cosine_weight:
            weights = self.weights(batch)
            totals["cosine_loss"] = cosine_total(ours.vectors, theirs.vectors, weights)
        if self._pairs:
            totals["hidden_loss"] = self._compare_hidden(params, ours, theirs, _real(batch))
        if self._student.has_head:
            is_still = dropout_key is None
            totals |= self._compare_tokens(params, teacher, ours, theirs, batch, still=is_still)
        return totals

    def _heads_of(self, model: ObservedModel, layer: int) -> int | None:
        """Returns the layer, from 0, whose heads are compared; None: none are."""
        return layer % model.config.layers if self._relations else None

    def _compare_heads(self, ours: Heads | None, theirs: Heads | None, batch: Batch) -> Totals:
        if ours is None or theirs is None:
            return {}
        tokens, encoder = tokens_of(batch["example_ids"]), self._student.config
        window = layer_kinds(encoder)[self._config.student_layer].window  # and the teacher's
        mask = visible(tokens, tokens, causal=encoder.causal, window=window)
        heads = self._config.relation_heads or encoder.heads

        def pair(found: Heads, names: tuple[str, str]) -> Pair:
            first, second = (split_heads(getattr(found, name), heads) for name in names)
            return first, second

        return {
            f"{name}_loss": relation_total(
                pair(ours, _RELATIONS[name]), pair(theirs, _RELATIONS[name]), mask, _real(batch)
            )
            for name in self._relations
        }

    def _compare_hidden(
        self, params: Params, ours: Observed, theirs: Observed, weights: jax.Array
    ) -> Total:
        """Returns the mean over the pairs."""
        vectors = [ours.hidden[number] for number, _ in self._pairs]
        mapped: Any = self._student.apply({"params": params}, vectors, method="map_hidden")
        totals = [
            hidden_total(found, theirs.hidden[number], weights)
            for found, (_, number) in zip(mapped, self._pairs, strict=True)
        ]
        return Total(sum(total.sum for total in totals) / len(totals), totals[0].weight)  # pyright: ignore

    def _compare_tokens(
        self,
        params: Params,
        teacher: Params,
        ours: Observed,
        theirs: Observed,
        batch: Batch,
        *,
        still: bool,
    ) -> Totals:
        """Returns the totals that need logits: of the masked tokens, and of the soft targets."""
        config, shared = self._config, self._shared
        score = functools.partial(score_tokens, self._student.config)
        scorer = token_scorer(self._student.config, params)
        length = batch["token_ids"].shape[1]
        soft_at_masks = config.soft_weight and not self._whole
        has_head = self._teacher.has_head
        compares = has_head and (still or soft_at_masks)
        its_scorer = token_scorer(self._teacher.config, teacher) if has_head else {}
        score_by_teacher = functools.partial(score_tokens, self._teacher.config, its_scorer)

        def at_masks(
            scorer: Params,
            x: jax.Array,
            of_teacher: jax.Array,
            labels: jax.Array,
            weights: jax.Array,
        ) -> SlotTotals:
            logits = score(scorer, x)
            losses = {"mlm_loss": cross_entropy(logits, labels, weights)}
            others = {"mlm_accuracy": accuracy(logits, labels, weights)}
            if not compares:
                return losses, others
            other = score_by_teacher(of_teacher)
            both = logits[..., :shared], other[..., :shared]
            counted = (weights > 0).astype(jnp.float32)
            if soft_at_masks:
                losses["soft_loss"] = soft_target_total(*both, counted, config.temperature)
            if still:
                others["teacher_mlm_loss"] = cross_entropy(other, labels, weights)
                others["agreement"] = agreement(*both, counted)
            return losses, others

        def at_all(
            scorer: Params, x: jax.Array, of_teacher: jax.Array, weights: jax.Array
        ) -> SlotTotals:
            both = score(scorer, x)[..., :shared], score_by_teacher(of_teacher)[..., :shared]
            return {"soft_loss": soft_target_total(*both, weights, config.temperature)}, {}

        positions = batch["mlm_positions"] if self._whole else None
        masked = [gather_positions(each.vectors, positions) for each in (ours, theirs)]
        fields = *masked, batch["mlm_labels"], batch["mlm_weights"]
        losses, others = add_up(at_masks, scorer, fields, length)
        if config.soft_weight and self._whole:
            fields = ours.vectors, theirs.vectors, self.weights(batch)
            losses |= add_up(at_all, scorer, fields, length)[0]
        return losses | others


def _observe(
    model: ObservedModel,
    params: Params,
    batch: Batch,
    positions: jax.Array | None,
    *,
    hidden: Sequence[int],
    heads_of: int | None,
    dropout_key: jax.Array | None,
) -> Observed:
    observed: Any = model.apply(
        {"params": params},
        batch,
        positions,
        deterministic=dropout_key is None,
        hidden=hidden,
        heads_of=heads_of,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        method="observe",
    )
    return observed


def _real(batch: Batch) -> jax.Array:
    """Returns 1 for each token that is no padding: [B, T] float32."""
    return (batch["example_ids"] > 0).astype(jnp.float32)
