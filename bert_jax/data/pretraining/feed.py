"""The batches of a pretraining run, phase after phase, from any step on."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.pretraining.mixture import Mixture
from bert_jax.data.pretraining.phases import Phase
from bert_jax.data.pretraining.rows import START, Position, RowStream


class Cursor(NamedTuple):
    """Position in the data of a run: that of the next row to read. Checkpoints store it."""

    phase: int
    row: int  # of the stream that the phase reads
    positions: tuple[Position, ...]  # in each corpus, in the order of the config

    @classmethod
    def at_start(cls, phase: int, corpora: int) -> "Cursor":
        """Returns the cursor at the begin of a phase with a stream of its own."""
        return cls(phase, 0, (START,) * corpora)

    @classmethod
    def from_json(cls, values: Any) -> "Cursor":
        """Reads a cursor that `json.dumps` wrote."""
        phase, row, positions = values
        return cls(phase, row, tuple(Position(*position) for position in positions))


class PhaseRows:
    """The rows of a phase, of all corpora together, from a cursor on; row 0 is the one there."""

    def __init__(
        self,
        corpora: Sequence[Corpus],
        weights: dict[str, float],
        phase: Phase,
        row_format: RowFormat,
        *,
        seed: int,
        start: Cursor,
    ) -> None:
        """Opens a stream of each corpus; plans nothing yet.

        Args:
          corpora: in the order of `weights`.
          weights: from `mixture.parse_mixture`.
          phase: of the run.
          row_format: of the phase.
          seed: of the run.
          start: a cursor in this phase.
        """
        self.streams = [
            RowStream(
                corpus,
                phase.data,
                row_format,
                seed=seed,
                phase=phase.stream,
                number=number,
                start=position,
            )
            for number, (corpus, position) in enumerate(zip(corpora, start.positions, strict=True))
        ]
        self._mixture = Mixture(weights, seed=seed, phase=phase.stream)
        self._phase, self._start = phase.number, start.row
        self._before = self._mixture.before(start.row)

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows as a batch: [R] int64, ascending, counted from the cursor."""
        owner, stream_rows = self._mixture.split(rows + self._start)
        stream_rows -= self._before[owner]
        numbers = np.unique(owner).tolist()
        parts = [self.streams[number].rows(stream_rows[owner == number]) for number in numbers]
        if len(parts) == 1:
            return parts[0]
        # `parts` are ordered by corpus: the inverse permutation brings the rows back in order.
        in_order = np.empty_like(owner)
        in_order[np.argsort(owner, kind="stable")] = np.arange(len(owner))
        return {name: np.concatenate([part[name] for part in parts])[in_order] for name in parts[0]}

    def cursor(self, row: int) -> Cursor:
        """Returns the cursor of a row, which is counted from the start."""
        read = self._mixture.before(self._start + row) - self._before
        positions = [stream.position(int(n)) for stream, n in zip(self.streams, read, strict=True)]
        return Cursor(self._phase, self._start + row, tuple(positions))


class Feed:
    """This host's rows of each batch of a run."""

    def __init__(
        self,
        phases: Sequence[Phase],
        open_rows: Callable[[Phase, Cursor], PhaseRows],
        host_rows: Callable[[int], np.ndarray],
        *,
        first_step: int,
        cursor: Cursor,
    ) -> None:
        """Opens nothing yet.

        Args:
          phases: from `phases.resolve_phases`.
          open_rows: opens a phase at a cursor.
          host_rows: maps the size of a batch to the rows that this host makes, [R] int64.
          first_step: number of steps that are finished.
          cursor: of the next row.
        """
        self._phases, self._open_rows, self._host_rows = phases, open_rows, host_rows
        self._first_step, self._cursor = first_step, cursor
        self._opened: list[tuple[Phase, int, PhaseRows]] = []

    def __iter__(self) -> Iterator[tuple[Phase, dict[str, np.ndarray]]]:
        """Yields (phase, batch of this host's rows) for each step."""
        cursor = self._cursor
        for phase in self._phases[cursor.phase :]:
            if phase.number > cursor.phase:
                cursor = self.cursor(phase.first_step)
            first_step = max(self._first_step, phase.first_step)
            rows = self._open_rows(phase, cursor)
            self._opened.append((phase, first_step, rows))
            batches = load_batches(
                rows.rows,
                batches=phase.end_step - first_step,
                batch_size=phase.batch_size,
                host_rows=self._host_rows(phase.batch_size),
            )
            for batch in batches:
                yield phase, batch

    def cursor(self, step: int) -> Cursor:
        """Returns the cursor after a step whose batch has been read."""
        for phase, first_step, rows in reversed(self._opened):
            if step < first_step:
                continue
            cursor = rows.cursor((step - first_step) * phase.batch_size)
            if step < phase.end_step or phase is self._phases[-1]:
                return cursor
            following = self._phases[phase.number + 1]
            if following.stream == phase.stream:
                return cursor._replace(phase=following.number)
            return Cursor.at_start(following.number, len(cursor.positions))
        return self._cursor

    def rows_of(self, step: int) -> str:
        """Describes the rows of a step whose batch has been read: '32 rows from epoch 0 ...'."""
        cursor = self.cursor(step - 1)
        begins = " and ".join(
            f"epoch {position.epoch} block {position.block} row {position.row:,}"
            for position in cursor.positions
        )
        return f"{self._phases[cursor.phase].batch_size} rows from {begins}"
