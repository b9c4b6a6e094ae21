"""Which examples a seed draws."""

import numpy as np
import pytest

from bert_jax.data.packing.subsets import drawing_order, of_each_class

SHARES = (0.62, 0.25, 0.115, 0.015)


@pytest.fixture
def classes() -> np.ndarray:
    """The classes of 1,000 examples, one of them rare."""
    counts = [round(1000 * share) for share in SHARES]
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(SHARES)), counts))


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_drawn_by_their_shares(seed: int, classes: np.ndarray) -> None:
    order = drawing_order(1000, seed, classes)
    assert sorted(order) == list(range(1000))
    for drawn in (50, 100, 333, 999):
        counts = np.bincount(classes[order[:drawn]], minlength=len(SHARES))
        np.testing.assert_allclose(counts, np.maximum(np.multiply(SHARES, drawn), 1), atol=1.01)


def test_the_most_frequent_classes_come_first(classes: np.ndarray) -> None:
    assert list(classes[drawing_order(1000, 3, classes)[:4]]) == [0, 1, 2, 3]


def test_seeds_draw_others_and_each_example_as_often(classes: np.ndarray) -> None:
    firsts = [drawing_order(1000, seed, classes)[:100] for seed in range(400)]
    assert not np.array_equal(firsts[0], firsts[1])
    times = np.bincount(np.concatenate(firsts), minlength=1000)
    for number in range(len(SHARES)):
        of_class = times[classes == number]
        mean = of_class.mean()
        assert abs(of_class - mean).max() < 5 * np.sqrt(mean)  # of a Poisson distribution


def test_without_classes_all_are_alike() -> None:
    order = drawing_order(101, 7)
    assert sorted(order) == list(range(101)) and list(order) != list(range(101))


def test_as_many_of_each_class_or_all_of_it(classes: np.ndarray) -> None:
    order = drawing_order(1000, 1, classes)
    drawn = of_each_class(order, classes, 16)
    assert list(np.bincount(classes[drawn])) == [16, 16, 16, 15]
    assert set(of_each_class(order, classes, 3)) < set(drawn)
