"""Vectors of any number of lines, a block at a time, of which no more is held."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from bert_jax.checkpoints.pretrained import TrainedEncoder
from bert_jax.config import VectorsConfig
from bert_jax.inspection.text_vectors import TextVectors, cut_lines, encode_lines, with_specials
from bert_jax.tasks.predictors import is_empty

Line = tuple[str, str]  # a text, and its second text or ''

_BLOCK = 64  # batches


class LineBlock(NamedTuple):
    """Some lines, one after another.

    Attributes:
      lines: their texts.
      ids: token ids with [CLS] and [SEP], [size] int32 each.
      vectors: [D] float32 each, or [size, D] of tokens.
    """

    lines: list[Line]
    ids: list[np.ndarray]
    vectors: list[np.ndarray]


class LineVectors:
    """Computes vectors of lines.

    Attributes:
      cut: number of lines that were cut so far.
    """

    def __init__(
        self,
        encoder: TrainedEncoder,
        mesh: Mesh,
        settings: VectorsConfig | None,
        *,
        batch_size: int,
        prompt: str = "",
        length: int | None = None,
    ) -> None:
        """Prepares the computation.

        Args:
          encoder: see `TextVectors`.
          mesh: of its parameters.
          settings: see `TextVectors`.
          batch_size: lines in a batch.
          prompt: put before the first text of each line.
          length: tokens that longer lines are cut to; None: what the model cannot read is an error.
        """
        self._encoder, self._prompt, self._length = encoder, prompt, length
        self._block = _BLOCK * batch_size
        self._vectors = TextVectors(encoder, mesh, settings, batch_size=batch_size)
        self.cut = 0

    def check(self, lines: Iterable[Line], place_of: Callable[[int], str]) -> None:
        """Tokenises lines, and no more.

        Args:
          lines: at least one.
          place_of: names a line in messages by its number, from 1.

        Raises:
          UserError: if a line is empty or too long.
        """
        for _ in self._encoded(lines, place_of):
            pass

    def blocks(self, lines: Iterable[Line], place_of: Callable[[int], str]) -> Iterator[LineBlock]:
        """Yields lines with their vectors; for the arguments and errors see `check`."""
        self.cut = 0
        for block, a, b in self._encoded(lines, place_of):
            ids = with_specials(a, b, self._encoder.tokenizer.special)
            yield LineBlock(block, ids, self._vectors(a, b))

    def _encoded(
        self, lines: Iterable[Line], place_of: Callable[[int], str]
    ) -> Iterator[tuple[list[Line], list[np.ndarray], list[np.ndarray]]]:
        rest, done = iter(lines), 0
        while block := list(itertools.islice(rest, self._block)):
            yield block, *self._encode(block, lambda number, done=done: place_of(done + number))
            done += len(block)

    def _encode(
        self, block: Sequence[Line], place_of: Callable[[int], str]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        tokenizer, most = self._encoder.tokenizer, self._encoder.config.max_length
        # An empty line is told, where its prompt would hide it.
        prompted = [(a if is_empty(a) else self._prompt + a, b) for a, b in block]
        if self._length is None:
            return encode_lines(prompted, tokenizer, most, place_of)
        a, b, cut = cut_lines(prompted, tokenizer, self._length, place_of)
        self.cut += int(cut.sum())
        return a, b
