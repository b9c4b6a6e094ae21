"""Masking on the device: chooses the targets of the language model, and hides them.

Single tokens (BERT, section 3.1), whole words or spans of words (SpanBERT, section 3.1) are hidden
by one algorithm: a row is cut into units, units are chosen, their tokens are replaced.

The mask of a row is drawn from the row's name, so it does not depend on the batch that the row is
in, on accumulation, or on the mesh.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import MaskingConfig, MaskStrategy

# Rounds that look for words that still fit, after one that does not. Each round leaves less than
# the length of a word, so three suffice.
_MORE_ROUNDS = 3

_RATE_STREAM = 4  # what a row's key is folded with to draw rates


@dataclasses.dataclass(frozen=True)
class MaskVocabulary:
    """The properties of a tokenizer that masking needs."""

    special_ids: tuple[int, ...]  # never chosen, never drawn
    mask_id: int  # of [MASK]
    vocab_size: int  # V of the tokenizer; random tokens are below it
    word_starts: np.ndarray  # [V] bool, `Tokenizer.word_starts`; only words and spans need it
    weights: np.ndarray | None = None  # [V] float32 above 0, of being chosen; None: all the same


def mask_rate(config: MaskingConfig, step: jax.Array | int, steps: int) -> jax.Array:
    """Returns the rate at a step, a float32 scalar: `rate` at step 0, `final_rate` at the last.

    Args:
      config: the two rates.
      step: finished steps, from 0.
      steps: of the whole run.
    """
    first, last = jnp.float32(config.rate), jnp.float32(config.final_rate)
    if config.final_rate == 0:
        return first
    done = jnp.float32(step) / max(steps - 1, 1)
    # The end is set, not computed: a compiler may divide by way of the reciprocal.
    return jnp.where(done < 1, first + (last - first) * done, last)


def masked_slots(length: int, examples: int, config: MaskingConfig) -> int:
    """Returns M, enough slots for every target of a row: a multiple of 8, or the whole row.

    Each example has at most rate x tokens + 1 targets, save where its shortest word has more.
    """
    if config.strategy is MaskStrategy.NEXT_TOKEN or config.uniform_rate:
        return length
    rate = max(config.rate, config.final_rate)
    return min(-(-(math.ceil(rate * length) + examples) // 8) * 8, length)


def mask_tokens(
    batch: dict[str, jax.Array],
    key: jax.Array,
    rate: jax.Array,
    config: MaskingConfig,
    *,
    vocabulary: MaskVocabulary,
) -> dict[str, jax.Array]:
    """Chooses targets, without replacement, and hides them.

    Tokens, words or spans are taken in random order up to max(1, round(rate x ordinary tokens))
    targets an example. Where the vocabulary has weights, each next token is taken with a chance in
    proportion to its weight among those that are left. A span that no longer fits gives its first
    words, and a word that does not fit is skipped; where not even the shortest word of the example
    fits, it is taken all the same, or as much of it as the row has slots for. An example without an
    ordinary token has no target.
    A target is replaced by [MASK], by a random ordinary token, or left as it is, which is decided
    once for a span; its label is the original token in all three cases.

    With `uniform_rate` each example draws a rate of its own. With `weigh_by_rate` a target weighs
    the ordinary tokens of its example over its targets, so that those weigh as much as the tokens.

    With NEXT_TOKEN, each token that has another one of its example after it has that for a label,
    in the slot of its own place, and nothing is hidden.

    Args:
      batch: with `token_ids`, `example_ids` [B, T], `pool_positions` [B, N], `row_ids` [B, 2].
      key: the run's masking key.
      rate: float32 scalar, at most the larger of the two of `config`; see `mask_rate`. Not read
        with `uniform_rate`.
      config: the strategy and its shares.
      vocabulary: of the tokenizer.

    Returns:
      The batch with corrupted `token_ids`, and `mlm_positions` [B, M] int32 (ascending; unused
      slots 0), `mlm_labels` [B, M] int32 (unused slots 0) and `mlm_weights` [B, M] float32.
    """
    if config.strategy is MaskStrategy.NEXT_TOKEN:
        return batch | _next_tokens(batch["token_ids"], batch["example_ids"])
    examples = batch["pool_positions"].shape[1]
    mask_row = functools.partial(
        _mask_row,
        rate=rate,
        config=config,
        vocabulary=vocabulary,
        examples=examples,
        slots=masked_slots(batch["token_ids"].shape[1], examples, config),
    )
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, row[0]), row[1]))(
        batch["row_ids"]
    )
    return batch | jax.vmap(mask_row)(keys, batch["token_ids"], batch["example_ids"])


def _next_tokens(token_ids: jax.Array, example_ids: jax.Array) -> dict[str, jax.Array]:
    """Makes each token's successor its label: token_ids and example_ids [B, T]."""
    following, example = (
        jnp.pad(field[:, 1:], ((0, 0), (0, 1))) for field in (token_ids, example_ids)
    )
    used = (example_ids > 0) & (example == example_ids)
    places = jnp.arange(token_ids.shape[1], dtype=jnp.int32)[None]
    return {
        "mlm_positions": jnp.where(used, places, 0),
        "mlm_labels": jnp.where(used, following, 0),
        "mlm_weights": used.astype(jnp.float32),
    }


