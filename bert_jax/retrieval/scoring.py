"""Scores of a checkpoint's vectors on a collection, with BM25 beside them."""

import contextlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bert_jax.checkpoints.checkpoint import find_checkpoint
from bert_jax.config import MeshConfig, SearchOptions, VectorsConfig
from bert_jax.distributed import sharding
from bert_jax.files import check_new, new_folder
from bert_jax.inspection.choices import VectorType
from bert_jax.inspection.narrow_vectors import StoredVectors, narrowed, ranges_of
from bert_jax.retrieval import bm25
from bert_jax.retrieval.collection import Collection, read_collection
from bert_jax.retrieval.exact_search import exact_search
from bert_jax.retrieval.ranking import SCORE_NAMES, RankedQueries, mean_scores, run_lines
from bert_jax.retrieval.search_encoder import SearchEncoder

_DEPTH = 100  # documents of a query that are ranked


class RetrievalOptions(NamedTuple):
    """Choices of an evaluation.

    Attributes:
      split: of a collection in BEIR's layout.
      skip_bad_rows: see `read_collection`.
      skip_own_id: leave the document with the query's own id out of its results.
      bm25: rank by BM25, too.
      dtype: of the vectors that are compared; the ranges of int8 are those of the documents.
    """

    split: str = "test"
    skip_bad_rows: bool = False
    skip_own_id: bool = False
    bm25: bool = False
    dtype: VectorType = VectorType.FLOAT32


def score_retrieval(
    checkpoint: str | os.PathLike[str],
    source: pathlib.Path,
    output: pathlib.Path | None,
    *,
    options: RetrievalOptions = RetrievalOptions(),
    vectors: SearchOptions = SearchOptions(),
    batch_size: int = 32,
) -> dict[str, dict[str, float]]:
    """Ranks the documents of a collection for its queries, and prints the scores.

    Args:
      checkpoint: a run, or one of its steps.
      source: of `read_collection`.
      output: a new directory for scores.json and the runs in TREC's format; None: for nothing.
      options: of the evaluation.
      vectors: of the search, where they are not to be as the checkpoint has them.
      batch_size: texts at a time.

    Returns:
      The scores by name, of `vectors` and of `bm25`.

    Raises:
      UserError: for a checkpoint or a collection that cannot be used, or an output that exists.
    """
    if options.bm25:
        bm25.check_installed()
    found = find_checkpoint(checkpoint)
    place = check_new(output, "output") if output else None
    with new_folder(place) if place else contextlib.nullcontext() as made:
        collection = read_collection(source, options.split, skip_bad_rows=options.skip_bad_rows)
        encoder = SearchEncoder(
            found, sharding.make_mesh(MeshConfig()), vectors, batch_size=batch_size
        )
        runs = {"vectors": _run_of_vectors(encoder, collection, options)}
        if options.bm25:
            runs["bm25"] = _run_of_words(collection, skip_own_id=options.skip_own_id)
        scores = {name: mean_scores(run, collection.judgements) for name, run in runs.items()}
        if made:
            about = {"checkpoint": str(found), "data": str(source)}
            if source.is_dir():
                about["split"] = options.split
            about |= {"vectors": describe_vectors(encoder.settings), "dtype": options.dtype.value}
            written = about | _counts(collection) | {"notes": collection.notes, "scores": scores}
            (made / "scores.json").write_text(json.dumps(written, indent=1))
            for name, run in runs.items():
                (made / f"{name}.trec").write_text(run_lines(run, name), encoding="utf-8")
    _print(source, collection, encoder, scores)
    if output:
        print(f"wrote {output}")
    return scores


def describe_vectors(settings: VectorsConfig) -> str:
    """Describes the vectors of a search: 'mean, cosine'."""
    return f"{settings.pooling.value}, {'cosine' if settings.normalised else 'product'}"


def _counts(collection: Collection) -> dict[str, int]:
    return {
        "documents": len(collection.documents.ids),
        "queries": len(collection.judgements),
        "judgements": sum(map(len, collection.judgements.values())),
    }


def _run_of_vectors(
    encoder: SearchEncoder, collection: Collection, options: RetrievalOptions
) -> RankedQueries:
    """Returns the documents with the largest product of vectors, for each query."""
    documents = encoder.texts(collection.documents.texts)
    queries = encoder.queries(list(collection.queries.values()))
    ranges = None
    if options.dtype is VectorType.INT8:
        ranges = ranges_of([documents], "the documents")
    kept, asked = (
        StoredVectors(narrowed(side, options.dtype, ranges), ranges)
        for side in (documents, queries)
    )
    count = min(_DEPTH + options.skip_own_id, len(documents))
    mesh = sharding.make_mesh(MeshConfig())
    found = exact_search(asked.values(slice(None)), kept, count, mesh)
    return {
        query: _ranked(query, numbers, scores, collection, skip_own_id=options.skip_own_id)
        for query, numbers, scores in zip(collection.queries, *found, strict=True)
    }


def _ranked(
    query: str,
    numbers: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    collection: Collection,
    *,
    skip_own_id: bool,
) -> list[tuple[str, float]]:
    ids = collection.documents.ids
    pairs = [(ids[number], float(score)) for number, score in zip(numbers, scores, strict=True)]
    return [pair for pair in pairs if not skip_own_id or pair[0] != query][:_DEPTH]


def _run_of_words(collection: Collection, *, skip_own_id: bool) -> RankedQueries:
    search = bm25.WordSearch(collection.documents.texts)
    run = {}
    for query, text in collection.queries.items():
        best = search.best(text, _DEPTH + skip_own_id)
        numbers, scores = [number for number, _ in best], [score for _, score in best]
        run[query] = _ranked(query, numbers, scores, collection, skip_own_id=skip_own_id)
    return run


def _print(
    source: pathlib.Path,
    collection: Collection,
    encoder: SearchEncoder,
    scores: dict[str, dict[str, float]],
) -> None:
    counts = [f"{count:,} {name}" for name, count in _counts(collection).items()]
    cut = [f"{encoder.cut:,} texts cut to {encoder.length} tokens"] if encoder.cut else []
    print("; ".join([f"{source}: {', '.join(counts)}", *collection.notes, *cut]))
    names = {"vectors": describe_vectors(encoder.settings), "bm25": bm25.BM25_NAME}
    print(f"{'':24}" + "".join(f"{name:>12}" for name in SCORE_NAMES))
    for name, of_run in scores.items():
        print(f"{names[name]:24}" + "".join(f"{of_run[each]:12.4f}" for each in SCORE_NAMES))
