"""Some of a task, drawn by a seed: of classes by their shares, or as many examples of each."""

import numpy as np

from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose


def drawing_order(examples: int, seed: int, classes: np.ndarray | None = None) -> np.ndarray:
    """Returns the order in which a seed draws examples: the first n are what n examples are.

    With classes, any n examples have each class by its share of all (the quotients of
    Sainte-Laguë), and one example of each class, the most frequent first, comes before all others.

    Args:
      examples: number of them, I.
      seed: of the run.
      classes: [I] int, the class of each; None: they have none.

    Returns:
      [I] int64, a permutation of their numbers.
    """
    bits = draws.random_bits(examples, DrawKey(seed), Purpose.TASK_SUBSET)
    order = bits.argsort()
    if classes is None:
        return order
    own = classes[order]
    counts = np.bincount(own)
    ranks = _ranks(own)
    quotients = np.where(ranks > 0, (ranks + 0.5) / counts[own], -1.0)
    return order[np.lexsort((own, -counts[own], quotients))]


def of_each_class(order: np.ndarray, classes: np.ndarray, wanted: int) -> np.ndarray:
    """Returns the first examples of each class in an order; all of a class that has fewer.

    Args:
      order: [I] int64, of `drawing_order`.
      classes: [I] int, the class of each example, by its number.
      wanted: number of each class.
    """
    return order[_ranks(classes[order]) < wanted]


def _ranks(classes: np.ndarray) -> np.ndarray:
    """Returns how many of an entry's class come before it, [I] int64."""
    by_class = classes.argsort(kind="stable")
    counts = np.bincount(classes)
    firsts = np.cumsum(counts) - counts
    ranks = np.empty(len(classes), np.int64)
    ranks[by_class] = np.arange(len(classes)) - firsts[classes[by_class]]
    return ranks