def _mask_row(
    key: jax.Array,
    token_ids: jax.Array,
    example_ids: jax.Array,
    *,
    rate: jax.Array,
    config: MaskingConfig,
    vocabulary: MaskVocabulary,
    examples: int,
    slots: int,
) -> dict[str, jax.Array]:
    """Masks one row: token_ids and example_ids [T]."""
    length = token_ids.shape[0]
    choice_key, action_key, random_key, span_key = jax.random.split(key, 4)
    is_special = functools.reduce(jnp.logical_or, [token_ids == i for i in vocabulary.special_ids])
    owner = jnp.where(is_special, 0, example_ids)

    if config.uniform_rate:
        rate = jax.random.uniform(jax.random.fold_in(key, _RATE_STREAM), (examples + 1,))
    counts = jnp.sum(_members(owner, examples), axis=1, dtype=jnp.int32)
    quotas = jnp.round(rate * counts.astype(jnp.float32)).astype(jnp.int32)
    quotas = jnp.where(counts > 0, jnp.maximum(quotas, 1), 0)
    units, parts = _cut_row(span_key, token_ids, owner, config, vocabulary)
    parts, quotas = _raise_quota_to_shortest_unit(parts, quotas, slots)
    if vocabulary.weights is None:
        draws = jax.random.bits(choice_key, (length,), jnp.uint32)[units.first]
    else:  # ascending exponential times: a weighted sample (Efraimidis and Spirakis, 2006)
        draws = jax.random.exponential(choice_key, (length,))
        draws /= jnp.asarray(vocabulary.weights)[token_ids]
    more = 0 if config.strategy is MaskStrategy.TOKENS else _MORE_ROUNDS
    chosen = _choose([units] + more * [parts], parts.owner, quotas, draws)

    positions = jnp.sort(chosen)[:slots]
    is_used = positions < length
    positions = jnp.where(is_used, positions, 0)
    labels = jnp.where(is_used, token_ids[positions], 0)

    if config.strategy is MaskStrategy.SPANS:
        action = jax.random.uniform(action_key, (length,))[units.first[positions]]
    else:
        action = jax.random.uniform(action_key, (slots,))
    ordinary = _ordinary_tokens(random_key, slots, vocabulary)
    replaced = jnp.where(
        action < config.mask_share,
        vocabulary.mask_id,
        jnp.where(action < config.mask_share + config.random_share, ordinary, labels),
    )
    # Unused slots write outside the row, which drops them.
    targets = jnp.where(is_used, positions, length)
    weights = is_used.astype(jnp.float32)
    if config.weigh_by_rate:
        owners = jnp.where(is_used, owner[positions], 0)
        found = jnp.zeros_like(counts).at[owners].add(1)
        weights *= (counts / jnp.maximum(found, 1))[owners]
    return {
        "token_ids": token_ids.at[targets].set(replaced, mode="drop"),
        "mlm_positions": positions,
        "mlm_labels": labels,
        "mlm_weights": weights,
    }


class _Units(NamedTuple):
    """Units, tokens that are chosen together, by token: [T] int32 each."""

    owner: jax.Array  # the example; 0 where the token is never chosen
    first: jax.Array  # the place of the unit's first token
    size: jax.Array  # tokens in the unit


def word_begins(token_ids: jax.Array, owner: jax.Array, word_starts: np.ndarray) -> jax.Array:
    """Returns the word starts: after tokens that cannot be chosen, and where the piece is one.

    Args:
      token_ids: [T] int32.
      owner: [T] int32, the example of each token; 0 where the token is never chosen.
      word_starts: [V] bool.

    Returns:
      [T] bool, False where `owner` is 0.
    """
    return (owner > 0) & (_enters(owner) | jnp.asarray(word_starts)[token_ids])


def span_begins(
    key: jax.Array, words: jax.Array, owner: jax.Array, config: MaskingConfig
) -> jax.Array:
    """Returns the words that begin a span: spans fill the text, and none crosses a special token.

    Each word begins one with the chance `span_stop_rate`, and so does each that would make a span
    longer than `span_longest` words: as the draws have no memory, the lengths are geometric and
    clipped there. Their mean is 4.5 words by default; the published law, which leaves out what is
    longer instead of clipping it, has 3.8.

    Args:
      key: a jax key.
      words: [T] bool, where words begin.
      owner: [T] int32, the example of each token; 0 where the token is never chosen.
      config: the law of the lengths.

    Returns:
      [T] bool, a part of `words`.
    """
    stops = jax.random.uniform(key, words.shape) < config.span_stop_rate
    number = jnp.cumsum(words, dtype=jnp.int32)
    since = number - jax.lax.cummax(jnp.where(words & (stops | _enters(owner)), number, 0))
    return words & (since % config.span_longest == 0)


