"""Losses over all vectors of a batch: each text is compared with those of the other examples.

They are no sums over examples, so parts of a batch cannot be added as other losses are;
`training/step.py`, `cached_gradient`, differentiates them (decision 0018). Shapes: E examples of at
most G texts, D wide; C = E (G - 1) texts that a query may find; P right texts of a query.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from bert_jax.config import VectorLoss, VectorsConfig, vector_widths
from bert_jax.distributed.gathering import row_axes
from bert_jax.distributed.sharding import BATCH_SPEC, row_groups
from bert_jax.model.encoder import Batch
from bert_jax.model.heads import VectorModel, normalised
from bert_jax.objectives.losses import Params, Total, Totals, mean

_TOKEN_FIELDS = ("token_ids", "example_ids", "segment_ids", "position_ids", "pool_positions")
_HIDDEN = -1e30  # the logit of what does not count; finite, since a row may have nothing else
_EXACT = jax.lax.Precision.HIGHEST  # of similarities: they are divided by a small temperature

# Keeps the first axis, of examples, on the devices that have their rows.
ByRows = Callable[[jax.Array], jax.Array]


class BatchTexts(NamedTuple):
    """The texts of a batch, an example a row, on every device."""

    vectors: jax.Array  # [E, G, D] float32
    numbers: jax.Array  # [E, G] int32, equal for equal texts; 0: there is none
    rights: jax.Array  # [E, P] int32, the numbers of the query's right texts; 0: there is none
    scores: jax.Array  # [E] float32


@dataclasses.dataclass(frozen=True, eq=False)
class BatchLoss:
    """A loss of all vectors of a batch.

    Attributes:
      vectors: params, rows with their `row_numbers` in the batch, dropout key (None: no dropout) ->
        vectors, [rows, N, D] float32.
      totals: the vectors of the whole batch, its fields -> the loss and all totals. Both may have
        more axes of rows than one.
    """

    vectors: Callable[[Params, Batch, jax.Array | None], jax.Array]
    totals: Callable[[jax.Array, Batch], tuple[jax.Array, Totals]]


def make_vector_loss(
    model: VectorModel,
    settings: VectorsConfig,
    *,
    examples: int,
    columns: int,
    mesh: Mesh | None = None,
) -> BatchLoss:
    """Returns the loss of a `VectorModel`: the mean over all widths.

    Args:
      model: gives the vectors.
      settings: the loss.
      examples: E, in a batch, at most.
      columns: G.
      mesh: whose devices share the similarities, by rows; None: each run has a device of its own.
    """
    groups = row_groups(mesh) if mesh else 1
    examples = -(-examples // groups) * groups
    own_width = model.config.width
    widths = [width for width in vector_widths(settings.widths) if width < own_width] + [own_width]
    totals_of = _TOTALS[settings.loss]

    def by_rows(x: jax.Array) -> jax.Array:
        if mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH_SPEC))

    def totals(vectors: jax.Array, batch: Batch) -> tuple[jax.Array, Totals]:
        texts = gather_texts(vectors, batch, examples, columns)
        found: Totals = {}
        losses = []
        for width in widths:
            narrow = texts.vectors[..., :width]
            if settings.normalised and width < own_width:
                narrow = normalised(narrow)
            found = totals_of(texts._replace(vectors=narrow), settings, by_rows)
            losses.append(mean(found["loss"]))
        return functools.reduce(jnp.add, losses) / len(losses), found

    return BatchLoss(functools.partial(_vectors, model), totals)


def _vectors(
    model: VectorModel, params: Params, batch: Batch, dropout_key: jax.Array | None
) -> jax.Array:
    """Runs the model; a row's dropout depends on its number in the batch, not on its part."""
    variables = {"params": params}
    tokens = {name: batch[name] for name in _TOKEN_FIELDS}
    if dropout_key is None:
        return model.apply(variables, tokens, deterministic=True)  # pyright: ignore

    def row(tokens: Batch, number: jax.Array) -> jax.Array:
        rngs = {"dropout": jax.random.fold_in(dropout_key, number)}
        alone = {name: field[None] for name, field in tokens.items()}
        return model.apply(variables, alone, deterministic=False, rngs=rngs)[0]  # pyright: ignore

    return jax.vmap(row, spmd_axis_name=row_axes())(tokens, batch["row_numbers"])


def gather_texts(vectors: jax.Array, batch: Batch, examples: int, columns: int) -> BatchTexts:
    """Collects the texts of a batch from the slots of its rows, onto every device.

    Args:
      vectors: [..., N, D] float32.
      batch: `places` [..., N] int32, 1 + example G + column, and 0 for an empty slot;
        `text_numbers` [..., N], `right_numbers` [..., N, P] int32, `labels` [..., N] float32.
      examples: E.
      columns: G.
    """
    places = batch["places"].reshape(-1)

    def placed(field: jax.Array) -> jax.Array:
        values = field.reshape(len(places), *field.shape[batch["places"].ndim :])
        table = jnp.zeros((1 + examples * columns, *values.shape[1:]), values.dtype)
        # Every place has one text, so the sum is exact; place 0 takes what is in empty slots.
        return table.at[places].add(values)[1:].reshape(examples, columns, *values.shape[1:])

    return BatchTexts(
        placed(vectors),
        placed(batch["text_numbers"]),
        placed(batch["right_numbers"])[:, 0],
        placed(batch["labels"])[:, 0],
    )


