"""Masking: its shares and bounds over many draws, and what the draws depend on."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

from bert_jax.config import MaskingConfig
from bert_jax.masking import mask_tokens, masked_slots
from bert_jax.training import run_key

SPECIAL_IDS = (0, 100, 101, 102, 103)  # scattered, as WordPiece has them
CLS_ID, SEP_ID, MASK_ID = 101, 102, 103
V = 1000

Batch = dict[str, Any]  # of NumPy arrays


def make_rows(rows: int, length: int = 96, examples: int = 3, seed: int = 0) -> Batch:
    """Makes rows of [CLS] ordinary... [SEP], 1 to `examples` of them, some with nothing between."""
    rng = np.random.default_rng(seed)
    token_ids = rng.choice(np.setdiff1d(np.arange(V), SPECIAL_IDS), (rows, length)).astype(np.int32)
    example_ids = np.zeros((rows, length), np.int32)
    for row in range(rows):
        begin = 0
        for example in range(1, rng.integers(1, examples + 1) + 1):
            end = begin + rng.integers(2, length // examples + 1)
            example_ids[row, begin:end] = example
            token_ids[row, [begin, end - 1]] = CLS_ID, SEP_ID
            begin = end
    row_ids = np.stack([np.full(rows, seed), np.arange(rows)], axis=1).astype(np.uint32)
    return {
        # Ordinary tokens stay where the padding is: only the example says that it is padding.
        "token_ids": token_ids,
        "example_ids": example_ids,
        "pool_positions": np.zeros((rows, examples), np.int32),
        "row_ids": row_ids,
    }


def mask(batch: Batch, key: int = 0, **rates: float) -> Batch:
    """Masks a batch, compiled; `rates` are fields of `MaskingConfig`."""
    masked = _masker(tuple(rates.items()))(batch, run_key(key))
    return {name: np.asarray(field) for name, field in masked.items()}


@functools.cache
def _masker(rates: tuple[tuple[str, float], ...]) -> Callable[..., Batch]:
    prepare = functools.partial(
        mask_tokens,
        config=MaskingConfig(**dict(rates)),
        special_ids=SPECIAL_IDS,
        mask_id=MASK_ID,
        vocab_size=V,
    )
    return jax.jit(prepare)


def ordinary(batch: Batch) -> np.ndarray:
    """Says which places may be chosen: [B, T] bool."""
    return (batch["example_ids"] > 0) & ~np.isin(batch["token_ids"], SPECIAL_IDS)


def targets(masked: Batch) -> np.ndarray:
    """Says which places are targets: [B, T] bool."""
    chosen = np.zeros(masked["token_ids"].shape, bool)
    rows, slots = np.nonzero(masked["mlm_weights"])
    chosen[rows, masked["mlm_positions"][rows, slots]] = True
    return chosen


@pytest.fixture(scope="module")
def batch() -> Batch:
    return make_rows(24_000)


@pytest.fixture(scope="module")
def masked(batch: Batch) -> Batch:
    return mask(batch)


def test_targets_are_original_tokens_at_distinct_ordinary_places(batch, masked):
    used = masked["mlm_weights"] == 1
    assert used.sum() > 1e5
    np.testing.assert_array_equal(masked["mlm_weights"][~used], 0)
    np.testing.assert_array_equal(masked["mlm_positions"][~used], 0)
    np.testing.assert_array_equal(masked["mlm_labels"][~used], 0)
    # Ascending positions: so none is there twice. Used slots come first.
    ascending = np.diff(masked["mlm_positions"], axis=1) > 0
    assert ascending[used[:, 1:]].all()
    assert (used[:, :-1] >= used[:, 1:]).all()
    assert targets(masked)[~ordinary(batch)].sum() == 0
    original = np.take_along_axis(batch["token_ids"], masked["mlm_positions"], axis=1)
    np.testing.assert_array_equal(masked["mlm_labels"][used], original[used])


def test_only_targets_change_and_only_to_mask_or_ordinary_tokens(batch, masked):
    changed = masked["token_ids"] != batch["token_ids"]
    assert not changed[~targets(masked)].any()
    drawn = masked["token_ids"][changed]
    assert not np.isin(drawn[drawn != MASK_ID], SPECIAL_IDS).any()
    assert (0 <= drawn).all() and (drawn < V).all()
    for name in batch.keys() - {"token_ids"}:
        np.testing.assert_array_equal(masked[name], batch[name])


def test_shares_are_80_10_10(batch, masked):
    chosen = targets(masked)
    after, before = masked["token_ids"][chosen], batch["token_ids"][chosen]
    draws = len(after)
    as_it_was = 0.1 / (V - len(SPECIAL_IDS))  # a random token may be the original one
    for count, share in (
        ((after == MASK_ID).sum(), 0.8),
        (((after != MASK_ID) & (after != before)).sum(), 0.1 - as_it_was),
        ((after == before).sum(), 0.1 + as_it_was),
    ):
        assert abs(count / draws - share) < 4 * np.sqrt(share * (1 - share) / draws)


def test_every_example_has_its_quota(batch, masked):
    for rate, drawn in ((0.15, masked), (0.4, mask(batch, rate=0.4))):
        empty = 0
        for example in range(1, 4):
            own = batch["example_ids"] == example
            tokens = (own & ordinary(batch)).sum(axis=1)
            rounded = np.round(np.float32(rate) * tokens.astype(np.float32))
            expected = np.where(tokens > 0, np.maximum(rounded, 1), 0)
            np.testing.assert_array_equal((own & targets(drawn)).sum(axis=1), expected)
            empty += (own.any(axis=1) & (tokens == 0)).sum()
        assert empty > 100  # witness: there are examples without an ordinary token


def test_share_of_long_examples_is_15_percent():
    batch = make_rows(500, length=512, examples=1)
    share = targets(mask(batch)).sum() / ordinary(batch).sum()
    assert abs(share - 0.15) < 0.002  # quotas are rounded, not drawn


def test_every_ordinary_place_is_as_likely():
    batch = make_rows(1, length=40, examples=1)
    batch["example_ids"][:] = 1
    many = {name: np.repeat(field, 20_000, axis=0) for name, field in batch.items()}
    many["row_ids"] = np.stack([np.arange(20_000), np.full(20_000, 3)], 1).astype(np.uint32)
    chosen = targets(mask(many))
    counts = chosen.sum(axis=0)[ordinary(batch)[0]]
    assert stats.chisquare(counts).pvalue > 1e-3
    # Nor do neighbours prefer each other, or avoid it: 5 or 6 of 38 or so without replacement.
    places, quota = ordinary(batch)[0].sum(), chosen[0].sum()
    both = quota * (quota - 1) / (places * (places - 1))
    pairs = (chosen[:, 10] & chosen[:, 11]).mean()
    assert abs(pairs - both) < 4 * np.sqrt(both / 20_000)


def test_random_tokens_are_uniform_over_ordinary_ones(batch):
    masked = mask(batch, mask_share=0.0, random_share=1.0)
    counts = np.bincount(masked["token_ids"][targets(masked)], minlength=V)
    assert counts.sum() > 1e5
    assert counts[list(SPECIAL_IDS)].sum() == 0
    assert stats.chisquare(np.delete(counts, SPECIAL_IDS)).pvalue > 1e-3


@pytest.mark.parametrize(("shares", "after"), [((1.0, 0.0), "mask"), ((0.0, 0.0), "original")])
def test_shares_may_be_0_or_1(shares, after):
    batch = make_rows(200)
    masked = mask(batch, mask_share=shares[0], random_share=shares[1])
    chosen = targets(masked)
    expected = MASK_ID if after == "mask" else batch["token_ids"][chosen]
    np.testing.assert_array_equal(masked["token_ids"][chosen], expected)


@pytest.mark.parametrize(
    ("length", "examples", "rate", "slots"),
    [
        (128, 4, 0.15, 24),
        (512, 1, 0.15, 80),
        (64, 3, 0.15, 16),
        (12, 12, 0.15, 12),
        (10, 1, 0.9, 10),
    ],
)
def test_slots_hold_the_worst_case(length, examples, rate, slots):
    assert masked_slots(length, examples, rate) == slots
    # Row after row: examples of 1, 2, 3, ... tokens, and what is left goes to the last.
    sizes = np.arange(1, length // examples + 1)
    example_ids = np.minimum(np.arange(length)[None] // sizes[:, None] + 1, examples)
    counts = (example_ids[:, :, None] == np.arange(1, examples + 1)).sum(axis=1)
    batch = make_rows(len(sizes), length, 1) | {
        "token_ids": np.full((len(sizes), length), 5, np.int32),
        "example_ids": example_ids.astype(np.int32),
        "pool_positions": np.zeros((len(sizes), examples), np.int32),
    }
    expected = np.maximum(np.round(np.float32(rate) * counts.astype(np.float32)), 1).sum(axis=1)
    np.testing.assert_array_equal(mask(batch, rate=rate)["mlm_weights"].sum(axis=1), expected)


def made(masked: Batch) -> list[np.ndarray]:
    """Picks the fields that masking decides."""
    return [masked[name] for name in ("token_ids", "mlm_positions", "mlm_labels", "mlm_weights")]


def test_the_mask_of_a_row_depends_on_its_name_alone(batch, masked):
    order = np.random.default_rng(0).permutation(24_000)[:200]
    fewer = mask({name: field[order] for name, field in batch.items()})
    for field, expected in zip(made(fewer), made(masked), strict=True):
        np.testing.assert_array_equal(field, expected[order])


@pytest.mark.parametrize("half", [0, 1])
def test_another_name_is_another_mask(batch, masked, half):
    few = {name: field[:200] for name, field in batch.items()}
    renamed = few | {"row_ids": few["row_ids"].copy()}
    renamed["row_ids"][:, half] += 1_000_000
    different = targets(mask(renamed)) != targets(masked)[:200]
    several = targets(masked)[:200].sum(axis=1) > 3
    assert different.any(axis=1)[several].mean() > 0.99


def test_another_key_is_another_mask(batch, masked):
    few = {name: field[:200] for name, field in batch.items()}
    different = targets(mask(few, key=1)) != targets(masked)[:200]
    several = targets(masked)[:200].sum(axis=1) > 3
    assert different.any(axis=1)[several].mean() > 0.99


def test_rows_of_one_text_have_masks_of_their_own():
    batch = make_rows(1, seed=4)
    assert ordinary(batch).sum() > 20
    twins = {name: np.repeat(field, 200, axis=0) for name, field in batch.items()}
    twins["row_ids"][:, 1] = np.arange(200)
    assert len(np.unique(targets(mask(twins)), axis=0)) > 150
