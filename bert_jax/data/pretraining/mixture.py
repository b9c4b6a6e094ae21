"""Mixes several corpora in one stream of rows, each with its share."""

import functools

import numpy as np

from bert_jax.data.packing import draws
from bert_jax.data.packing.draws import DrawKey, Purpose
from bert_jax.errors import UserError
from bert_jax.files import exists, given, path_list

# Each window of this many rows has exactly the share of every corpus, in random order. So the rows
# of each corpus before any row are counted without visiting them.
_WINDOW = 4096


def parse_mixture(spec: str) -> dict[str, float]:
    """Reads `DIR` or `DIR=WEIGHT,DIR=WEIGHT,...`; a directory that exists is not cut.

    Returns:
      Directory -> weight, above 0; they need not add up to 1.

    Raises:
      UserError: if a weight is not a number above 0, or a directory is named twice.
    """
    entries = path_list(spec, path_of=lambda entry: _directory_and_weight(entry)[0])
    mixture: dict[str, float] = {}
    for entry in entries:
        name, weight = _directory_and_weight(entry)
        directory = given(name)
        try:
            mixture[directory] = float(weight)
        except ValueError:
            mixture[directory] = 0.0
        if not directory or not 0 < mixture[directory] < float("inf"):
            raise UserError(
                f"--config.data.corpus={spec}: {entry!r} is not DIR=WEIGHT with a weight above 0"
            )
    if len(mixture) < len(entries):
        raise UserError(f"--config.data.corpus={spec} names a directory twice: add the weights")
    return mixture


def _directory_and_weight(entry: str) -> tuple[str, str]:
    """Cuts DIR=WEIGHT at its last sign, unless the whole is a directory."""
    directory, sign, weight = entry.rpartition("=")
    return (entry, "1") if not sign or exists(entry) else (directory, weight)


class Mixture:
    """Assigns each row of a phase to a corpus, with exact shares in every window of rows."""

    def __init__(self, weights: dict[str, float], *, seed: int, phase: int) -> None:
        """Rounds the shares to whole rows of a window, by largest remainders.

        Args:
          weights: from `parse_mixture`.
          seed: of the run.
          phase: its number.

        Raises:
          UserError: if a corpus would have no row in a window.
        """
        exact = np.array(list(weights.values())) * (_WINDOW / sum(weights.values()))
        self._counts = np.floor(exact).astype(np.int64)
        largest = np.argsort(self._counts - exact, kind="stable")
        self._counts[largest[: _WINDOW - self._counts.sum()]] += 1
        for name, count in zip(weights, self._counts, strict=True):
            if count == 0:
                raise UserError(
                    f"--config.data.corpus gives {name} less than one row in {_WINDOW}: raise its"
                    " weight or leave it out"
                )
        self._seed, self._phase = seed, phase
        self._window = functools.lru_cache(maxsize=4)(self._draw_window)

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Maps rows of the phase to rows of the corpora.

        Args:
          rows: [R] int64, from 0.

        Returns:
          The corpus of each row, as an index, and its row among those of that corpus, [R] int64
          each.
        """
        windows, within = np.divmod(rows, _WINDOW)
        corpus, row_in_corpus = np.empty_like(rows), np.empty_like(rows)
        for window in np.unique(windows).tolist():
            chosen = windows == window
            owner, rank = self._window(window)
            corpus[chosen], row_in_corpus[chosen] = owner[within[chosen]], rank[within[chosen]]
        return corpus, row_in_corpus + windows * self._counts[corpus]

    def before(self, row: int) -> np.ndarray:
        """Counts the rows of each corpus before a row of the phase: [corpora] int64."""
        window, within = divmod(row, _WINDOW)
        owner, _ = self._window(window)
        inside = np.bincount(owner[:within], minlength=len(self._counts))
        return window * self._counts + inside

    def _draw_window(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the corpus of each row of a window, and its rank among the rows of its corpus."""
        key = DrawKey(self._seed, epoch=self._phase, block=window)
        bits = draws.random_bits(_WINDOW, key, Purpose.MIXTURE)
        owner = np.repeat(np.arange(len(self._counts)), self._counts)[np.argsort(bits)]
        rank = np.empty_like(owner)
        for number, count in enumerate(self._counts):
            rank[owner == number] = np.arange(count)
        return owner, rank
