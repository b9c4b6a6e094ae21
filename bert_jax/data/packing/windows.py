"""Overlapping windows over texts that are longer than a row."""

import numpy as np


def window_bounds(tokens: int, most: int, stride: int) -> np.ndarray:
    """Covers a text with overlapping windows.

    Args:
      tokens: number of tokens in the text.
      most: tokens in a window, at least 1.
      stride: tokens from the begin of one window to the begin of the next, from 1 to `most`.

    Returns:
      [W, 2] int64, begin and end of each window, W at least 1. If W > 1 each has exactly `most`
      tokens: the last one is moved back to end with the text.
    """
    last = max(tokens - most, 0)
    begins = np.append(np.arange(0, last, stride), last)
    return np.stack([begins, np.minimum(begins + most, tokens)], axis=1)


def most_context(bounds: np.ndarray) -> np.ndarray:
    """Chooses for each token the window with the most context on its shorter side.

    At the begin and the end of the text a token misses no context, so that side does not count.

    Args:
      bounds: [W, 2] int64, from `window_bounds`.

    Returns:
      [tokens] int64 in [0, W); of equally good windows the first.
    """
    tokens = int(bounds[-1, 1])
    best, chosen = np.full(tokens, -1), np.zeros(tokens, np.int64)
    for number, (begin, end) in enumerate(bounds.tolist()):
        at = np.arange(begin, end)
        left = at - begin if begin else np.full_like(at, tokens)
        right = end - 1 - at if end < tokens else np.full_like(at, tokens)
        context = np.minimum(left, right)
        better = context > best[begin:end]
        chosen[begin:end][better] = number
        best[begin:end][better] = context[better]
    return chosen
