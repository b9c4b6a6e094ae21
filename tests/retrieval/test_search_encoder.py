"""Vectors of a search: each text once, whatever their order; prompts, lengths and similarity."""

import random
from typing import Any

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import find_checkpoint
from bert_jax.checkpoints.pretrained import one_device
from bert_jax.config import (
    FinetuneConfig,
    SearchOptions,
    Similarity,
    TaskKind,
    VectorPooling,
    VectorsConfig,
    to_dict,
)
from bert_jax.errors import UserError
from bert_jax.inspection.internals import text_internals
from bert_jax.inspection.stored import open_checkpoint
from bert_jax.retrieval.search_encoder import SearchEncoder, search_settings
from tests.fixtures.drivers import Run

TEXTS = ["red stone house", "wind", "old new blue river under tree", "sun", "wind", "red"]


def make(run: Run, *, batch_size: int = 4, **options: Any) -> SearchEncoder:
    checkpoint, chosen = find_checkpoint(run[0]), SearchOptions(**options)
    return SearchEncoder(checkpoint, one_device(), chosen, batch_size=batch_size)


def test_each_text_is_encoded_once(pretrained: Run) -> None:
    encoder = make(pretrained)
    seen, compute = [], encoder._vectors
    encoder._vectors = lambda a, b: seen.extend(map(tuple, a)) or compute(a, b)
    vectors = encoder.texts(TEXTS)
    assert len(seen) == len(set(seen)) == 5
    order = list(range(6))
    random.Random(1).shuffle(order)
    np.testing.assert_array_equal(encoder.texts([TEXTS[n] for n in order]), vectors[order])
    assert seen[:5] == seen[5:]


def test_a_vector_is_that_of_the_text_alone(pretrained: Run) -> None:
    whole = open_checkpoint(pretrained[0]).restore_encoder()
    alone = [text_internals(whole, f"the {text}").hidden[-1] for text in TEXTS]
    means = np.array([hidden.mean(axis=0) for hidden in alone])
    encoder = make(pretrained, query_prompt="the ", similarity=Similarity.PRODUCT)
    np.testing.assert_allclose(encoder.queries(TEXTS), means, rtol=1e-4, atol=1e-5)
    encoder = make(pretrained, text_prompt="the ", pooling=VectorPooling.LAST, batch_size=1)
    last = np.array([hidden[-1] for hidden in alone])
    last /= np.linalg.norm(last, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.texts(TEXTS), last, rtol=1e-4, atol=1e-5)
    assert not encoder.cut


def test_long_texts_are_cut_and_counted(pretrained: Run) -> None:
    encoder = make(pretrained, length=5)
    vectors = encoder.texts(TEXTS)
    assert encoder.cut == 2  # "stone" has two pieces
    alone = encoder.texts(["old new blue"])[0]
    np.testing.assert_allclose(vectors[2], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"the text '\\u200b' has no token: give it words"):
        encoder.texts(["red", "\u200b"])


def test_a_prompt_does_not_fill_an_empty_text(pretrained: Run) -> None:
    prompts = {"query_prompt": "the ", "text_prompt": "the "}
    encoder = make(pretrained, **prompts)
    for encode in (encoder.texts, encoder.queries):
        for empty in ("", "\u200b"):
            with pytest.raises(UserError, match="has no token: give it words"):
                encode(["red", empty])
    checkpoint, options = find_checkpoint(pretrained[0]), SearchOptions(**prompts)
    lenient = SearchEncoder(checkpoint, one_device(), options, batch_size=4, empty_texts=True)
    vectors = lenient.texts(["", "red"])
    assert not vectors[0].any()
    np.testing.assert_allclose(vectors[1], encoder.texts(["red"])[0], rtol=1e-4, atol=1e-5)


def test_a_trained_checkpoint_says_how_it_is_searched() -> None:
    config = FinetuneConfig(task=TaskKind.VECTORS)
    config.data.length = 48
    config.vectors = VectorsConfig(normalised=False, query_prompt="query: ")
    metadata = {"kind": "vectors", "config": to_dict(config), "encoder": {"max_length": 64}}
    assert search_settings(metadata, SearchOptions()) == (config.vectors, 48)
    options = SearchOptions(similarity=Similarity.COSINE, query_prompt="", length=64)
    changed, length = search_settings(metadata, options)
    assert changed == VectorsConfig(normalised=True) and length == 64
    by_cosine = search_settings(metadata | {"similarity": "cosine"}, SearchOptions())[0]
    assert by_cosine == VectorsConfig(query_prompt="query: ")
    options = SearchOptions(similarity=Similarity.PRODUCT)
    assert not search_settings(metadata | {"similarity": "cosine"}, options)[0].normalised
    metadata = {"kind": "pretraining", "encoder": {"max_length": 64}, "max_length": 32}
    assert search_settings(metadata, SearchOptions()) == (VectorsConfig(normalised=True), 32)
    options = SearchOptions(similarity=Similarity.PRODUCT)
    assert not search_settings(metadata, options)[0].normalised
