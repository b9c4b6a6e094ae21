"""Runs of different lengths, laid end to end."""

import numpy as np


def exclusive_cumsum(lengths: np.ndarray) -> np.ndarray:
    """Returns where each run begins: [n] int to [n] int64."""
    return np.cumsum(lengths) - lengths


def ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Joins range(begin, begin + length) of every run: [n] and [n] to [sum of lengths] int64."""
    return np.arange(int(lengths.sum())) + np.repeat(begins - exclusive_cumsum(lengths), lengths)
