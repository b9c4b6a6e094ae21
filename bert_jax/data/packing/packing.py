"""Several examples in one row."""

import numpy as np


def pack(lengths: np.ndarray, capacity: int, max_examples: int) -> np.ndarray:
    """Assigns examples to rows, the longest first, each where it leaves the least room (best fit).

    Examples of one length and rows in one state are handled together, so the cost is that of
    sorting, plus about capacity^2 x max_examples at the worst. Rows come out in no random order:
    shuffle them.

    Args:
      lengths: [E] int, each from 1 to `capacity`; E may be 0.
      capacity: tokens in a row, T.
      max_examples: in one row, N; 1 gives each example its own row.

    Returns:
      [E] int64, the row of each example; rows are numbered from 0 without gaps.
    """
    lengths = np.asarray(lengths)
    row_of = np.empty(len(lengths), np.int64)
    order = np.argsort(-lengths, kind="stable")
    sizes, first = np.unique(-lengths[order], return_index=True)
    # (room left, examples held) -> the rows in that state
    open_rows: dict[tuple[int, int], np.ndarray] = {}
    rows = 0
    for size, group in zip((-sizes).tolist(), np.split(order, first)[1:], strict=True):
        # The fullest rows first, then as many new ones as may be needed.
        states = sorted(state for state in open_rows if state[0] >= size)
        placed = 0
        for room, held in [*states, (capacity, 0)]:
            if placed == len(group):
                break
            copies = min(room // size, max_examples - held)
            wanted = -(-(len(group) - placed) // copies)
            if held:
                candidates = open_rows.pop((room, held))
                _add(open_rows, (room, held), candidates[wanted:])
                candidates = candidates[:wanted]
            else:
                candidates = np.arange(rows, rows + wanted)
                rows += wanted
            now = group[placed : placed + copies * len(candidates)]
            row_of[now] = np.repeat(candidates, copies)[: len(now)]
            placed += len(now)
            # Only the last row of all may have got fewer copies than it could hold.
            full, rest = divmod(len(now), copies)
            for got, part in ((copies, candidates[:full]), (rest, candidates[full:])):
                if held + got < max_examples:
                    _add(open_rows, (room - got * size, held + got), part)
    return row_of


def _add(
    open_rows: dict[tuple[int, int], np.ndarray], state: tuple[int, int], rows: np.ndarray
) -> None:
    if len(rows) and state[0] > 0:
        before = open_rows.get(state)
        open_rows[state] = rows if before is None else np.concatenate([before, rows])


def pack_each(lengths: np.ndarray, capacity: int, max_examples: int) -> np.ndarray:
    """Packs many small batches, each as `pack` does, all at once: a step for each place in them.

    Args:
      lengths: [batches, E] int, each from 1 to `capacity`, or 0 where there is no example.
      capacity: tokens in a row, T.
      max_examples: in one row, N.

    Returns:
      [batches, E] int64, the row of each example in its batch, from 0 without gaps; -1 for none.
    """
    every = np.arange(len(lengths))
    row_of = np.full(lengths.shape, -1)
    room = np.full(lengths.shape, capacity)
    held = np.zeros(lengths.shape, np.int64)
    for example in np.argsort(-lengths, axis=1, kind="stable").T:
        size = lengths[every, example]
        fits = (room >= size[:, None]) & (held < max_examples)
        row = np.where(fits, room, capacity + 1).argmin(axis=1)  # new rows come last, in order
        room[every, row] -= size
        held[every, row] += size > 0
        row_of[every, example] = np.where(size > 0, row, -1)
    return row_of
