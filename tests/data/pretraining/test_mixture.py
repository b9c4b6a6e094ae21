"""Shares of corpora in the stream of rows."""

import numpy as np
import pytest

from bert_jax.data.pretraining.mixture import _WINDOW, Mixture, parse_mixture
from bert_jax.errors import UserError

WEIGHTS = {"wiki": 3.0, "books": 1.0, "code": 0.01}


def mixture(weights: dict[str, float] = WEIGHTS, seed: int = 7, phase: int = 0) -> Mixture:
    return Mixture(weights, seed=seed, phase=phase)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("data/wiki", {"data/wiki": 1.0}),
        ("data/wiki,data/books", {"data/wiki": 1.0, "data/books": 1.0}),
        ("data/wiki=2,data/books=0.5", {"data/wiki": 2.0, "data/books": 0.5}),
        ("a=b=2", {"a=b": 2.0}),
    ],
)
def test_specifications(spec: str, expected: dict[str, float]) -> None:
    assert parse_mixture(spec) == expected


@pytest.mark.parametrize("spec", ["a=0", "a=-1", "a=nan", "a=inf", "a=x,b", "=1", "a,,b", "a=1,"])
def test_wrong_weights_are_told(spec: str) -> None:
    with pytest.raises(UserError, match="is not DIR=WEIGHT with a weight above 0"):
        parse_mixture(spec)


def test_a_directory_twice_is_told() -> None:
    with pytest.raises(UserError, match="names a directory twice"):
        parse_mixture("a=1,b=2,a=1")


def test_a_weight_of_less_than_a_row_is_told() -> None:
    with pytest.raises(UserError, match="gives b less than one row in 4096"):
        mixture({"a": 1.0, "b": 1e-4})


def test_every_window_has_each_corpus_by_its_share() -> None:
    owner, _ = mixture().split(np.arange(3 * _WINDOW))
    for window in np.split(owner, 3):
        counts = np.bincount(window)
        assert counts.sum() == _WINDOW
        exact = np.array([3, 1, 0.01]) / 4.01 * _WINDOW
        assert (np.abs(counts - exact) < 1).all()
    # In an order of its own each time, and without long runs.
    first, second = np.split(owner, 3)[:2]
    assert not np.array_equal(first, second)
    assert abs(np.corrcoef(first[:-1] == 0, first[1:] == 0)[0, 1]) < 4 / _WINDOW**0.5


def test_each_corpus_is_read_in_order_without_gaps() -> None:
    owner, place = mixture().split(np.arange(2 * _WINDOW + 50))
    for number in range(3):
        own = place[owner == number]
        np.testing.assert_array_equal(own, np.arange(len(own)))


def test_any_rows_are_found_as_in_the_whole() -> None:
    whole = mixture().split(np.arange(3 * _WINDOW))
    chosen = np.array([0, 5, _WINDOW - 1, _WINDOW, 2 * _WINDOW + 7])
    for ours, theirs in zip(mixture().split(chosen), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs[chosen])


@pytest.mark.parametrize("row", [0, 1, _WINDOW - 1, _WINDOW, 2 * _WINDOW + 100])
def test_the_rows_before_a_place_are_counted(row: int) -> None:
    owner, _ = mixture().split(np.arange(row + 1))
    np.testing.assert_array_equal(mixture().before(row), np.bincount(owner[:row], minlength=3))


def test_seeds_and_phases_differ() -> None:
    rows = np.arange(1000)
    one = mixture().split(rows)[0]
    assert not np.array_equal(one, mixture(seed=8).split(rows)[0])
    assert not np.array_equal(one, mixture(phase=1).split(rows)[0])
