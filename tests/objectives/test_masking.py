"""Masking: its shares and bounds over many draws, and what the draws depend on."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bert_jax.config import MaskingConfig, MaskStrategy
from bert_jax.objectives.masking import (
    MaskVocabulary,
    mask_rate,
    mask_tokens,
    masked_slots,
    span_begins,
    word_begins,
)
from bert_jax.objectives.masking import _cut_row as cut_row  # how it is compiled is not public
from bert_jax.objectives.masking import _units as cut_before
from bert_jax.training.state import run_key

SPECIAL_IDS = (0, 100, 101, 102, 103)  # scattered, as WordPiece has them
CLS_ID, SEP_ID, MASK_ID = 101, 102, 103
V = 1000
WORD_STARTS = np.arange(V) % 3 > 0  # two thirds begin a word; the ids of a row are random
WORD_STARTS[list(SPECIAL_IDS)] = True
VOCABULARY = MaskVocabulary(SPECIAL_IDS, MASK_ID, V, WORD_STARTS)

Batch = dict[str, Any]  # of NumPy arrays
ROWS = 500  # that are masked together
DEFAULTS = {field.name: field.default for field in dataclasses.fields(MaskingConfig)}

TOKENS, WHOLE_WORDS, SPANS, NEXT_TOKEN = MaskStrategy
hiding = pytest.mark.parametrize("strategy", [TOKENS, WHOLE_WORDS, SPANS])
by_word = pytest.mark.parametrize("strategy", [WHOLE_WORDS, SPANS])


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


def mask(batch: Batch, key: int = 0, **fields: Any) -> Batch:
    """Masks a batch; `fields` are those of `MaskingConfig`.

    Many rows at a time: the mask of a row depends on its name alone, and so one compiled program
    serves batches of every size.
    """
    masker = _masker(tuple(sorted({**DEFAULTS, **fields}.items())))
    count, parts = len(batch["token_ids"]), []
    for begin in range(0, count, ROWS):
        rows = np.arange(begin, begin + ROWS) % count
        parts.append(masker({name: field[rows] for name, field in batch.items()}, run_key(key)))
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


@functools.cache
def _masker(fields: tuple[tuple[str, Any], ...]) -> Callable[..., Batch]:
    config = MaskingConfig(**dict(fields))

    @jax.jit
    def masker(batch: Batch, key: jax.Array) -> Batch:
        rate = mask_rate(config, 0, 1)
        return mask_tokens(batch, key, rate, config, vocabulary=VOCABULARY)

    return masker


def ordinary(batch: Batch) -> np.ndarray:
    """Says which places may be chosen: [B, T] bool."""
    return (batch["example_ids"] > 0) & ~np.isin(batch["token_ids"], SPECIAL_IDS)


def shifted(chosen: np.ndarray) -> np.ndarray:
    """Says of each place whether the one before it is chosen."""
    return np.pad(chosen[:, :-1], ((0, 0), (1, 0)))


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
def all_masked(batch: Batch) -> dict[MaskStrategy, Batch]:
    return {strategy: mask(batch, strategy=strategy) for strategy in (TOKENS, WHOLE_WORDS, SPANS)}


@pytest.fixture
def masked(all_masked: dict[MaskStrategy, Batch], strategy: MaskStrategy) -> Batch:
    return all_masked[strategy]


@hiding
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


@hiding
def test_only_targets_change_and_only_to_mask_or_ordinary_tokens(batch, masked):
    changed = masked["token_ids"] != batch["token_ids"]
    assert not changed[~targets(masked)].any()
    drawn = masked["token_ids"][changed]
    assert not np.isin(drawn[drawn != MASK_ID], SPECIAL_IDS).any()
    assert (0 <= drawn).all() and (drawn < V).all()
    for name in batch.keys() - {"token_ids"}:
        np.testing.assert_array_equal(masked[name], batch[name])


@hiding
def test_shares_are_80_10_10(batch, masked, strategy):
    chosen = targets(masked)
    after, before = masked["token_ids"][chosen], batch["token_ids"][chosen]
    draws = len(after)
    if strategy is SPANS:  # one draw for a span; a run of targets holds one or more of them
        runs = np.bincount(np.cumsum(chosen & ~shifted(chosen))[chosen.ravel()])
        draws = draws**2 / np.sum(runs.astype(float) ** 2)
    assert draws > (2e4 if strategy is SPANS else 1e5)
    as_it_was = 0.1 / (V - len(SPECIAL_IDS))  # a random token may be the original one
    for count, share in (
        ((after == MASK_ID).sum(), 0.8),
        (((after != MASK_ID) & (after != before)).sum(), 0.1 - as_it_was),
        ((after == before).sum(), 0.1 + as_it_was),
    ):
        assert abs(count / len(after) - share) < 4 * np.sqrt(share * (1 - share) / draws)


def test_every_example_has_its_quota(batch, all_masked):
    for rate, drawn in ((0.15, all_masked[TOKENS]), (0.4, mask(batch, rate=0.4))):
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
    assert masked_slots(length, examples, MaskingConfig(rate=rate)) == slots
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


@hiding
def test_the_mask_of_a_row_depends_on_its_name_alone(batch, masked, strategy):
    order = np.random.default_rng(0).permutation(24_000)[:200]
    fewer = mask({name: field[order] for name, field in batch.items()}, strategy=strategy)
    for field, expected in zip(made(fewer), made(masked), strict=True):
        np.testing.assert_array_equal(field, expected[order])


@hiding
@pytest.mark.parametrize("half", [0, 1])
def test_another_name_is_another_mask(batch, masked, strategy, half):
    few = {name: field[:200] for name, field in batch.items()}
    renamed = few | {"row_ids": few["row_ids"].copy()}
    renamed["row_ids"][:, half] += 1_000_000
    different = targets(mask(renamed, strategy=strategy)) != targets(masked)[:200]
    several = targets(masked)[:200].sum(axis=1) > 3
    # Long spans leave some rows one choice.
    assert different.any(axis=1)[several].mean() > (0.9 if strategy is SPANS else 0.99)


def test_another_key_is_another_mask(batch, all_masked):
    masked = all_masked[TOKENS]
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


def test_single_tokens_are_those_of_the_first_version():
    """A run that is continued keeps its masks: these digests are of the code before words."""
    places = np.arange(50 * 96).reshape(50, 96)
    token_ids = (places * 7919 % V).astype(np.int32)
    batch = {
        "token_ids": token_ids,
        "example_ids": ((places % 96 // 30 + 1) % 4).astype(np.int32),
        "pool_positions": np.zeros((50, 3), np.int32),
        "row_ids": np.stack([np.arange(50), np.full(50, 7)], axis=1).astype(np.uint32),
    }
    digests = [
        hashlib.sha256(b"".join(field.tobytes() for field in made(mask(batch, rate=rate))))
        for rate in (0.15, 0.4)
    ]
    expected = ["d3554a8967777089", "8297eac19f2aed06"]
    assert [digest.hexdigest()[:16] for digest in digests] == expected


# --- whole words and spans


def words_of(batch: Batch, row: int) -> list[tuple[int, list[int]]]:
    """Cuts a row into words by the definition: (example, places) of each."""
    token_ids, example_ids = batch["token_ids"][row], batch["example_ids"][row]
    allowed = ordinary({"token_ids": token_ids, "example_ids": example_ids})
    words = []
    for place in np.nonzero(allowed)[0]:
        before = place - 1
        goes_on = (
            place > 0
            and allowed[before]
            and example_ids[before] == example_ids[place]
            and not WORD_STARTS[token_ids[place]]
        )
        if goes_on:
            words[-1][1].append(int(place))
        else:
            words.append((int(example_ids[place]), [int(place)]))
    return words


def one_example(words: list[int], names: int, before: int = 0) -> Batch:
    """Makes [CLS] words [SEP], in rows that differ by name alone.

    Args:
      words: how many tokens each word has.
      names: rows.
      before: tokens of another example that stands in front, 0: none.
    """
    starts = np.setdiff1d(np.nonzero(WORD_STARTS)[0], SPECIAL_IDS)
    others = np.nonzero(~WORD_STARTS)[0]
    ids, example_ids = [], []
    if before:
        ids, example_ids = [CLS_ID, *starts[: before - 2], SEP_ID], [1] * before
    ids.append(CLS_ID)
    for number, size in enumerate(words):
        ids += [starts[number], *others[number : number + size - 1]]
    ids.append(SEP_ID)
    example_ids += [example_ids[-1] + 1 if before else 1] * (len(ids) - len(example_ids))
    return {
        "token_ids": np.tile(np.array(ids, np.int32), (names, 1)),
        "example_ids": np.tile(np.array(example_ids, np.int32), (names, 1)),
        "pool_positions": np.zeros((names, 2), np.int32),
        "row_ids": np.stack([np.arange(names), np.full(names, 3)], 1).astype(np.uint32),
    }


@by_word
def test_words_are_chosen_whole_and_within_the_quota(batch, masked, strategy):
    chosen, open_examples, longer = targets(masked), 0, 0
    for row in range(600):
        words = words_of(batch, row)
        for example in {example for example, _ in words}:
            own = [places for owner, places in words if owner == example]
            hits = [chosen[row, places].sum() for places in own]
            assert all(hit in (0, len(places)) for hit, places in zip(hits, own, strict=True))
            sizes = [len(places) for places in own]
            quota = max(1, round(float(np.float32(0.15) * np.float32(sum(sizes)))))
            assert 1 <= sum(hits) <= max(quota, min(sizes))
            if sum(hits) > quota:  # none fits: only the shortest, or one of them
                assert sum(hits) == min(sizes) and np.count_nonzero(hits) == 1
                longer += 1
            skipped = [size for hit, size in zip(hits, sizes, strict=True) if not hit]
            open_examples += sum(hits) + min(skipped, default=99) <= quota
    assert longer > 30  # witness: there are examples whose every word is too long
    assert open_examples == 0  # the few rounds find what fits


def test_tokens_are_not_chosen_by_word(batch, all_masked):
    """The witness of the test above."""
    chosen = targets(all_masked[TOKENS])
    words = [places for row in range(200) for _, places in words_of(batch, row)]
    rows = [row for row in range(200) for _ in words_of(batch, row)]
    hits = [chosen[row, places].mean() for row, places in zip(rows, words, strict=True)]
    assert np.mean([0 < hit < 1 for hit in hits]) > 0.05


def realistic_words(rows: int, examples: int) -> Batch:
    """Makes full rows of 512 tokens with words as in English: 1.3 pieces, 1 in 30 above three.

    Half of the rows have one example, the others `examples`.
    """
    rng = np.random.default_rng(2)
    starts = np.setdiff1d(np.nonzero(WORD_STARTS)[0], SPECIAL_IDS)
    others = np.nonzero(~WORD_STARTS)[0]
    begins = np.zeros((rows, 512), bool)
    for row in range(rows):
        sizes = rng.choice([1, 2, 3, 4, 5, 7], 512, p=[0.81, 0.11, 0.05, 0.02, 0.007, 0.003])
        ends = np.cumsum(sizes)
        begins[row, [0, *ends[ends < 512]]] = True
    ids = np.where(begins, rng.choice(starts, (rows, 512)), rng.choice(others, (rows, 512)))
    one, several = (np.arange(512) * count // 512 + 1 for count in (1, examples))
    example_ids = np.where(np.arange(rows)[:, None] % 2, several, one)
    edges = np.pad(np.diff(example_ids, axis=1), ((0, 0), (0, 1)), constant_values=1) > 0
    ids[edges] = SEP_ID
    ids[np.pad(edges[:, :-1], ((0, 0), (1, 0)), constant_values=True)] = CLS_ID
    return {
        "token_ids": ids.astype(np.int32),
        "example_ids": example_ids.astype(np.int32),
        "pool_positions": np.zeros((rows, examples), np.int32),
        "row_ids": np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.uint32),
    }


@pytest.mark.parametrize("rate", [0.15, 0.4])
@by_word
def test_the_rate_is_reached(strategy, rate):
    batch = realistic_words(200, 4)
    chosen = targets(mask(batch, strategy=strategy, rate=rate))
    for half in (slice(0, None, 2), slice(1, None, 2)):
        assert abs(chosen[half].sum() / ordinary(batch)[half].sum() / rate - 1) < 0.02


@by_word
def test_every_word_is_as_likely(strategy):
    """Words of two tokens; spans of three words, in a text of thirty."""
    batch = one_example([2] * 30, 10_000)
    chosen = targets(mask(batch, strategy=strategy, rate=0.31, span_stop_rate=0.0, span_longest=3))
    counts = chosen[:, 1:-1:2].sum(axis=0)
    units = counts if strategy is WHOLE_WORDS else counts[::3]
    np.testing.assert_array_equal(np.repeat(units, len(counts) // len(units)), counts)
    assert counts.sum() == 10_000 * 9
    # Drawn without replacement: their counts vary less than independent ones would.
    assert stats.chisquare(units).pvalue > 1e-3


def test_spans_end_where_their_law_says():
    """Lengths in words against the clipped geometric law."""
    config = MaskingConfig(span_stop_rate=0.3, span_longest=6)
    rows, length = 1500, 400
    words = np.random.default_rng(0).random((rows, length)) < 0.7
    owner = np.ones((rows, length), np.int32)
    words[:, 0] = True
    keys = jax.random.split(run_key(1), rows)
    begins = jax.vmap(lambda key, w, o: span_begins(key, w, o, config))(keys, words, owner)
    begins, counts = np.asarray(begins), np.zeros(7)
    assert not (begins & ~words).any()
    for row in range(rows):
        of_words = begins[row, words[row]]
        edges = np.nonzero(of_words)[0]
        # A span that begins near the end may be cut by it: those are left out, long or short.
        whole = edges[:-1] < len(of_words) - 6
        counts += np.bincount(np.diff(edges)[whole], minlength=7)
    shares = 0.3 * 0.7 ** np.arange(6)
    shares[5] = 0.7**5
    assert counts.sum() > 1e5 and counts[0] == 0
    assert stats.chisquare(counts[1:], shares * counts.sum()).pvalue > 1e-3
    # Of words, not of tokens: the witness is that tokens have another law.
    assert words.mean() < 0.75


def test_spans_stay_between_special_tokens():
    owner = jnp.array([0, 1, 1, 1, 0, 1, 1, 2, 2, 0, 0, 2], jnp.int32)
    words = owner > 0
    config = MaskingConfig(span_stop_rate=0.0, span_longest=2)
    begins = span_begins(run_key(0), words, owner, config)
    assert np.nonzero(begins)[0].tolist() == [1, 3, 5, 7, 11]


def test_words_begin_after_what_cannot_be_chosen():
    start, inner = 1, 3  # ids
    assert WORD_STARTS[start] and not WORD_STARTS[inner]
    ids = jnp.array([CLS_ID, inner, inner, start, inner, SEP_ID, inner, inner, start, 0], jnp.int32)
    owner = jnp.array([0, 1, 1, 1, 1, 0, 1, 2, 2, 0], jnp.int32)
    begins = word_begins(ids, owner, WORD_STARTS)
    assert np.nonzero(begins)[0].tolist() == [1, 3, 6, 7, 8]


def test_a_span_is_hidden_in_one_way_and_a_word_is_not():
    batch = one_example([2, 1, 3] * 10, 2000)
    same = {}
    for strategy in (SPANS, WHOLE_WORDS):
        fields = {"span_stop_rate": 0.0, "span_longest": 3, "mask_share": 0.5, "random_share": 0.0}
        masked = mask(batch, strategy=strategy, rate=0.4, **fields)
        units = targets(masked)[:, 1:-1].reshape(-1, 6)
        hidden = (masked["token_ids"] == MASK_ID)[:, 1:-1].reshape(-1, 6)
        if strategy is SPANS:
            assert (units.all(axis=1) == units.any(axis=1)).all()
        whole = hidden[units.all(axis=1)]
        assert len(whole) > 100
        same[strategy] = (whole == whole[:, :1]).all(axis=1).mean()
    assert same[SPANS] == 1
    assert abs(same[WHOLE_WORDS] - 2 / 2**6) < 0.06  # witness: six draws


def test_a_span_that_does_not_fit_gives_its_first_words():
    batch = one_example([1, 2] * 5, 900)
    fields = {"span_stop_rate": 0.0, "span_longest": 5}
    chosen = targets(mask(batch, strategy=SPANS, rate=0.3, **fields))[:, 1:-1]
    # Spans of 7 and 8 tokens, a quota of 4. The first gives words of 1, 2 and 1 tokens; the second
    # of 2 and 1, then its next word of 1.
    patterns, counts = np.unique(chosen, axis=0, return_counts=True)
    found = {tuple(np.nonzero(pattern)[0].tolist()) for pattern in patterns}
    assert found == {(0, 1, 2, 3), (7, 8, 9, 12)}
    assert counts.min() > 300


def test_words_longer_than_the_slots_are_cut_to_their_first_pieces():
    alone = one_example([100], 30)
    masked = mask(alone, strategy=WHOLE_WORDS)
    assert masked["mlm_weights"].shape == (30, 24)
    np.testing.assert_array_equal(masked["mlm_positions"], np.arange(1, 25)[None].repeat(30, 0))
    np.testing.assert_array_equal(masked["mlm_weights"], 1)
    # Each of several has what single tokens would have; the first takes the slots to spare.
    parts = [one_example([28], 1)["token_ids"][0] for _ in range(3)]
    row = {
        "token_ids": np.concatenate(parts)[None],
        "example_ids": np.repeat([1, 2, 3], 30)[None].astype(np.int32),
        "pool_positions": np.zeros((1, 3), np.int32),
        "row_ids": np.zeros((1, 2), np.uint32),
    }
    chosen = targets(mask(row, strategy=WHOLE_WORDS))[0].reshape(3, 30)
    assert chosen.sum(axis=1).tolist() == [16, 4, 4]
    for each in chosen:
        assert each[1 : each.sum() + 1].all()


@hiding
def test_neighbours_in_the_row_do_not_matter(strategy):
    words = [1, 2, 1, 1, 3, 1, 1, 2, 1, 4, 1, 1]
    fields = {"strategy": strategy, "rate": 0.25}
    alone = targets(mask(one_example(words, 8_000), **fields))
    packed = targets(mask(one_example(words, 8_000, before=11), **fields))[:, 11:]
    assert packed.shape == alone.shape
    counts = np.array([each[:, 1:-1].sum(axis=0) for each in (alone, packed)])
    # Tokens of a row are not independent draws: a word counts once, by its first token.
    firsts = np.cumsum([0, *words[:-1]]) if strategy is not TOKENS else np.arange(counts.shape[1])
    rates = counts[:, firsts] / 8_000
    error = np.sqrt(rates.mean(axis=0) * (1 - rates.mean(axis=0)) * 2 / 8_000)
    assert (np.abs(rates[0] - rates[1]) < 4 * error).all()
    assert (counts > 200).all()


# --- the rate of a step


@pytest.mark.parametrize(("first", "last"), [(0.3, 0.15), (0.15, 0.4), (0.1, 0.7)])
@pytest.mark.parametrize("steps", [2, 3, 49, 1_000_000])
def test_the_rate_goes_straight_from_one_end_to_the_other(first, last, steps):
    config = MaskingConfig(rate=first, final_rate=last)
    rate_at = jax.jit(lambda step: mask_rate(config, step, steps))
    assert rate_at(np.int32(0)) == np.float32(first)
    assert rate_at(np.int32(steps - 1)) == np.float32(last)
    places = np.unique(np.linspace(0, steps - 1, 9).astype(np.int32))
    rates = [float(rate_at(place)) for place in places]
    np.testing.assert_allclose(rates, first + (last - first) * places / (steps - 1), rtol=1e-6)
    assert (
        min(first, last) <= np.float32(min(rates)) + 1e-7 and max(rates) <= max(first, last) + 1e-7
    )


def test_the_rate_is_constant_without_a_final_one():
    config = MaskingConfig(rate=0.3)
    assert {float(mask_rate(config, step, 10)) for step in range(10)} == {float(np.float32(0.3))}


@pytest.mark.parametrize(("first", "last"), [(0.5, 0.15), (0.15, 0.5)])
def test_slots_are_enough_for_both_ends_of_the_rate(first, last):
    batch = make_rows(200)
    config = MaskingConfig(rate=first, final_rate=last)
    prepare = jax.jit(
        lambda step: mask_tokens(
            batch, run_key(0), mask_rate(config, step, 9), config, vocabulary=VOCABULARY
        )
    )
    for step, rate in ((0, first), (8, last)):
        masked = {name: np.asarray(field) for name, field in prepare(step).items()}
        assert masked["mlm_positions"].shape == (200, 56)
        np.testing.assert_array_equal(targets(masked), targets(mask(batch, rate=rate)))


# --- the next token


def test_next_tokens_are_the_labels_of_their_predecessors():
    batch = make_rows(300)
    masked = mask(batch, strategy=NEXT_TOKEN)
    np.testing.assert_array_equal(masked["token_ids"], batch["token_ids"])
    expected = {name: np.zeros((300, 96), np.int32) for name in ("positions", "labels", "weights")}
    ids = batch["example_ids"]
    for row in range(300):
        for place in range(95):
            if ids[row, place] and ids[row, place] == ids[row, place + 1]:
                expected["positions"][row, place] = place
                expected["labels"][row, place] = batch["token_ids"][row, place + 1]
                expected["weights"][row, place] = 1
    for name, field in expected.items():
        np.testing.assert_array_equal(masked[f"mlm_{name}"], field)
    assert masked["mlm_weights"].dtype == np.float32
    # Every token but the first of each example is predicted.
    examples = sum(len(np.unique(row[row > 0])) for row in ids)
    assert expected["weights"].sum() == (ids > 0).sum() - examples


def test_the_last_place_of_a_full_row_predicts_nothing():
    batch = make_rows(4, length=30, examples=1)
    batch["example_ids"][:] = 1
    weights = mask(batch, strategy=NEXT_TOKEN)["mlm_weights"]
    np.testing.assert_array_equal(weights.sum(axis=0), [4] * 29 + [0])


# --- weights of tokens


def test_weighted_tokens_are_drawn_without_replacement():
    weights = np.ones(V, np.float32)
    weights[[10, 11, 12, 13]] = 1, 2, 4, 9
    rows, length = 20_000, 8
    batch = {
        "token_ids": np.tile([CLS_ID, 10, 11, 12, 13, SEP_ID, 14, 15], (rows, 1)).astype(np.int32),
        "example_ids": np.tile([1, 1, 1, 1, 1, 1, 0, 0], (rows, 1)).astype(np.int32),
        "pool_positions": np.zeros((rows, 1), np.int32),
        "row_ids": np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.uint32),
    }
    vocabulary = dataclasses.replace(VOCABULARY, weights=weights)
    config = MaskingConfig(rate=0.5)
    masked = mask_tokens(batch, run_key(0), jnp.float32(0.5), config, vocabulary=vocabulary)
    chosen = targets(jax.device_get(masked))
    assert (chosen.sum(axis=1) == 2).all() and not chosen[:, [0, 5, 6, 7]].any()
    # Of both, one was taken first, and the other from what was left.
    parts = weights[10:14] / weights[10:14].sum()
    for first, second in itertools.combinations(range(4), 2):
        one, other = parts[first], parts[second]
        expected = one * other / (1 - one) + other * one / (1 - other)
        found = (chosen[:, 1 + first] & chosen[:, 1 + second]).mean()
        assert abs(found - expected) < 4 * np.sqrt(expected / rows)
    assert length == chosen.shape[1]


# --- a rate for each example, as masked diffusion has it


def shares_of_examples(batch: Batch, masked: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns tokens, targets and weight of each example that has ordinary tokens."""
    found = []
    weights = np.zeros(masked["token_ids"].shape)
    rows, slots = np.nonzero(masked["mlm_weights"])
    weights[rows, masked["mlm_positions"][rows, slots]] = masked["mlm_weights"][rows, slots]
    for example in range(1, 4):
        own = (batch["example_ids"] == example) & ordinary(batch)
        parts = [each.sum(axis=1) for each in (own, own & targets(masked), own * weights)]
        found.append(np.stack(parts, axis=1)[parts[0] > 0])
    tokens, hidden, weight = np.concatenate(found).T
    return tokens, hidden, weight