def _enters(owner: jax.Array) -> jax.Array:
    """Returns the starts of runs of tokens with one owner."""
    return owner != jnp.pad(owner[:-1], (1, 0))


def _members(owner: jax.Array, examples: int) -> jax.Array:
    """Returns the maskable tokens of each example, [N + 1, T] bool; row 0 has none."""
    names = jnp.arange(examples + 1, dtype=jnp.int32)
    return (owner[None, :] == names[:, None]) & (owner > 0)[None, :]


def _units(owner: jax.Array, begins: jax.Array) -> _Units:
    """Cuts a row before each place that begins a unit; tokens never chosen stand alone."""
    places = jnp.arange(owner.shape[0], dtype=jnp.int32)
    cut = begins | (owner == 0)
    first = jax.lax.cummax(jnp.where(cut, places, 0))
    is_last = jnp.pad(cut[1:], (0, 1), constant_values=True)
    last = jax.lax.cummin(jnp.where(is_last, places, owner.shape[0]), reverse=True)
    return _Units(owner, first, last - first + 1)


def _cut_row(
    key: jax.Array,
    token_ids: jax.Array,
    owner: jax.Array,
    config: MaskingConfig,
    vocabulary: MaskVocabulary,
) -> tuple[_Units, _Units]:
    """Returns the units to sample, and the sub-units that a span may be truncated to."""
    if config.strategy is MaskStrategy.TOKENS:
        # Not by `_units`: compilers would fold its scans of constants, for minutes.
        places = jnp.arange(owner.shape[0], dtype=jnp.int32)
        tokens = _Units(owner, places, jnp.ones_like(places))
        return tokens, tokens
    begins = word_begins(token_ids, owner, vocabulary.word_starts)
    words = _units(owner, begins)
    if config.strategy is MaskStrategy.WHOLE_WORDS:
        return words, words
    return _units(owner, span_begins(key, begins, owner, config)), words


def _raise_quota_to_shortest_unit(
    parts: _Units, quotas: jax.Array, slots: int
) -> tuple[_Units, jax.Array]:
    """Raises quotas that not even the shortest part fits, as far as the row has slots.

    A part that is still too long, a word of a hundred pieces say, is cut to its first tokens.
    """
    length = parts.size.shape[0]
    members = _members(parts.owner, quotas.shape[0] - 1)
    shortest = jnp.min(jnp.where(members, parts.size[None, :], length), axis=1)
    wanted = jnp.where(quotas > 0, jnp.maximum(shortest - quotas, 0), 0)
    spare = slots - jnp.sum(quotas) - (jnp.cumsum(wanted) - wanted)
    quotas = quotas + jnp.clip(spare, 0, wanted)
    most = jnp.where(shortest > quotas, quotas, length)[parts.owner]
    places = jnp.arange(length, dtype=jnp.int32)
    owner = jnp.where(places - parts.first < most, parts.owner, 0)
    return _Units(owner, parts.first, jnp.minimum(parts.size, most)), quotas


def _choose(
    rounds: list[_Units], owner: jax.Array, quotas: jax.Array, draws: jax.Array
) -> jax.Array:
    """Takes units in random order while they fit.

    Args:
      rounds: the units of each round, which takes them up to the first that does not fit; those of
        a later round are parts of those of an earlier one.
      owner: [T] int32, the example of each token; 0 where the token is never chosen.
      quotas: [N + 1] int32, the number of tokens that each example may lose.
      draws: [T], equal inside a unit of the first round; they set the order.

    Returns:
      [T] int32, the places of the chosen tokens, in no order, and T for every other token.
    """
    places = jnp.arange(owner.shape[0], dtype=jnp.int32)
    # Equal draws keep the order of places, so the tokens of a unit always stand together.
    owner, _, order = jax.lax.sort((owner, draws, places), num_keys=2)
    members = _members(owner, quotas.shape[0] - 1)
    taken, left = jnp.zeros(places.shape, bool), quotas
    for units in rounds:
        size, following = units.size[order], (units.first + units.size - 1 - places)[order]
        # What is too long now will not fit later either.
        able = ~taken & (owner > 0) & (size <= left[owner])
        counts = jnp.sum(members & able[None, :], axis=1, dtype=jnp.int32)
        before = jnp.cumsum(counts) - counts
        unit_end = jnp.cumsum(able, dtype=jnp.int32) - before[owner] + following
        fits = able & (unit_end <= left[owner])
        left = left - jnp.sum(members & fits[None, :], axis=1, dtype=jnp.int32)
        taken = taken | fits
    return jnp.where(taken, order, places.shape[0])


def _ordinary_tokens(key: jax.Array, slots: int, vocabulary: MaskVocabulary) -> jax.Array:
    """Draws ids uniformly from all that are not special, [slots] int32."""
    special_ids = vocabulary.special_ids
    tokens = jax.random.randint(key, (slots,), 0, vocabulary.vocab_size - len(special_ids))
    for special in sorted(special_ids):  # step over the special ids
        tokens = tokens + (tokens >= special)
    return tokens