def counted_pairs(texts: BatchTexts, by_rows: ByRows = lambda x: x) -> jax.Array:
    """Tells which texts a query is compared with: its right text, and all that are wrong.

    What the file calls right for the query, and a text equal to the query, is not wrong.

    Args:
      texts: of the batch.
      by_rows: keeps rows on their devices.

    Returns:
      [E, C] bool; the right text of example i is column i, and wrong texts follow.
    """
    asked = by_rows(texts.numbers[:, 0])[:, None]
    candidates = _candidates(texts.numbers)[None, :]

    def add(known: jax.Array, rights: jax.Array) -> tuple[jax.Array, None]:
        return known | (candidates == rights[:, None]), None

    known, _ = jax.lax.scan(add, candidates == asked, by_rows(texts.rights).T)
    present = (asked > 0) & (candidates > 0)
    return present & (~known | own_pairs(known.shape))


def own_pairs(shape: tuple[int, ...]) -> jax.Array:
    """Returns [E, C] bool: the column of each query's own right text."""
    return jnp.arange(shape[0])[:, None] == jnp.arange(shape[1])[None, :]


def _candidates(of_texts: jax.Array) -> jax.Array:
    """Returns the right texts of all examples, then the wrong ones: [E, G, ...] to [C, ...]."""
    return of_texts[:, 1:].swapaxes(0, 1).reshape(-1, *of_texts.shape[2:])


def contrastive_totals(texts: BatchTexts, settings: VectorsConfig, by_rows: ByRows) -> Totals:
    """The cross-entropy of the right text among all that are compared (van den Oord et al., 2018).

    Returns:
      `loss`, in nats; if symmetric, the mean with that of the right text's query among all queries.
      `accuracy`: of the right text being nearer than all others. `negatives`: others for a query.
    """
    queries = by_rows(texts.vectors[:, 0])
    products = jnp.einsum("ed,cd->ec", queries, _candidates(texts.vectors), precision=_EXACT)
    logits = by_rows(products) / settings.temperature
    counted = counted_pairs(texts, by_rows)
    own, present = own_pairs(logits.shape), texts.numbers[:, 0] > 0
    weight = jnp.sum(present.astype(jnp.float32))
    right = jnp.sum(jnp.where(own, logits, 0), axis=1)
    shown = jnp.where(counted, logits, _HIDDEN)
    losses = jax.nn.logsumexp(shown, axis=1) - right
    if settings.symmetric:
        back = jax.nn.logsumexp(shown[:, : len(right)], axis=0) - right
        losses = (losses + back) / 2
    nearest = jnp.max(jnp.where(own, _HIDDEN, shown), axis=1)
    others = jnp.sum(counted, axis=1) - 1

    def total(values: jax.Array) -> Total:
        return Total(jnp.sum(jnp.where(present, values, 0)), weight)

    return {
        "loss": total(losses),
        "accuracy": total((nearest < right).astype(jnp.float32)),
        "negatives": total(others.astype(jnp.float32)),
    }


def _cosines(texts: BatchTexts) -> jax.Array:
    """Returns the cosine of the first two texts of each example, [E] float32."""
    vectors = normalised(texts.vectors[:, :2])
    return jnp.sum(vectors[:, 0] * vectors[:, 1], axis=-1)


def cosine_totals(texts: BatchTexts, settings: VectorsConfig, by_rows: ByRows) -> Totals:
    """The squared error of the cosine (Reimers and Gurevych, 2019, section 3).

    Returns:
      `loss`, the mean over the pairs.
    """
    del by_rows
    present = texts.numbers[:, 0] > 0
    errors = _cosines(texts) - texts.scores / settings.highest_score
    squares = jnp.sum(jnp.where(present, jnp.square(errors), 0))
    return {"loss": Total(squares, jnp.sum(present.astype(jnp.float32)))}


def cosent_totals(texts: BatchTexts, settings: VectorsConfig, by_rows: ByRows) -> Totals:
    """The log of 1 plus a term for two pairs with different scores each (Su, 2022).

    The term is exp((cosine of the lower score - cosine of the higher score) / temperature).

    Returns:
      `loss`, one number for the batch.
    """
    near, present = _cosines(texts) / settings.temperature, texts.numbers[:, 0] > 0
    scores = texts.scores
    counted = present[:, None] & present[None, :] & (by_rows(scores)[:, None] < scores[None, :])
    terms = jnp.where(counted, by_rows(near)[:, None] - near[None, :], _HIDDEN)
    rows = jax.nn.logsumexp(terms, axis=1)
    return {"loss": Total(jax.nn.logsumexp(jnp.append(rows, 0.0)), jnp.ones(()))}


_TOTALS = {
    VectorLoss.CONTRASTIVE: contrastive_totals,
    VectorLoss.SIMCSE: contrastive_totals,
    VectorLoss.COSINE: cosine_totals,
    VectorLoss.COSENT: cosent_totals,
}