@hiding
def test_each_example_draws_its_rate_evenly_and_weighs_as_much_as_its_tokens(strategy):
    batch = make_rows(4_000, length=192)
    masked = mask(batch, strategy=strategy, uniform_rate=True, weigh_by_rate=True)
    tokens, hidden, weight = shares_of_examples(batch, masked)
    np.testing.assert_allclose(weight, tokens, rtol=1e-5)
    assert hidden.min() == 1 and (hidden == tokens).any()
    long = tokens > 40
    if strategy is TOKENS:
        assert stats.kstest(hidden[long] / tokens[long], "uniform").statistic < 0.03
    assert abs((hidden[long] / tokens[long]).mean() - 0.5) < 0.02
    # Examples of one row do not share their rate.
    one, other = ((batch["example_ids"] == n) & ordinary(batch) for n in (1, 2))
    both = (one.sum(axis=1) > 20) & (other.sum(axis=1) > 20)
    rates = [
        (own & targets(masked)).sum(axis=1)[both] / own.sum(axis=1)[both] for own in (one, other)
    ]
    assert abs(np.corrcoef(*rates)[0, 1]) < 0.1


def test_weights_without_rates_of_their_own_are_those_of_the_quota(batch):
    masked = mask(batch, weigh_by_rate=True)
    tokens, hidden, weight = shares_of_examples(batch, masked)
    np.testing.assert_allclose(weight, tokens, rtol=1e-5)
    np.testing.assert_array_equal(hidden, np.maximum(np.round(0.15 * tokens.astype(np.float32)), 1))


def test_the_rows_have_a_slot_for_every_token():
    assert masked_slots(128, 4, MaskingConfig(uniform_rate=True)) == 128


def test_single_tokens_are_cut_without_a_scan_of_constants():
    """XLA would compute the scan while it compiles for GPUs, for minutes where rows are many."""
    owner = jnp.asarray([0, 1, 1, 0, 0, 2, 2, 2, 0], jnp.int32)
    tokens = jnp.arange(owner.shape[0], dtype=jnp.int32)
    key, config = jax.random.key(0), MaskingConfig(strategy=TOKENS)

    def units(owner: jax.Array) -> Any:
        return cut_row(key, tokens, owner, config, VOCABULARY)

    expected = cut_before(owner, jnp.ones(owner.shape, bool))
    jax.tree.map(np.testing.assert_array_equal, units(owner), (expected, expected))
    assert "cummax" not in str(jax.make_jaxpr(units)(owner))
    assert "cummax" in str(jax.make_jaxpr(lambda owner: cut_before(owner, owner > 0))(owner))
