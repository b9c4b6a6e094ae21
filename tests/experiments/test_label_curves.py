"""The labels that one series of a study saves another."""

import math

import numpy as np
import pytest

from experiments.label_curves import Line, equal_labels
from experiments.statistics import estimate
from experiments.summary import Cell


def line(scores: dict[int, list[float]]) -> Line:
    """Returns labels -> the scores of seeds 0, 1, ... as a line."""
    return [(n, Cell(dict(enumerate(each)), estimate(each), n)) for n, each in scores.items()]


def test_labels_are_read_off_the_other_line_over_their_logarithm() -> None:
    other = line({100: [0.2, 0.3], 1000: [0.6, 0.5], 4000: [0.7, 0.8]})
    (found,) = equal_labels(line({50: [0.4, 0.65]}), other, "task/f1")
    # Seed 0 is halfway from 100 to 1,000, seed 1 halfway from 1,000 to 4,000.
    needed = np.log([100 * math.sqrt(10), 2000])
    np.testing.assert_allclose(found.mean, np.exp(needed.mean()))
    half = estimate(needed.tolist()).half_width
    np.testing.assert_allclose([found.low, found.high], np.exp(needed.mean() + [-half, half]))
    assert found.labels == 50


def test_the_first_point_that_reaches_a_score_counts() -> None:
    other = line({100: [0.2], 200: [0.6], 400: [0.5], 800: [0.9]})
    (found,) = equal_labels(line({50: [0.55]}), other, "task/f1")
    assert 100 < found.mean < 200


@pytest.mark.parametrize(
    ("scores", "low", "high"),
    [([0.9, 0.95], math.inf, math.inf), ([0.1, 0.1], 100, 100), ([0.9, 0.6], 1000, math.inf)],
)
def test_beyond_the_ends_there_is_no_mean(scores: list[float], low: float, high: float) -> None:
    other = line({100: [0.2, 0.2], 1000: [0.6, 0.6]})
    (found,) = equal_labels(line({50: scores}), other, "task/f1")
    assert math.isnan(found.mean) and (found.low, found.high) == (low, high)


def test_a_lower_loss_is_the_better_score() -> None:
    other = line({100: [2.0], 10_000: [1.0]})
    (found,) = equal_labels(line({50: [1.5]}), other, "task/loss")
    np.testing.assert_allclose(found.mean, 1000)
    of_another_seed = [(9, Cell({7: 1.0}, estimate([1.0]), 9))]
    assert not equal_labels(line({50: [1.5]}), of_another_seed, "task/loss")
