"""Losses over a whole batch: one loss and one gradient on any mesh, in any number of parts."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from bert_jax.config import EncoderConfig, MeshConfig, VectorLoss, VectorPooling, VectorsConfig
from bert_jax.data.tasks.rows import BatchFormat, RightNumbers, TaskInputs, TaskStream, TextRoles
from bert_jax.distributed import sharding
from bert_jax.model.heads import VectorModel
from bert_jax.objectives.contrastive import make_vector_loss
from bert_jax.training.state import run_key
from bert_jax.training.step import Gradient, cached_gradient
from tests.fixtures.batches import Batch, random_params
from tests.fixtures.data import SPECIAL

EXAMPLES = 8
SETTINGS = VectorsConfig(temperature=0.2, symmetric=True)


@pytest.fixture(scope="module")
def dropped(tiny_encoder: EncoderConfig) -> EncoderConfig:
    """The tiny encoder with much dropout."""
    return dataclasses.replace(tiny_encoder, dropout_rate=0.3, attention_dropout_rate=0.3)


def make_rows(rows_multiple: int, columns: int = 3, *, twice: bool = False) -> Batch:
    """Packs 8 examples of texts of 1 to 6 tokens into rows, at most 3 texts in each.

    Args:
      rows_multiple: of their number; empty rows fill up.
      columns: texts of an example.
      twice: True if all texts of an example are the same.
    """
    rng = np.random.default_rng(1)
    example_of, column_of = np.divmod(np.arange(EXAMPLES * columns), columns)
    texts = [rng.integers(5, 60, rng.integers(1, 7)).astype(np.int32) for _ in example_of]
    numbers = 1 + np.arange(len(texts))
    if twice:
        texts = [texts[example * columns] for example in example_of]
        numbers = 1 + example_of
    rights = numbers[column_of == 1]
    bounds = np.zeros(len(texts) + 2, np.int64)
    bounds[1:] = np.searchsorted(numbers[column_of == 0], np.arange(len(texts) + 1), side="right")
    roles = TextRoles(column_of, columns, numbers, RightNumbers(bounds, rights))
    scores = (example_of % 5).astype(np.float32)
    nothing = [np.zeros(0, np.int32)] * len(texts)
    inputs = TaskInputs(texts, nothing, scores, example_of, SPECIAL, roles=roles)
    batch_format = BatchFormat(14, 3, SPECIAL, pool_last=False, batch_size=EXAMPLES)
    batches = batch_format.deal(inputs, epochs=1, seed=0, rows_multiple=rows_multiple)
    return TaskStream(inputs, batches, batch_format).rows(np.arange(batches.rows))


def gradient_on(
    devices: int, parts: int, encoder: EncoderConfig, settings: VectorsConfig, **mesh: int
) -> Gradient:
    """Returns the loss, totals and gradient of the batch on a mesh, in parts."""
    model = VectorModel(encoder, settings.pooling, settings.normalised)
    made = sharding.make_mesh(MeshConfig(**mesh), jax.devices()[:devices])
    batch = make_rows(devices * parts)
    params = random_params(model, batch)
    loss = make_vector_loss(model, settings, examples=EXAMPLES, columns=3, mesh=made)
    gradient = jax.jit(cached_gradient(loss, parts, made))
    return jax.device_get(gradient(params, on_mesh(batch, made), run_key(5), None))


def on_mesh(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    size = len(batch["token_ids"])
    rows = sharding.host_rows(size, mesh)
    local = {name: field[rows] for name, field in batch.items()}
    return sharding.global_batch(local, rows, size, mesh)


_WHOLE: dict[VectorLoss, Any] = {}


@pytest.mark.parametrize(
    ("devices", "parts", "mesh", "loss"),
    [
        *[
            pytest.param(
                *(devices, parts, {}, VectorLoss.CONTRASTIVE),
                marks=[] if (devices, parts) in ((1, 3), (2, 4), (4, 2)) else pytest.mark.slow,
            )
            for devices in (1, 2, 4)
            for parts in (1, 2, 3, 4)
            if devices * parts > 1
        ],
        (4, 2, {"fsdp": 2, "tensor": 2}, VectorLoss.CONTRASTIVE),
        (2, 2, {}, VectorLoss.COSENT),
        pytest.param(4, 2, {}, VectorLoss.COSINE, marks=pytest.mark.slow),
    ],
)
def test_parts_on_a_mesh_give_the_gradient_of_the_whole_batch(
    dropped, devices: int, parts: int, mesh: dict[str, int], loss: VectorLoss
) -> None:
    settings = dataclasses.replace(SETTINGS, loss=loss, widths="7" if parts > 3 else "")
    plain = dataclasses.replace(settings, widths="")
    if loss not in _WHOLE or settings.widths:
        whole = gradient_on(1, 1, dropped, settings)
        _WHOLE.setdefault(loss, whole if settings == plain else gradient_on(1, 1, dropped, plain))
    else:
        whole = _WHOLE[loss]
    (value, totals), grads = gradient_on(devices, parts, dropped, settings, **mesh)
    (expected_value, expected_totals), expected = whole
    np.testing.assert_allclose(value, expected_value, rtol=2e-5)
    for name, total in totals.items():
        np.testing.assert_allclose(total, expected_totals[name], rtol=2e-5, err_msg=name)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    assert scale > 1e-3

    def compare(path: tuple, ours: Any, theirs: Any) -> None:
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5 * scale, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, grads, expected)


def test_each_view_of_a_text_has_its_own_dropout_and_every_part_the_same(dropped) -> None:
    model = VectorModel(dropped, VectorPooling.MEAN, normalised=True)
    loss = make_vector_loss(model, SETTINGS, examples=EXAMPLES, columns=2)
    batch = make_rows(2, columns=2, twice=True)
    params = random_params(model, batch)
    batch["row_numbers"] = np.arange(len(batch["token_ids"]), dtype=np.int32)
    vectors = jax.jit(loss.vectors)
    whole = np.asarray(vectors(params, batch, run_key(5)))
    half = len(whole) // 2
    for rows in (slice(half), slice(half, None)):
        part = {name: field[rows] for name, field in batch.items()}
        np.testing.assert_allclose(
            vectors(params, part, run_key(5)), whole[rows], rtol=1e-5, atol=1e-6
        )
    places = batch["places"].reshape(-1)
    views = np.stack([whole.reshape(len(places), -1)[places == place][0] for place in range(1, 17)])
    apart = np.linalg.norm(views[0::2] - views[1::2], axis=1)
    assert apart.min() > 0.05
    still = np.asarray(vectors(params, batch, None)).reshape(len(places), -1)
    same = np.stack([still[places == place][0] for place in range(1, 17)])
    np.testing.assert_allclose(same[0::2], same[1::2], atol=1e-5)
