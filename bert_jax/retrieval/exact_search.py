"""Exact search: the documents whose vectors have the largest product with a query's.

The device finds candidates, in blocks of documents, by float32 products, whose last bits depend on
the device and on the sizes of blocks. The host computes the products of the candidates again, each
by itself in float64, and ranks by these, rounded to float32. A bound on the device's rounding tells
whether a document that is no candidate could have come in; then the device looks for more. So the
result is the same on any device and in any blocks.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from bert_jax.distributed import sharding
from bert_jax.inspection.narrow_vectors import StoredVectors
from bert_jax.retrieval.ranking import best_first

_QUERIES, _DOCUMENTS = 512, 16384  # in a block: 32 MiB of products
_SPARE = 32  # candidates beyond those asked for
_MORE = 8  # times as many candidates, where those were too few
_KEPT = 2**25  # candidates of all queries that are searched for together
_UNIT = 2.0**-24  # the largest relative rounding error of float32


class Found(NamedTuple):
    """The best documents of each query, in the order of their ranks.

    Attributes:
      documents: [Q, k] int64, numbers of documents; of equal scores the lower first.
      scores: [Q, k] float32, the products.
    """

    documents: np.ndarray
    scores: np.ndarray


def exact_search(
    queries: np.ndarray,
    documents: StoredVectors,
    count: int,
    mesh: Mesh,
    *,
    block: int = _DOCUMENTS,
) -> Found:
    """Finds the documents with the largest products.

    Args:
      queries: [Q, D] float32.
      documents: N of the same width; they may lie in a file.
      count: k, from 1 to N.
      mesh: of this process; its devices share the queries.
      block: documents on the device at a time.
    """
    assert 1 <= count <= len(documents), (count, len(documents))
    found = Found(
        np.zeros((len(queries), count), np.int64), np.zeros((len(queries), count), np.float32)
    )
    pending, candidates = np.arange(len(queries)), count + _SPARE
    while len(pending):
        candidates, left = min(candidates, len(documents)), []
        most = max(1, _KEPT // candidates)
        for begin in range(0, len(pending), most):
            part = pending[begin : begin + most]
            near = _nearest(queries[part], documents, candidates, mesh, block)
            for query, numbers, products in zip(part, near.documents, near.scores, strict=True):
                numbers = np.sort(numbers)  # of equal scores the lower number comes first
                exact = _products(queries[query], documents.values(numbers))
                best = best_first(exact, count)
                found.documents[query], found.scores[query] = numbers[best], exact[best]
                error = _rounding(queries[query]) * near.longest
                if candidates < len(documents) and products[-1] + error >= exact[best[-1]]:
                    left.append(query)
        pending, candidates = np.array(left, np.int64), candidates * _MORE
    return found


def _rounding(query: np.ndarray) -> float:
    """Returns a bound on the device's error in a query's product with a vector of length 1.

    A sum of D float32 products is off by at most D roundings in any order; fourfold, for devices
    whose products are made of several passes.
    """
    return 4 * (len(query) + 2) * _UNIT * float(np.linalg.norm(query.astype(np.float64)))


def _products(query: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the product of a query with each vector, [n] float32; none depends on the others."""
    values = np.ascontiguousarray(values, np.float64)
    return np.sum(values * query.astype(np.float64), axis=1).astype(np.float32)


class _Candidates(NamedTuple):
    documents: np.ndarray  # [Q, K] int64
    scores: np.ndarray  # [Q, K] float32, descending, as the device rounds them
    longest: float  # the greatest length of a document's vector


def _nearest(
    queries: np.ndarray, documents: StoredVectors, count: int, mesh: Mesh, block: int
) -> _Candidates:
    """Finds the documents with the largest products, as the device rounds them."""
    block = min(block, len(documents))
    groups = sharding.row_groups(mesh)
    rows = -(-min(_QUERIES, len(queries)) // groups) * groups
    of_queries = NamedSharding(mesh, sharding.BATCH_SPEC)
    parts, best = [], []
    for begin in range(0, len(queries), rows):
        part = queries[begin : begin + rows].astype(np.float32)
        part = np.concatenate([part, np.zeros((rows - len(part), part.shape[1]), np.float32)])
        parts.append(jax.device_put(part, of_queries))
        nothing = np.full((rows, count), -np.inf, np.float32), np.zeros((rows, count), np.int32)
        best.append(jax.device_put(nothing, of_queries))
    longest = 0.0
    for begin in range(0, len(documents), block):
        values = documents.values(slice(begin, begin + block))
        longest = max(longest, float(np.sqrt(np.square(values, dtype=np.float64).sum(1).max())))
        filled = np.concatenate([values, np.zeros((block - len(values), values.shape[1]), "f4")])
        on_device = jax.device_put(filled, sharding.replicated(mesh))
        for number, part in enumerate(parts):
            best[number] = _merge(part, on_device, len(values), begin, *best[number])
    scores, numbers = (
        np.concatenate(side)[: len(queries)] for side in zip(*jax.device_get(best), strict=True)
    )
    return _Candidates(numbers.astype(np.int64), scores, longest)


@functools.partial(jax.jit, donate_argnums=(4, 5))
def _merge(
    queries: Any, documents: Any, real: Any, begin: Any, scores: jax.Array, numbers: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Merges a block of documents, of which the first `real` count, into the best so far."""
    products = jnp.matmul(queries, documents.T, precision=jax.lax.Precision.HIGHEST)
    places = jnp.arange(documents.shape[0], dtype=jnp.int32)
    products = jnp.where(places[None, :] < real, products, -jnp.inf)
    products, places = jax.lax.top_k(products, min(scores.shape[1], documents.shape[0]))
    scores = jnp.concatenate([scores, products], axis=1)
    numbers = jnp.concatenate([numbers, begin + places], axis=1)
    scores, chosen = jax.lax.top_k(scores, numbers.shape[1] - products.shape[1])
    return scores, jnp.take_along_axis(numbers, chosen, axis=1)
