"""Vectors of texts: pooled from a text's own tokens, whatever else is in its row or batch."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import ComputeType, EncoderConfig, VectorPooling
from bert_jax.data.packing.layout import RowFormat
from bert_jax.data.tasks.classes import encode_inputs
from bert_jax.data.tasks.rows import make_token_rows
from bert_jax.model.encoder import Encoder
from bert_jax.model.heads import VectorModel, normalised
from tests.fixtures.batches import random_params
from tests.fixtures.data import LETTER_TOKENIZER, SPECIAL

TEXTS = ["a", "bc d", "efghijk", "l m n o p q r s t u v w", "xyz ab"]  # the fourth one is cut
LENGTH = 40


def rows_of(texts: list[str], in_row: list[int], model: VectorModel) -> dict[str, Any]:
    a, b, _ = encode_inputs(texts, [""] * len(texts), LETTER_TOKENIZER, 10)
    row_format = RowFormat(LENGTH, max(in_row), SPECIAL, model.pool_last)
    return make_token_rows(a, b, np.array(in_row), row_format)[0]


@pytest.mark.parametrize(
    ("pooling", "compute", "causal"),
    [
        (VectorPooling.MEAN, ComputeType.FLOAT32, False),
        (VectorPooling.MEAN, ComputeType.BFLOAT16, False),
        (VectorPooling.CLS, ComputeType.FLOAT32, False),
        (VectorPooling.CLS, ComputeType.FLOAT32, True),
        (VectorPooling.LAST, ComputeType.BFLOAT16, False),
    ],
)
def test_a_vector_depends_on_its_text_alone(
    tiny_encoder: EncoderConfig, pooling: VectorPooling, compute: ComputeType, causal: bool
) -> None:
    config = dataclasses.replace(
        tiny_encoder, max_length=LENGTH, compute_type=compute, causal=causal
    )
    model = VectorModel(config, pooling, normalised=False)
    apply = jax.jit(
        lambda params, batch: model.apply({"params": params}, batch, deterministic=True)
    )
    encode = Encoder(config)
    params = random_params(model, rows_of(TEXTS, [1] * 5, model))
    padded = np.asarray(apply(params, rows_of(TEXTS, [1] * 5, model)))[:, 0]
    assert padded.dtype == np.float32 and padded.std() > 0.1
    tolerance = 1e-5 if compute is ComputeType.FLOAT32 else 0.1
    packed = np.asarray(apply(params, rows_of(TEXTS, [5], model)))[0]
    np.testing.assert_allclose(packed, padded, atol=tolerance)
    other = np.asarray(apply(params, rows_of(TEXTS[::-1], [2, 0, 3], model)))
    turned = np.concatenate([other[0, :2], other[2]])[::-1]
    np.testing.assert_allclose(turned, padded, atol=tolerance)
    for number, size in ((0, 3), (3, 10)):
        alone = rows_of([TEXTS[number]], [1], model)
        assert np.sum(alone["example_ids"]) == size
        alone = {name: field[:, :size] for name, field in alone.items()}
        x = np.asarray(encode.apply({"params": params["encoder"]}, alone, deterministic=True))[0]
        tokens = x.astype(np.float32)
        first, last = tokens[0], tokens[-1]
        expected = {
            VectorPooling.CLS: last if causal else first,
            VectorPooling.MEAN: tokens.mean(axis=0),
            VectorPooling.LAST: last,
        }[pooling]
        np.testing.assert_allclose(padded[number], expected, atol=tolerance)


def test_vectors_are_divided_by_their_lengths_and_zero_stays() -> None:
    vectors = np.array([[3, 4], [0, 0], [1e-15, 0]], np.float32)
    np.testing.assert_allclose(normalised(vectors), [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: normalised(x)[:, 0].sum())(vectors[:2])
    np.testing.assert_allclose(gradient, [[0.128, -0.096], [0, 0]], rtol=1e-5)
