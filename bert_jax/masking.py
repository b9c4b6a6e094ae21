"""The corruption of the masked language model, on the device (BERT, section 3.1).

The mask of a row is drawn from the row's name, so it does not depend on the batch that the row is
in, on accumulation, or on the mesh.
"""

import functools
import math

import jax
import jax.numpy as jnp

from bert_jax.config import MaskingConfig


def masked_slots(length: int, examples: int, rate: float) -> int:
    """Returns M, enough slots for every target of a row: a multiple of 8, or the whole row.

    Each example has at most rate x tokens + 1 targets.
    """
    return min(-(-(math.ceil(rate * length) + examples) // 8) * 8, length)


def mask_tokens(
    batch: dict[str, jax.Array],
    key: jax.Array,
    config: MaskingConfig,
    *,
    special_ids: tuple[int, ...],
    mask_id: int,
    vocab_size: int,
) -> dict[str, jax.Array]:
    """Chooses targets, without replacement, and hides them.

    Each example has max(1, round(rate x its ordinary tokens)) targets, and none where it has no
    ordinary token. A target is replaced by [MASK], by a random ordinary token, or left as it is;
    its label is the original token in all three cases.

    Args:
      batch: with `token_ids`, `example_ids` [B, T], `pool_positions` [B, N], `row_ids` [B, 2].
      key: the run's masking key.
      config: rates.
      special_ids: never chosen, never drawn.
      mask_id: the id of [MASK].
      vocab_size: size of the tokenizer's vocabulary; random tokens are below it.

    Returns:
      The batch with corrupted `token_ids`, and `mlm_positions` [B, M] int32 (ascending; unused
      slots 0), `mlm_labels` [B, M] int32 (unused slots 0) and `mlm_weights` [B, M] float32.
    """
    examples = batch["pool_positions"].shape[1]
    mask_row = functools.partial(
        _mask_row,
        config=config,
        examples=examples,
        slots=masked_slots(batch["token_ids"].shape[1], examples, config.rate),
        special_ids=special_ids,
        mask_id=mask_id,
        vocab_size=vocab_size,
    )
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(
        batch["row_ids"]
    )
    return batch | jax.vmap(mask_row)(keys, batch["token_ids"], batch["example_ids"])


def _mask_row(
    key: jax.Array,
    token_ids: jax.Array,
    example_ids: jax.Array,
    *,
    config: MaskingConfig,
    examples: int,
    slots: int,
    special_ids: tuple[int, ...],
    mask_id: int,
    vocab_size: int,
) -> dict[str, jax.Array]:
    """Masks one row: token_ids and example_ids [T]."""
    length = token_ids.shape[0]
    choice_key, action_key, random_key = jax.random.split(key, 3)
    is_special = functools.reduce(jnp.logical_or, [token_ids == i for i in special_ids])
    maskable = (example_ids > 0) & ~is_special

    # Sort the maskable tokens of each example by a random number: a token's place in that order is
    # its rank, and the first `quota` ranks of each example are targets.
    owner = jnp.where(maskable, example_ids, examples + 1)
    draws = jax.random.bits(choice_key, (length,), jnp.uint32)
    places = jnp.arange(length, dtype=jnp.int32)
    owner, _, order = jax.lax.sort((owner, draws, places), num_keys=2)
    names = jnp.arange(examples + 2, dtype=jnp.int32)
    counts = jnp.sum(owner[None, :] == names[:, None], axis=1, dtype=jnp.int32)
    first = jnp.cumsum(counts) - counts
    quota = jnp.round(config.rate * counts.astype(jnp.float32)).astype(jnp.int32)
    quota = jnp.where(counts > 0, jnp.maximum(quota, 1), 0).at[examples + 1].set(0)
    is_target = places - first[owner] < quota[owner]

    positions = jnp.sort(jnp.where(is_target, order, length))[:slots]
    weights = positions < length
    positions = jnp.where(weights, positions, 0)
    labels = jnp.where(weights, token_ids[positions], 0)

    action = jax.random.uniform(action_key, (slots,))
    ordinary = jax.random.randint(random_key, (slots,), 0, vocab_size - len(special_ids))
    for special in sorted(special_ids):  # step over the special ids
        ordinary = ordinary + (ordinary >= special)
    replaced = jnp.where(
        action < config.mask_share,
        mask_id,
        jnp.where(action < config.mask_share + config.random_share, ordinary, labels),
    )
    # Unused slots write outside the row, which drops them.
    targets = jnp.where(weights, positions, length)
    return {
        "token_ids": token_ids.at[targets].set(replaced, mode="drop"),
        "mlm_positions": positions,
        "mlm_labels": labels,
        "mlm_weights": weights.astype(jnp.float32),
    }
