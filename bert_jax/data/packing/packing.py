"""Bin packing: assigns examples of different lengths to rows of one length."""

import numpy as np


def pack(lengths: np.ndarray, capacity: int, max_examples: int) -> np.ndarray:
    """Packs examples by best-fit decreasing: the longest first, each into the fullest row it fits.

    Examples of equal length and rows in the same state are handled together, so it takes the time
    of sorting plus, at worst, about capacity^2 x max_examples. The order of the rows is not random:
    shuffle them.

    Args:
      lengths: [E] int, tokens of each example, from 1 to `capacity`; E may be 0.
      capacity: T, tokens in a row.
      max_examples: N, examples in a row, at most.

    Returns:
      [E] int64, the row of each example; rows are numbered from 0 without gaps.
    """
    lengths = np.asarray(lengths)
    row_of = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    sizes, first = np.unique(-lengths[order], return_index=True)
    # (tokens left, examples in the row) -> the rows in that state
    open_rows: dict[tuple[int, int], np.ndarray] = {}
    rows = 0
    for size, group in zip((-sizes).tolist(), np.split(order, first)[1:], strict=True):
        # The fullest rows first, then as many new ones as may be needed.
        states = sorted(state for state in open_rows if state[0] >= size)
        placed = 0
        for room, examples_in_row in [*states, (capacity, 0)]:
            if placed == len(group):
                break
            copies = min(room // size, max_examples - examples_in_row)
            wanted = -(-(len(group) - placed) // copies)
            if examples_in_row:
                candidates = open_rows.pop((room, examples_in_row))
                _add(open_rows, (room, examples_in_row), candidates[wanted:])
                candidates = candidates[:wanted]
            else:
                candidates = np.arange(rows, rows + wanted)
                rows += wanted
            now = group[placed : placed + copies * len(candidates)]
            row_of[now] = np.repeat(candidates, copies)[: len(now)]
            placed += len(now)
            # Each candidate got `copies` examples, but the last one perhaps only the rest.
            full, rest = divmod(len(now), copies)
            for got, part in ((copies, candidates[:full]), (rest, candidates[full:])):
                if examples_in_row + got < max_examples:
                    _add(open_rows, (room - got * size, examples_in_row + got), part)
    return row_of


def _add(
    open_rows: dict[tuple[int, int], np.ndarray], state: tuple[int, int], rows: np.ndarray
) -> None:
    if len(rows) and state[0] > 0:
        before = open_rows.get(state)
        open_rows[state] = rows if before is None else np.concatenate([before, rows])


def pack_each(lengths: np.ndarray, capacity: int, max_examples: int) -> np.ndarray:
    """Packs many small batches at once, each as `pack` does; loops over E, not over batches.

    Args:
      lengths: [batches, E] int, from 1 to `capacity`, or 0 for no example.
      capacity: T, tokens in a row.
      max_examples: N, examples in a row, at most.

    Returns:
      [batches, E] int64, the row of each example in its batch, from 0 without gaps; -1 for no
      example.
    """
    every = np.arange(len(lengths))
    row_of = np.full(lengths.shape, -1)
    room = np.full(lengths.shape, capacity)
    examples_in_row = np.zeros(lengths.shape, np.int64)
    for example in np.argsort(-lengths, axis=1, kind="stable").T:
        size = lengths[every, example]
        fits = (room >= size[:, None]) & (examples_in_row < max_examples)
        row = np.where(fits, room, capacity + 1).argmin(axis=1)  # new rows come last, in order
        room[every, row] -= size
        examples_in_row[every, row] += size > 0
        row_of[every, example] = np.where(size > 0, row, -1)
    return row_of
