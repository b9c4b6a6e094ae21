"""Ragged arrays: runs of different lengths, stored end to end."""

import numpy as np


def exclusive_cumsum(lengths: np.ndarray) -> np.ndarray:
    """Returns the begin of each run, given the lengths: [n] int to [n] int64."""
    return np.cumsum(lengths) - lengths


def ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenates range(begin, begin + length) of all runs: [n], [n] to [sum(lengths)] int64."""
    return np.arange(int(lengths.sum())) + np.repeat(begins - exclusive_cumsum(lengths), lengths)
