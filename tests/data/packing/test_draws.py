"""Draws: pinned values, and the distributions that they promise."""

import hashlib

import numpy as np
import pytest

from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from tests.fixtures.data import chi_square_z

KEY, PURPOSE = DrawKey(seed=1, epoch=3, block=4), 2


def many(count: int, *, key: DrawKey = KEY, purpose: int = PURPOSE, first: int = 0) -> np.ndarray:
    return draws.random_bits(count, key, purpose, first=first)


# --- random bits


def test_random_bits_are_pinned() -> None:
    assert [f"{bits:016x}" for bits in many(3)] == [
        "79d1430fa901bfc7",
        "35facc8cf8c6acef",
        "992023591c16d782",
    ]


def test_a_longer_stream_begins_as_the_shorter():
    np.testing.assert_array_equal(many(1000)[:10], many(10))


@pytest.mark.parametrize("part", [*DrawKey._fields, "purpose"])
@pytest.mark.parametrize("step", [1, 2**20])
def test_neighbouring_streams_have_nothing_in_common(part: str, step: int) -> None:
    if part == "purpose":
        changed, purpose = KEY, PURPOSE + step
    else:
        changed, purpose = KEY._replace(**{part: getattr(KEY, part) + step}), PURPOSE
    one, other = many(20_000), many(20_000, key=changed, purpose=purpose)
    assert not len(np.intersect1d(one, other))
    # 64 fair bits differ in 32 places; the mean of n has a standard deviation of 4 / sqrt(n).
    assert abs(np.bitwise_count(one ^ other).mean() - 32) < 4 * 4 / 20_000**0.5


def test_the_largest_seed_is_allowed():
    assert not np.array_equal(many(4, key=DrawKey(2**64 - 1)), many(4, key=DrawKey(0)))


# --- integers and booleans from random bits


def test_split_u32_gives_the_high_and_the_low_half():
    high, low = draws.split_u32(np.array([0x0123456789ABCDEF], np.uint64))
    assert (int(high[0]), int(low[0])) == (0x01234567, 0x89ABCDEF)


@pytest.mark.parametrize("bound", [1, 2, 7, 100, 2**31 - 1])
def test_randint_reaches_both_ends_and_no_further(bound):
    ends = draws.randint(np.array([0, 2**32 - 1], np.uint64), bound)
    assert ends.tolist() == [0, bound - 1]


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 10**6 + 3, 2**31 + 11, 2**52 + 1, 2**53 - 1, 2**53])
def test_randint_large_reaches_both_ends_and_no_further(bound):
    ends = draws.randint_large(np.array([0, 2**64 - 1], np.uint64), bound)
    assert ends.tolist() == [0, bound - 1]


@pytest.mark.parametrize("bound", [2, 7, 100])
@pytest.mark.parametrize("half", [0, 1])
def test_randint_is_uniform(bound, half):
    values = draws.randint(draws.split_u32(many(100_000))[half], bound)
    counts = np.bincount(values, minlength=bound)
    assert len(counts) == bound
    assert abs(chi_square_z(counts, 100_000 / bound, bound - 1)) < 4


@pytest.mark.parametrize("bound", [2, 7, 100])
def test_randint_large_is_uniform(bound):
    counts = np.bincount(draws.randint_large(many(100_000), bound), minlength=bound)
    assert len(counts) == bound
    assert abs(chi_square_z(counts, 100_000 / bound, bound - 1)) < 4


def test_bounds_may_differ_from_draw_to_draw():
    bounds = np.arange(1, 1001)
    for values in (
        draws.randint(draws.split_u32(many(1000))[0], bounds),
        draws.randint_large(many(1000), bounds),
    ):
        assert values.dtype == np.int64
        assert ((values >= 0) & (values < bounds)).all()
        assert values.max() > 900


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.1, 0.5, 0.999, 1.0])
def test_bernoulli_keeps_its_rate(rate):
    hits = draws.bernoulli(draws.split_u32(many(100_000))[1], rate).sum()
    assert abs(hits - 100_000 * rate) <= 4 * (100_000 * rate * (1 - rate)) ** 0.5


def test_bernoulli_0_is_never_and_1_is_always():
    ends = np.array([0, 2**32 - 1], np.uint64)
    assert not draws.bernoulli(ends, 0.0).any()
    assert draws.bernoulli(ends, 1.0).all()


# --- permutations


def permutation(size: int, epoch: int = 0) -> np.ndarray:
    return draws.permuted(np.arange(size), size, DrawKey(1, epoch), PURPOSE)


def test_a_permutation_is_pinned():
    order = permutation(1000)
    assert order[:6].tolist() == [334, 703, 778, 252, 149, 645]
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest()[:16] == "e1685ac14b26a328"


def test_permutations_hold_every_index_once():
    for size in range(1, 301):
        np.testing.assert_array_equal(np.sort(permutation(size)), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 5, 64, 65, 300])
def test_a_permutation_can_be_looked_up_in_parts(size):
    whole = permutation(size)
    for begin in range(0, size, 7):
        index = np.arange(begin, min(begin + 7, size))[::-1]
        part = draws.permuted(index, size, DrawKey(1), PURPOSE)
        np.testing.assert_array_equal(part, whole[index])


