"""Finds exact copies of documents in bounded memory."""

from collections.abc import Callable, Iterable

import numpy as np

DIGEST_BYTES = 16

# Documents are compared in up to eight rounds, each over a part of all digests. A round takes about
# 60 bytes for each of its documents, so that a large corpus takes about 9 bytes a document.
_MAX_ROUND_BITS = 3
_ROUND_BITS = 20  # up to 2^20 documents are compared in one round


def is_first_copy(digests: Callable[[], Iterable[np.ndarray]], documents: int) -> np.ndarray:
    """Marks the documents that are not a copy of an earlier one.

    Args:
      digests: returns a new iterator over the digests of all documents, in order: arrays
        [n, 16] uint8.
      documents: number of documents.

    Returns:
      [documents] bool, False for a copy.
    """
    bits = min(max((documents - 1).bit_length() - _ROUND_BITS, 0), _MAX_ROUND_BITS)
    is_first = np.ones(documents, bool)
    for wanted in range(1 << bits):
        low, high, documents_here, begin = [], [], [], 0
        for chunk in digests():
            # The low half is uniform in every split; the high half has decided the split.
            halves = np.ascontiguousarray(chunk).view(np.uint64)
            here = np.flatnonzero(halves[:, 1] & np.uint64((1 << bits) - 1) == wanted)
            high.append(halves[here, 0])
            low.append(halves[here, 1])
            documents_here.append(here + begin)
            begin += len(chunk)
        if begin != documents:
            raise ValueError(f"{begin} digests for {documents} documents")
        if documents_here:
            _mark_copies(
                is_first,
                np.concatenate(high),
                np.concatenate(low),
                np.concatenate(documents_here),
            )
    return is_first


def _mark_copies(
    is_first: np.ndarray, high: np.ndarray, low: np.ndarray, documents: np.ndarray
) -> None:
    order = np.lexsort((low, high))  # stable: copies stay in the order of the documents
    high, low = high[order], low[order]
    is_copy = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    is_first[documents[order[1:][is_copy]]] = False
