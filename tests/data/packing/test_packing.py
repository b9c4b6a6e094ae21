"""Packing: what it must keep, and how well it fills, beside an obvious slow packer."""

import numpy as np
import pytest

from bert_jax.data.packing.packing import pack


def check(lengths: np.ndarray, rows: np.ndarray, capacity: int, max_examples: int) -> int:
    """Checks that a packing is one; returns its number of rows."""
    assert rows.shape == lengths.shape
    assert rows.dtype == np.int64
    count = int(rows.max()) + 1
    held = np.bincount(rows, minlength=count)
    assert held.min() >= 1  # no gaps in the numbers
    assert held.max() <= max_examples
    assert np.bincount(rows, weights=lengths).max() <= capacity
    return count


def slow_best_fit(lengths: np.ndarray, capacity: int, max_examples: int) -> list[list[int]]:
    """Puts each, the longest first, where it leaves the least room; of equals, with the fewest."""
    rows: list[list[int]] = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [row for row in rows if sum(row) + length <= capacity and len(row) < max_examples]
        if fitting:
            min(fitting, key=lambda row: (capacity - sum(row), len(row))).append(length)
        else:
            rows.append([length])
    return rows


@pytest.mark.parametrize("max_examples", [1, 2, 3, 8, 1000])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.integers(1, 33, 400),
        lambda rng: rng.integers(1, 6, 400),
        lambda rng: rng.integers(14, 33, 400),
        lambda rng: np.minimum(1 + rng.geometric(0.15, 400), 32),
        lambda rng: rng.choice([5, 11, 16, 32], 400),
        lambda rng: np.where(rng.random(400) < 0.9, 32, rng.integers(1, 33, 400)),
    ],
    ids=["any", "short", "long", "geometric", "few lengths", "mostly full"],
)
def test_packs_as_the_slow_best_fit_does(draw, max_examples):
    for seed in range(3):
        lengths = draw(np.random.default_rng(seed))
        rows = pack(lengths, 32, max_examples)
        count = check(lengths, rows, 32, max_examples)
        slow = slow_best_fit(lengths, 32, max_examples)
        assert count == len(slow)
        # Rows with as much room and as many examples may be taken for one another.
        states = [
            (int(lengths[rows == row].sum()), int((rows == row).sum())) for row in range(count)
        ]
        assert sorted(states) == sorted((sum(row), len(row)) for row in slow)


def test_one_example_a_row_is_not_packed():
    lengths = np.array([3, 1, 1, 8, 2])
    assert sorted(pack(lengths, 8, 1).tolist()) == [0, 1, 2, 3, 4]


def test_full_rows_hold_one_example():
    assert sorted(pack(np.full(7, 16), 16, 4).tolist()) == list(range(7))


def test_what_fits_exactly_shares_a_row():
    rows = pack(np.array([10, 6, 9, 7, 16]), 16, 4)
    assert rows[0] == rows[1]
    assert rows[2] == rows[3]
    assert len(set(rows.tolist())) == 3


@pytest.mark.parametrize("max_examples", [1, 4])
def test_nothing_packs_into_nothing(max_examples):
    rows = pack(np.array([], np.int64), 16, max_examples)
    assert rows.shape == (0,)
    assert rows.dtype == np.int64


def test_one_example_packs():
    assert pack(np.array([5]), 16, 4).tolist() == [0]


def test_many_examples_fill_their_rows():
    lengths = np.random.default_rng(0).integers(5, 129, 100_000)
    count = check(lengths, pack(lengths, 128, 8), 128, 8)
    assert lengths.sum() / (count * 128) > 0.99
