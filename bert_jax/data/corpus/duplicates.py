"""Which documents are exact copies of an earlier one, found in bounded memory."""

from collections.abc import Callable, Iterable

import numpy as np

DIGEST_BYTES = 16

# Documents are compared in up to eight rounds, each of a range of the digests. A round takes some
# 60 bytes for each of its documents, so that a large corpus costs about 9 bytes a document in all.
_MAX_ROUND_BITS = 3
_ROUND_BITS = 20  # a round of up to 2^20 documents is not divided


def is_first_copy(digests: Callable[[], Iterable[np.ndarray]], documents: int) -> np.ndarray:
    """Marks every document whose digest no earlier one has.

    Args:
      digests: gives them from the start each time it is called, in the order of the documents:
        arrays of [n, 16] uint8.
      documents: how many there are in all.

    Returns:
      [documents] bool.
    """
    bits = min(max((documents - 1).bit_length() - _ROUND_BITS, 0), _MAX_ROUND_BITS)
    is_first = np.ones(documents, bool)
    for wanted in range(1 << bits):
        low, high, places, begin = [], [], [], 0
        for chunk in digests():
            # The low half is even in every split; the high half decided which split it is.
            halves = np.ascontiguousarray(chunk).view(np.uint64)
            here = np.flatnonzero(halves[:, 1] & np.uint64((1 << bits) - 1) == wanted)
            high.append(halves[here, 0])
            low.append(halves[here, 1])
            places.append(here + begin)
            begin += len(chunk)
        if begin != documents:
            raise ValueError(f"{begin} digests for {documents} documents")
        if places:
            _mark(is_first, np.concatenate(high), np.concatenate(low), np.concatenate(places))
    return is_first


def _mark(is_first: np.ndarray, high: np.ndarray, low: np.ndarray, places: np.ndarray) -> None:
    order = np.lexsort((low, high))  # stable: copies stay in the order of the documents
    high, low = high[order], low[order]
    is_copy = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    is_first[places[order[1:][is_copy]]] = False
