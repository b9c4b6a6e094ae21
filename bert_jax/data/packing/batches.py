"""Splits rows into batches; a batch is a dictionary of arrays that share their first axis."""

from collections.abc import Iterator

import numpy as np


def split_rows(rows: dict[str, np.ndarray], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of exactly `batch_size` rows; the last is padded with empty rows.

    An empty row is all zeros: it has no example and no weight.
    """
    count = len(next(iter(rows.values())))
    for begin in range(0, count, batch_size):
        batch = {name: field[begin : begin + batch_size] for name, field in rows.items()}
        missing = batch_size - min(batch_size, count - begin)
        yield {
            name: np.pad(field, [(0, missing)] + [(0, 0)] * (field.ndim - 1))
            for name, field in batch.items()
        }
