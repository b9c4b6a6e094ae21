"""Evaluation is the same on any number of devices and for any size of batches."""

import functools
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import EncoderConfig, MeshConfig
from bert_jax.data.tasks.rows import NO_LABEL, BatchFormat, TaskInputs, input_sizes
from bert_jax.distributed.sharding import make_mesh
from bert_jax.model.heads import TaskModel
from bert_jax.objectives.losses import class_totals, span_totals
from bert_jax.tasks.evaluation import InputBatches, make_features_step, make_outputs_step
from bert_jax.training.state import abstract_params, init_params
from tests.fixtures.data import SPECIAL

ENCODER = EncoderConfig(vocab_size=60, width=24, layers=2, heads=4, mlp_width=40, max_length=32)
COUNT = 61


def make_inputs(task: str) -> TaskInputs:
    rng = np.random.default_rng(0)
    a, b = (
        [rng.integers(5, 60, rng.integers(1, 8)).astype(np.int32) for _ in range(COUNT)]
        for _ in range(2)
    )
    sizes = input_sizes(a, b, SPECIAL)
    labels: Any = rng.integers(0, 3, COUNT).astype(np.int32)
    if task == "tags":
        labels = [rng.integers(NO_LABEL, 3, size).astype(np.int32) for size in sizes]
    if task == "spans":
        labels = rng.integers(0, sizes[:, None], (COUNT, 2)).astype(np.int32)
    return TaskInputs(a, b, labels, np.arange(COUNT), SPECIAL)


@functools.cache
def model_of(task: str) -> tuple[TaskModel, Any]:
    """Returns a model and its parameters."""
    sizes = {"classes": 3, "tags": 3, "spans": 2}
    model = TaskModel(ENCODER, "tagger", sizes[task], whole_inputs=task == "classes")
    params = init_params(
        model, 0, abstract_params(model, make_mesh(MeshConfig(), jax.devices()[:1]))
    )
    return model, jax.tree.map(lambda leaf: 3 * leaf, jax.device_get(params))


@functools.cache
def run(task: str, devices: int, batch_size: int, most: int = 4) -> tuple[Any, dict[str, float]]:
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    whole = task == "classes"
    model, params = model_of(task)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(model, mesh))
    params = jax.device_put(params, shardings)
    batch_format = BatchFormat(32, most, SPECIAL, False, batch_size)
    batches = InputBatches(make_inputs(task), batch_format, mesh, whole_inputs=whole)
    totals = span_totals if task == "spans" else class_totals
    return batches.outputs(make_outputs_step(model, totals, mesh), params)


def cases() -> list[Any]:
    """Each task with each number of devices and rows; `make test` has all of these for one task."""
    batches = [(1, 1), (1, 64), (2, 7), (8, 7), (8, 64), (8, 1)]
    return [
        pytest.param(
            *(task, devices, rows),
            marks=[]
            if task == "classes" or (devices, rows) in batches[2:5:2]
            else pytest.mark.slow,
        )
        for task, (devices, rows) in itertools.product(("classes", "tags", "spans"), batches)
    ]


@pytest.mark.parametrize(("task", "devices", "batch_size"), cases())
def test_outputs_are_those_of_one_input_a_row(task: str, devices: int, batch_size: int) -> None:
    expected, expected_means = run(task, 1, 7, most=1)
    outputs, means = run(task, devices, batch_size)
    assert len(outputs) == COUNT
    for one, other in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert means["accuracy"] == expected_means["accuracy"]  # counts are equal
    assert means["loss"] == pytest.approx(expected_means["loss"], abs=1e-5)


def test_features_are_what_the_head_reads() -> None:
    inputs = make_inputs("tags")
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    model = TaskModel(ENCODER, "tagger", 3, whole_inputs=False, feature_layers=2)
    params = init_params(model, 0, abstract_params(model, mesh))
    batch_format = BatchFormat(32, 4, SPECIAL, False, 7)
    batches = InputBatches(inputs, batch_format, mesh, whole_inputs=False)
    features, _ = batches.outputs(make_features_step(model, mesh), params)
    assert [part.shape for part in features] == [(size, 48) for size in inputs.sizes]
    outputs, _ = batches.outputs(make_outputs_step(model, class_totals, mesh), params)
    head = jax.device_get(params["tagger"]["dense"])
    for part, output in zip(features, outputs, strict=True):
        np.testing.assert_allclose(part @ head["kernel"] + head["bias"], output, atol=1e-5)
