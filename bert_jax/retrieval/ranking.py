"""Runs: the best documents of each query, in the order of trec_eval, and their scores.

trec_eval ranks by score, as float32, and documents of one score by id, descending; the rank that a
run file has does not count.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from bert_jax.retrieval.collection import Judgements

Ranked = list[tuple[str, float]]  # id of a document and its score, the best first
RankedQueries = dict[str, Ranked]  # by the id of the query

SCORE_NAMES = ("ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100")

_SHORT, _LONG = 10, 100  # ranks that are looked at


def best_first(scores: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of the best documents, [at most count] int64.

    Args:
      scores: [N] float32, of documents in the order of `Documents`: of equals the first is ranked
        first.
      count: to return.
    """
    return np.argsort(-scores, kind="stable")[:count]


def query_scores(ranked: Sequence[str], judged: Mapping[str, int]) -> dict[str, float]:
    """Scores the documents of a query as trec_eval does.

    A document is relevant if its relevance is 1 or more; what is not judged is not relevant.

    Args:
      ranked: ids of documents, the best first; of each at most one.
      judged: id -> relevance, which is the gain of nDCG (Jarvelin and Kekalainen, 2002).

    Returns:
      The `SCORE_NAMES`, in [0, 1]: all 0 where no document is relevant.
    """
    gains = [max(judged.get(name, 0), 0) for name in ranked[:_LONG]]
    ideal = sorted((gain for gain in judged.values() if gain > 0), reverse=True)
    if not ideal:
        return dict.fromkeys(SCORE_NAMES, 0.0)
    first = next((rank for rank, gain in enumerate(gains[:_SHORT], 1) if gain), 0)
    found = {
        f"recall@{depth}": sum(gain > 0 for gain in gains[:depth]) / len(ideal)
        for depth in (1, _SHORT, _LONG)
    }
    return {
        "ndcg@10": _gain(gains[:_SHORT]) / _gain(ideal[:_SHORT]),
        "mrr@10": 1 / first if first else 0.0,
        **found,
    }


def _gain(gains: Sequence[int]) -> float:
    return math.fsum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, 1))


def mean_scores(run: RankedQueries, judgements: Judgements) -> dict[str, float]:
    """Returns the mean of `query_scores` over all judged queries; one without a document has 0."""
    each = [
        query_scores([name for name, _ in run.get(query, [])], judged)
        for query, judged in judgements.items()
    ]
    return {name: math.fsum(scores[name] for scores in each) / len(each) for name in SCORE_NAMES}


def run_lines(run: RankedQueries, name: str) -> str:
    """Returns a run in TREC's format: query, Q0, document, rank from 1, score, name.

    Scores have the digits that make them the same float32 when they are read.
    """
    lines = [
        f"{query} Q0 {document} {rank} {np.float32(score)} {name}\n"
        for query, ranked in run.items()
        for rank, (document, score) in enumerate(ranked, 1)
    ]
    return "".join(lines)
