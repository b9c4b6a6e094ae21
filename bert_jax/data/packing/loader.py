"""Makes this host's batches ahead of time, on threads of Grain."""

import dataclasses
from collections.abc import Callable, Iterator

import grain
import numpy as np

_THREADS = 2
_BATCHES_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Grain data source whose item i is batch i of this host (an item a row would be slow)."""

    make_rows: Callable[[np.ndarray], dict[str, np.ndarray]]
    batches: int
    batch_size: int
    host_rows: np.ndarray

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.make_rows(index * self.batch_size + self.host_rows)


def load_batches(
    make_rows: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    batches: int,
    batch_size: int,
    host_rows: np.ndarray,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches in order, each made by one call of `make_rows`.

    Args:
      make_rows: maps [R] int64 ascending row numbers to batch fields [R, ...]; called on threads.
      batches: number of batches.
      batch_size: B, rows in the global batch.
      host_rows: [R] int64 in [0, B), the rows of each batch that belong to this host.
    """
    source = _Batches(make_rows, batches, batch_size, host_rows)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
