"""Search of a user's own texts: lines, or documents in BEIR's form."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bert_jax.data.tasks.tables import read_lines
from bert_jax.errors import UserError
from bert_jax.inspection.narrow_vectors import StoredVectors, open_vectors
from bert_jax.retrieval.collection import Documents, read_documents
from bert_jax.retrieval.exact_search import exact_search
from bert_jax.retrieval.search_encoder import SearchEncoder

_SAMPLE = 1024  # vectors whose lengths tell whether they were written normalised
_ROUNDING = 1e-3  # of those lengths, as float16 has it
_UNIT_TOLERANCE = 0.05  # of those lengths: codes of normalised vectors are off by some per cent


def read_texts_to_search(path: pathlib.Path, *, skip_bad_rows: bool) -> Documents:
    """Reads texts: of a .jsonl its documents, of another file its lines, numbered from 1.

    Raises:
      UserError: if the file cannot be read, has no text, or an empty one.
    """
    if path.suffix == ".jsonl":
        return read_documents(path, skip_bad_rows=skip_bad_rows)
    texts = plain_lines(path)
    return Documents([str(number) for number in range(1, len(texts) + 1)], texts, "")


def plain_lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a file, stripped.

    Raises:
      UserError: if the file cannot be read, has no line, or an empty one.
    """
    texts = [line.strip() for _, line in read_lines(str(path))]
    for number, text in enumerate(texts, start=1):
        if not text:
            raise UserError(f"{path}, line {number} is empty: give it some text, or leave it out")
    if not texts:
        raise UserError(f"{path} has no line: give it at least one text")
    return texts


class TextSearch:
    """Texts with their vectors, to be searched again and again."""

    def __init__(
        self, documents: Documents, encoder: SearchEncoder, vectors: StoredVectors | None
    ) -> None:
        """Computes the vectors of the texts, unless they are given."""
        self._documents, self._encoder = documents, encoder
        self._vectors = vectors or StoredVectors(encoder.texts(documents.texts))

    def best(self, queries: Sequence[str], count: int, mesh: Mesh) -> list[list[dict[str, Any]]]:
        """Returns for each query the best texts, each with `id`, `text` and `score`."""
        asked = self._encoder.queries(queries)
        if self._vectors.ranges and not self._vectors.normalised:
            asked = self._vectors.ranges.decode(self._vectors.ranges.encode(asked))
        found = exact_search(asked, self._vectors, count, mesh)
        return [
            [self._result(number, score) for number, score in zip(*each, strict=True)]
            for each in zip(*found, strict=True)
        ]

    def _result(self, number: int, score: np.float32) -> dict[str, Any]:
        documents = self._documents
        return {
            "id": documents.ids[number],
            "text": documents.texts[number],
            "score": float(score),
        }


def vectors_of_lines(
    path: pathlib.Path, documents: Documents, width: int, *, normalised: bool
) -> StoredVectors:
    """Maps the vectors of lines into memory.

    Args:
      path: of the file.
      documents: the lines.
      width: of the model's vectors.
      normalised: True if the search is by cosine, which plain vectors are divided by their lengths
        for.

    Raises:
      UserError: if a line is a pair of texts; if there is not one vector for each line, or they are
        of another width; if they are normalised and the search is not.
    """
    for number, text in enumerate(documents.texts, start=1):
        if "\t" in text:
            raise UserError(
                f"line {number} of the corpus has a tab, which parts two texts for predict"
                " --features and none for a search: write a space, and the vectors again"
            )
    vectors = open_vectors(path)
    if len(vectors) != len(documents.ids) or vectors.width != width:
        raise UserError(
            f"--vectors={path} has {len(vectors):,} vectors of {vectors.width}, and the corpus has"
            f" {len(documents.ids):,} lines and the model vectors of {width}: write them by predict"
            " --features from these lines with this checkpoint"
        )
    lengths = np.linalg.norm(vectors.values(slice(_SAMPLE)), axis=1)
    furthest = float(np.abs(lengths - 1).max())
    if not normalised and furthest <= (_UNIT_TOLERANCE if vectors.ranges else _ROUNDING):
        raise UserError(
            f"--vectors={path} has vectors of length 1, and the search is by the product of plain"
            " ones: search by --similarity=cosine, or leave --vectors out"
        )
    return dataclasses.replace(vectors, normalised=normalised and furthest > _UNIT_TOLERANCE)
