"""A checkpoint scored by the library mteb, on tasks of ours, against our own scores."""

import pathlib
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bert_jax.checkpoints.checkpoint import find_checkpoint
from bert_jax.checkpoints.pretrained import one_device
from bert_jax.config import SearchOptions, Similarity
from bert_jax.retrieval.mteb_model import MtebModel
from bert_jax.retrieval.scoring import score_retrieval
from bert_jax.retrieval.search_encoder import SearchEncoder
from tests.fixtures.drivers import Run
from tests.retrieval.test_retrieval_drivers import make_texts, write_collection

pytest.importorskip("torch")  # which mteb computes its scores with
mteb = pytest.importorskip("mteb")
abstasks = pytest.importorskip("mteb.abstasks")
task_metadata = pytest.importorskip("mteb.abstasks.task_metadata")
PROMPTED = SearchOptions(query_prompt="the ", text_prompt="red ")


def describe(name: str, kind: str, score: str) -> Any:
    return task_metadata.TaskMetadata(
        name=name,
        type=kind,
        main_score=score,
        description="made of a few words",
        reference=None,
        dataset={"path": "none", "revision": "none"},
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


def test_pairs_score_as_with_scipy(pretrained: Run) -> None:
    datasets = pytest.importorskip("datasets")
    texts = make_texts(24)
    pairs = {"sentence1": texts[:12], "sentence2": texts[12:], "score": list(range(12))}

    class Pairs(abstasks.AbsTaskSTS):
        metadata = describe("Pairs", "STS", "cosine_spearman")
        min_score, max_score = 0, 11

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            self.dataset = datasets.DatasetDict(test=datasets.Dataset.from_dict(pairs))
            self.data_loaded = True

    encoder = SearchEncoder(
        find_checkpoint(pretrained[0]), one_device(), SearchOptions(), batch_size=4
    )
    cosines = (encoder.plain(texts[:12]) * encoder.plain(texts[12:])).sum(axis=1)
    model = MtebModel(pretrained[0], PROMPTED, batch_size=4)
    result = mteb.evaluate(model, Pairs(), cache=None)
    scores = result.task_results[0].scores["test"][0]
    expected = stats.spearmanr(cosines, pairs["score"]).statistic
    assert scores["spearman"] == pytest.approx(expected, abs=1e-6)
    assert scores["cosine_spearman"] == pytest.approx(expected, abs=1e-6)


def test_retrieval_scores_as_evaluate_does(pretrained: Run, tmp_path: pathlib.Path) -> None:
    datasets = pytest.importorskip("datasets")
    texts, queries = make_texts(40), ["red sun", "the old river", "wind sees"]
    judged = {"0": {"7": 1, "3": 1}, "1": {"20": 1}, "2": {"11": 1, "30": 1, "5": 1}}
    rows = [(query, text, 1) for query, found in judged.items() for text in found]
    folder = write_collection(tmp_path / "c", texts, queries, rows)
    ours = score_retrieval(pretrained[0], folder, None, vectors=PROMPTED)["vectors"]

    class Search(abstasks.AbsTaskRetrieval):
        metadata = describe("Search", "Retrieval", "ndcg_at_10")

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            corpus = [{"id": str(n), "title": "", "text": text} for n, text in enumerate(texts)]
            asked = [{"id": str(n), "text": text} for n, text in enumerate(queries)]
            split = {
                "corpus": datasets.Dataset.from_list(corpus),
                "queries": datasets.Dataset.from_list(asked),
                "relevant_docs": judged,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    result = mteb.evaluate(MtebModel(pretrained[0], PROMPTED), Search(), cache=None)
    scores = result.task_results[0].scores["test"][0]
    for name, theirs in {
        "ndcg@10": "ndcg_at_10",
        "mrr@10": "mrr_at_10",
        "recall@10": "recall_at_10",
        "recall@100": "recall_at_100",
    }.items():
        assert scores[theirs] == pytest.approx(ours[name], abs=1e-5)
    assert 0.0 < ours["ndcg@10"] < 1.0


def test_a_text_without_tokens_is_similar_to_nothing(pretrained: Run) -> None:
    model = MtebModel(pretrained[0], batch_size=2)
    batches = [{"text": ["red", ""]}, {"text": ["\u200b", "the sun"]}]
    names = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    vectors = model.encode(batches, **names)
    np.testing.assert_array_equal(vectors[1:3], 0.0)
    np.testing.assert_allclose(np.linalg.norm(vectors[[0, 3]], axis=1), 1.0, rtol=1e-5)
    similarity = model.similarity(vectors, vectors)
    np.testing.assert_array_equal(similarity[1], 0.0)
    np.testing.assert_allclose(
        model.similarity_pairwise(vectors, vectors), np.diag(similarity), rtol=1e-6
    )
    assert not model.encode([{"text": [""]}], **names).any()


def test_kept_scores_are_those_of_one_checkpoint(pretrained: Run) -> None:
    first = MtebModel(pretrained[0]).mteb_model_meta
    assert first == MtebModel(pretrained[0]).mteb_model_meta
    others = [
        MtebModel(pretrained[0] / "checkpoints" / "8"),
        MtebModel(pretrained[0], PROMPTED),
        MtebModel(pretrained[0], SearchOptions(similarity=Similarity.PRODUCT)),
        MtebModel(pretrained[0], SearchOptions(length=12)),
    ]
    revisions = {each.mteb_model_meta.revision for each in others}
    assert len(revisions) == 4 and first.revision not in revisions
    assert others[2].mteb_model_meta.similarity_fn_name.value == "dot"
