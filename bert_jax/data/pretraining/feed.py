"""The batches of a pretraining run, phase after phase, from a cursor on."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bert_jax.data.corpus.corpus import Corpus
from bert_jax.data.packing.loader import load_batches
from bert_jax.data.pretraining.mixture import Mixture
from bert_jax.data.pretraining.phases import Phase
from bert_jax.data.pretraining.rows import START, Place, RowStream
from bert_jax.text.tokenizer import SpecialIds


class Cursor(NamedTuple):
    """A place in the data of a run: the next row to be seen."""

    phase: int
    row: int  # of the phase
    places: tuple[Place, ...]  # in each corpus, in the order of the config

    @classmethod
    def at_start(cls, phase: int, corpora: int) -> "Cursor":
        """Returns where a phase begins."""
        return cls(phase, 0, (START,) * corpora)

    @classmethod
    def from_json(cls, values: Any) -> "Cursor":
        """Reads what `json.dumps` made of a cursor."""
        phase, row, places = values
        return cls(phase, row, tuple(Place(*place) for place in places))


class PhaseRows:
    """The rows of a phase, over all corpora: row 0 is the one at the cursor."""

    def __init__(
        self,
        corpora: Sequence[Corpus],
        weights: dict[str, float],
        phase: Phase,
        special: SpecialIds,
        *,
        seed: int,
        pool_last: bool = False,
        start: Cursor,
    ) -> None:
        """Opens a stream of each corpus; nothing is planned yet.

        Args:
          corpora: in the order of `weights`.
          weights: from `mixture.parse_mixture`.
          phase: whose rows these are.
          special: ids of [PAD], [CLS] and [SEP].
          seed: of the run.
          pool_last: as in `layout.lay_out`.
          start: in this phase.
        """
        self.streams = [
            RowStream(
                corpus,
                phase.data,
                special,
                seed=seed,
                pool_last=pool_last,
                phase=phase.number,
                number=number,
                start=place,
            )
            for number, (corpus, place) in enumerate(zip(corpora, start.places, strict=True))
        ]
        self._mixture = Mixture(weights, seed=seed, phase=phase.number)
        self._phase, self._start = phase.number, start.row
        self._before = self._mixture.before(start.row)

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns rows as a batch: [R] int64, ascending, counted from the cursor."""
        owner, places = self._mixture.split(rows + self._start)
        places -= self._before[owner]
        numbers = np.unique(owner).tolist()
        parts = [self.streams[number].rows(places[owner == number]) for number in numbers]
        if len(parts) == 1:
            return parts[0]
        order = np.argsort(np.argsort(owner, kind="stable"), kind="stable")
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

    def cursor(self, row: int) -> Cursor:
        """Returns the cursor of a row, counted from this one's."""
        seen = self._mixture.before(self._start + row) - self._before
        places = [stream.place(int(n)) for stream, n in zip(self.streams, seen, strict=True)]
        return Cursor(self._phase, self._start + row, tuple(places))


class Feed:
    """This host's part of each batch of a run."""

    def __init__(
        self,
        phases: Sequence[Phase],
        open_rows: Callable[[Phase, Cursor], PhaseRows],
        host_rows: Callable[[int], np.ndarray],
        *,
        first_step: int,
        cursor: Cursor,
    ) -> None:
        """Prepares to begin in mid-run; nothing is opened yet.

        Args:
          phases: from `phases.resolve_phases`.
          open_rows: opens a phase at a cursor.
          host_rows: says which rows of a batch of this size this host makes.
          first_step: steps that are finished.
          cursor: the next row.
        """
        self._phases, self._open_rows, self._host_rows = phases, open_rows, host_rows
        self._first_step, self._cursor = first_step, cursor
        self._opened: list[tuple[Phase, int, PhaseRows]] = []

    def __iter__(self) -> Iterator[tuple[Phase, dict[str, np.ndarray]]]:
        """Yields (phase, fields of this host's rows), a step at a time."""
        cursor = self._cursor
        for phase in self._phases[cursor.phase :]:
            if phase.number > cursor.phase:
                cursor = Cursor.at_start(phase.number, len(cursor.places))
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
        """Returns the cursor after a step that has been read."""
        for phase, first_step, rows in reversed(self._opened):
            if step == phase.end_step and phase is not self._phases[-1]:
                return Cursor.at_start(phase.number + 1, len(self._cursor.places))
            if step >= first_step:
                return rows.cursor((step - first_step) * phase.batch_size)
        return self._cursor

    def rows_of(self, step: int) -> str:
        """Names the rows of a step that has been read, in words: where they begin, and how many."""
        cursor = self.cursor(step - 1)
        begins = " and ".join(
            f"epoch {place.epoch} block {place.block} row {place.row:,}" for place in cursor.places
        )
        return f"{self._phases[cursor.phase].batch_size} rows from {begins}"
