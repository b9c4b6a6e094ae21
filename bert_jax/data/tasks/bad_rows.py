"""Rows of labelled data that cannot be used: refused together, or left out and counted.

A reader puts each such row, a `BadRow`, into the `BadRows` of its source and goes on; at the end
of the source it closes them.
"""

import contextlib
from collections.abc import Iterator

from bert_jax.errors import UserError


class BadRow(UserError):
    """A row that cannot be used; its text is one line with the place, the value and the remedy.

    Attributes:
      location: of the row, such as "dev.tsv:17".
      reason: why, in a few words that are the same for all such rows: "no gold label".
    """

    def __init__(self, location: str, reason: str, problem: str) -> None:
        """Makes the error; `problem` follows the location: "has no label: write one"."""
        super().__init__(f"{location} {problem}")
        self.location, self.reason = location, reason


class BadRows:
    """The rows of a source that cannot be used."""

    def __init__(
        self, source: str, *, skip: bool, flag: str = "--config.data.skip_bad_rows"
    ) -> None:
        """Begins without any; `skip`, which `flag` sets, leaves them out, else they are refused."""
        self._source, self._skip, self._flag = source, skip, flag
        self._first: dict[str, BadRow] = {}  # by reason
        self._counts: dict[str, int] = {}

    def add(self, row: BadRow) -> None:
        """Counts a row."""
        self._first.setdefault(row.reason, row)
        self._counts[row.reason] = self._counts.get(row.reason, 0) + 1

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Adds the row that is raised inside."""
        try:
            yield
        except BadRow as row:
            self.add(row)

    def close(self, kept: int, kind: str) -> None:
        """Ends the source.

        Args:
          kept: number of usable rows.
          kind: what these are, for messages: "examples".

        Raises:
          UserError: if rows cannot be used and are not to be left out, with the first of each
            reason and their counts; if there is no usable row.
        """
        if self._counts and not self._skip:
            first, *_ = self._first.values()
            counts = [
                f"{reason} ({count:,}, from {self._first[reason].location} on)"
                for reason, count in self._counts.items()
            ]
            raise UserError(
                f"{first}; unusable in all: {', '.join(counts)}; {self._flag} leaves these out"
            )
        if not kept:
            but = f" but what is {self.note}" if self._counts else ""
            raise UserError(f"{self._source} has no {kind}{but}: choose another file")

    @property
    def note(self) -> str:
        """A note of the rows left out, "left out: no gold label (3)"; '' if there are none."""
        counts = [f"{reason} ({count:,})" for reason, count in self._counts.items()]
        return f"left out: {', '.join(counts)}" if counts else ""
