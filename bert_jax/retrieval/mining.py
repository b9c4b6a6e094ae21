"""Hard negatives: texts near a query that are not known to answer it."""

import json
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from bert_jax.data.tasks.bad_rows import BadRows
from bert_jax.data.tasks.tables import read_rows, text_value
from bert_jax.errors import UserError
from bert_jax.inspection.narrow_vectors import StoredVectors
from bert_jax.retrieval.exact_search import exact_search
from bert_jax.retrieval.search_encoder import SearchEncoder

NEGATIVES = "negatives"  # the column of a list of texts


class PairColumns(NamedTuple):
    """The columns of pairs; see `config.TaskDataConfig`.

    Attributes:
      query: of the query.
      right: of a text that is right for it.
      header: the first line of a .tsv or .csv names the columns.
    """

    query: str
    right: str
    header: bool


def read_pairs(source: str, columns: PairColumns, *, skip_bad_rows: bool) -> list[tuple[str, str]]:
    """Reads (query, right text) of each row, stripped.

    Raises:
      UserError: if the source cannot be read, or has an empty text that is not to be left out.
    """
    bad = BadRows(source, skip=skip_bad_rows, flag="--skip_bad_rows")
    pairs = []
    for location, row in read_rows(source, header=columns.header, bad=bad):
        with bad.caught():
            query = text_value(row, columns.query, location, "--text_column")
            pairs.append((query, text_value(row, columns.right, location, "--text_pair_column")))
    bad.close(len(pairs), "pairs")
    if bad.note:
        print(bad.note)
    return pairs


def mine_negatives(
    pairs: list[tuple[str, str]],
    encoder: SearchEncoder,
    ranks: tuple[int, int],
    mesh: Mesh,
) -> dict[str, list[str]]:
    """Finds the texts at some ranks for each query, among the right texts of all.

    What is left out before the ranks are counted: every right text of the query, in whichever row,
    and the query itself. A text is there once, however often the rows have it.

    Args:
      pairs: (query, right text) of each row.
      encoder: of the vectors.
      ranks: the first and the last, from 1.
      mesh: of this process.

    Returns:
      query -> its texts, the nearest first.

    Raises:
      UserError: if there are too few texts.
    """
    rights: dict[str, set[str]] = {}
    for query, right in pairs:
        rights.setdefault(query, {query}).add(right)
    # Of texts with one score the first in the alphabet comes first, whatever the order of rows.
    texts = sorted({right for _, right in pairs})
    first, last = ranks
    there = set(texts)
    most = max(len(known & there) for known in rights.values())
    if last + most > len(texts):
        raise UserError(
            f"--ranks={first}-{last}: there are {len(texts):,} different right texts, of which up"
            f" to {most:,} belong to one query: choose lower ranks, or give more pairs"
        )
    queries = list(rights)
    documents = StoredVectors(encoder.texts(texts))
    found = exact_search(encoder.queries(queries), documents, last + most, mesh)
    return {
        query: _wrong(numbers, texts, rights[query])[first - 1 : last]
        for query, numbers in zip(queries, found.documents, strict=True)
    }


def _wrong(numbers: np.ndarray, texts: list[str], rights: set[str]) -> list[str]:
    return [texts[number] for number in numbers if texts[number] not in rights]


def write_triples(
    path: pathlib.Path,
    pairs: Sequence[tuple[str, str]],
    negatives: dict[str, list[str]],
    columns: PairColumns,
) -> None:
    """Writes a row of JSON for each pair: its two columns, and the list of its negatives."""
    lines = []
    for query, right in pairs:
        row = {columns.query: query, columns.right: right, NEGATIVES: negatives[query]}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
