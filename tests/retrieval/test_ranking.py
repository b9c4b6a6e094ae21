"""Scores of runs: those of trec_eval on the same files, ties and all."""

import math
import pathlib

import numpy as np
import pytest

from bert_jax.retrieval.ranking import SCORE_NAMES, best_first, mean_scores, query_scores, run_lines

# pytrec_eval's names; it has no reciprocal rank at 10, so the run is cut.
THEIRS = {
    "ndcg@10": "ndcg_cut_10",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
}


def test_scores_by_hand() -> None:
    scores = query_scores(["d", "b", "a", "x"], {"a": 2, "b": 1, "c": 3, "d": 0, "e": -1})
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert scores["ndcg@10"] == pytest.approx((1 / math.log2(3) + 2 / 2) / ideal)
    assert scores["mrr@10"] == 1 / 2
    assert (scores["recall@1"], scores["recall@10"]) == (0, pytest.approx(2 / 3))
    late = [f"x{number}" for number in range(10)] + ["a"]
    assert query_scores(late, {"a": 1}) == {
        **dict.fromkeys(SCORE_NAMES, 0.0),
        "recall@100": 1.0,
    }
    assert query_scores(["a"], {"a": 0, "b": -1}) == dict.fromkeys(SCORE_NAMES, 0.0)


def test_equal_scores_are_ranked_by_id_descending(tmp_path: pathlib.Path) -> None:
    names = ["b10", "b9", "é", "a"]  # by bytes é is last
    ids = sorted(names, reverse=True)
    assert [ids[n] for n in best_first(np.ones(4, np.float32), 3)] == ["é", "b9", "b10"]


def test_scores_are_those_of_trec_eval(tmp_path: pathlib.Path) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(3)
    ids = sorted((f"d{number}é" for number in rng.permutation(130)), reverse=True)
    judgements, run, cut = {}, {}, {}
    for number in range(40):
        query = f"q{number}"
        chosen = rng.choice(130, size=rng.integers(1, 30), replace=False)
        judgements[query] = {ids[n]: int(rng.integers(-1, 4)) for n in chosen}
        # Few different scores, and of some pairs float64 tells what float32 does not.
        scores = rng.integers(0, 9, 130) / 8 + rng.choice([0, 1e-12], 130)
        best = best_first(scores.astype(np.float32), 100)
        run[query] = [(ids[n], float(scores[n])) for n in best]
        cut[query] = dict(run[query][:10])
    judgements["q0"] = dict.fromkeys(judgements["q0"], 0)  # nothing is relevant
    path = tmp_path / "run.trec"
    path.write_text(run_lines(run, "ours"), encoding="utf-8")
    lines = path.read_text(encoding="utf-8").splitlines()
    lines.sort(key=lambda line: line.split()[2])  # neither their order nor the ranks count
    parsed = pytrec_eval.parse_run(lines)
    theirs = pytrec_eval.RelevanceEvaluator(judgements, set(THEIRS.values())).evaluate(parsed)
    first = pytrec_eval.RelevanceEvaluator(judgements, {"recip_rank"}).evaluate(cut)
    assert len(theirs) == 40
    for query, judged in judgements.items():
        ours = query_scores([name for name, _ in run[query]], judged)
        for name, their_name in THEIRS.items():
            assert ours[name] == pytest.approx(theirs[query][their_name], abs=1e-9), (query, name)
        assert ours["mrr@10"] == pytest.approx(first[query]["recip_rank"], abs=1e-9)
    means = mean_scores(run, judgements)
    assert means["ndcg@10"] == pytest.approx(np.mean([s["ndcg_cut_10"] for s in theirs.values()]))
    assert means["ndcg@10"] > 0.03  # witness


def test_a_query_without_results_counts() -> None:
    judgements = {"p": {"a": 1}, "q": {"b": 1}}
    assert mean_scores({"p": [("a", 1.0)]}, judgements) == dict.fromkeys(SCORE_NAMES, 0.5)