def test_a_large_permutation_needs_no_memory():
    size = 10**12
    places = draws.permuted(np.arange(10_000), size, DrawKey(1), PURPOSE)
    assert len(np.unique(places)) == 10_000
    assert ((places >= 0) & (places < size)).all()
    # Spread over the whole range: ten equal parts hold about a tenth each.
    counts = np.bincount(places // (size // 10), minlength=10)
    assert chi_square_z(counts, 1000, 9) < 4


@pytest.mark.parametrize("changed", ["seed", "purpose", "epoch"])
def test_seed_epoch_and_purpose_change_the_permutation(changed):
    name = {"seed": 1, "purpose": 2, "epoch": 0}
    one, other = (
        draws.permuted(np.arange(100), 100, DrawKey(each["seed"], each["epoch"]), each["purpose"])
        for each in (name, name | {changed: 3})
    )
    # Two random permutations agree in one index on average.
    assert (one == other).sum() < 8


@pytest.mark.parametrize(("size", "epochs"), [(2, 1000), (3, 1000), (5, 1000), (7, 2000)])
def test_first_two_places_are_uniform_over_epochs(size, epochs):
    pairs = np.array(
        [draws.permuted(np.arange(2), size, DrawKey(1, epoch), PURPOSE) for epoch in range(epochs)]
    )
    first = np.bincount(pairs[:, 0], minlength=size)
    assert chi_square_z(first, epochs / size, size - 1) < 4
    counts = np.zeros((size, size))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    assert not counts.diagonal().any()
    off_diagonal = counts[~np.eye(size, dtype=bool)]
    assert chi_square_z(off_diagonal, epochs / off_diagonal.size, off_diagonal.size - 1) < 4


def test_places_and_pairs_of_a_hundred_are_uniform_over_epochs():
    size, epochs = 100, 1000
    orders = np.array([permutation(size, epoch) for epoch in range(epochs)])
    assert chi_square_z(np.bincount(orders[:, 0], minlength=size), epochs / size, size - 1) < 4
    counts = np.zeros((size, size))
    np.add.at(counts, (orders[:, 0::2], orders[:, 1::2]), 1)
    off_diagonal = counts[~np.eye(size, dtype=bool)]
    expected = epochs * 50 / off_diagonal.size
    assert chi_square_z(off_diagonal, expected, off_diagonal.size - 1) < 4


# --- coins


@pytest.mark.parametrize("trials", [1, 2, 63, 64, 65, 128, 129, 1000])
def test_heads_have_the_mean_and_variance_of_fair_coins(trials):
    count = 20_000
    # Zeros and others in between must not disturb.
    mixed = np.tile([0, trials, 3], count)
    heads = draws.count_heads(mixed, KEY, PURPOSE).reshape(count, 3)
    assert not heads[:, 0].any()
    for tossed, found in ((trials, heads[:, 1]), (3, heads[:, 2])):
        assert found.min() >= 0
        assert found.max() <= tossed
        variance = tossed / 4
        assert abs(found.mean() - tossed / 2) < 4 * (variance / count) ** 0.5
        # The fourth central moment of a binomial gives the spread of a sample's variance.
        fourth = variance * (1 + 3 * (tossed - 2) / 4)
        spread = ((fourth - variance**2) / count) ** 0.5
        assert abs(found.var() - variance) <= 4 * spread + 2 * variance / count
    if trials > 3:
        assert abs(np.corrcoef(heads[:, 1], heads[:, 2])[0, 1]) < 4 / count**0.5


def test_heads_are_pinned():
    assert draws.count_heads(np.array([1, 5, 64, 65, 0, 200]), KEY, PURPOSE).tolist() == [
        0,
        2,
        26,
        36,
        0,
        101,
    ]


def test_heads_of_five_coins_have_the_binomial_distribution():
    counts = np.bincount(draws.count_heads(np.full(32_000, 5), KEY, PURPOSE), minlength=6)
    expected = 1000 * np.array([1, 5, 10, 10, 5, 1])
    assert abs(chi_square_z(counts, expected, 5)) < 4


def test_no_coins_give_no_heads():
    assert draws.count_heads(np.zeros(3, np.int64), KEY, PURPOSE).tolist() == [0, 0, 0]
    assert draws.count_heads(np.zeros(0, np.int64), KEY, PURPOSE).tolist() == []


def test_very_many_coins_are_tossed_quickly_and_fairly():
    heads = draws.count_heads(np.array([0, 10**8, 1]), KEY, PURPOSE)
    assert abs(heads[1] - 5 * 10**7) < 4 * 5000


@pytest.mark.parametrize("first", [0, 1, 3, 4, 5, 1_000])
def test_random_bits_can_be_drawn_from_any_index_on(first: int) -> None:
    np.testing.assert_array_equal(many(50, first=first), many(first + 50)[first:])


def test_the_numbers_of_purposes_are_pinned() -> None:
    """A number may be added; a changed one would change the data of every run."""
    numbers = [purpose.value for purpose in Purpose]
    assert numbers == [*range(10), 100, 101, 102]
    assert (Purpose.DOCUMENT_ORDER, Purpose.SWAP, Purpose.TASK_SUBSET) == (0, 8, 102)
