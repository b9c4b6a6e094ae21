"""Runs side by side: whole on their devices, and nothing between these."""

import jax
import numpy as np
import pytest

from bert_jax.config import FinetuneConfig, MeshConfig
from bert_jax.data.tasks.rows import BatchFormat, TaskInputs, TaskStream
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.runs.vectorised import SideBySide, place_runs, vectorise
from tests.fixtures.batches import classification_model, make_batch
from tests.fixtures.data import SPECIAL


def test_nothing_crosses_between_devices(tiny_encoder):
    mesh = sharding.make_runs_mesh(MeshConfig())
    config = FinetuneConfig()
    programs = vectorise(config, classification_model(tiny_encoder), mesh, 5, ())
    runs, filling = place_runs([(seed, 1e-3) for seed in range(14)], config, 5, mesh)
    assert filling == 2
    state = programs.begin({}, runs)
    assert state.step.shape == ()
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        assert leaf.shape[0] == 16
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}
    fields = make_batch(tiny_encoder, rows=3)
    batches = {name: np.stack([field] * 2) for name, field in fields.items()}
    batch = sharding.runs_batch(batches, np.arange(16) % 2, mesh)
    train_step = programs.train_step.lower(state, batch, runs)  # pyright: ignore
    dev = sharding.global_batch(fields, np.arange(3), 3, mesh)
    outputs_step = programs.outputs_step.lower(state.params, dev)  # pyright: ignore
    for lowered in (train_step, outputs_step):
        text = lowered.compile().as_text()
        assert "fusion" in text and "all-" not in text and "collective" not in text


def test_each_device_has_the_batches_of_its_runs():
    mesh = sharding.make_runs_mesh(MeshConfig())
    values = np.arange(3 * 5).reshape(3, 5)
    batch_of = np.repeat(np.array([2, 0, 1, 0]), 4)
    placed = sharding.runs_batch({"labels": values}, batch_of, mesh)["labels"]
    np.testing.assert_array_equal(placed, values[batch_of])
    assert {shard.data.shape for shard in placed.addressable_shards} == {(2, 5)}


@pytest.mark.parametrize("axis", ["fsdp", "tensor"])
def test_a_mesh_that_splits_a_run_is_refused(axis):
    with pytest.raises(UserError, match=f"mesh.{axis}=2 splits a run over devices"):
        sharding.make_runs_mesh(MeshConfig(**{axis: 2}))
    with pytest.raises(UserError, match="data=3 x fsdp=1 x tensor=1 does not match 8 devices"):
        sharding.make_runs_mesh(MeshConfig(data=3))


def test_batches_of_fewer_rows_are_filled_with_empty_ones():
    rng = np.random.default_rng(0)
    a = [np.arange(size, dtype=np.int32) for size in rng.integers(1, 9, 40)]
    inputs = TaskInputs(
        a, [np.zeros(0, np.int32)] * 40, np.zeros(40, np.int32), np.arange(40), SPECIAL
    )
    rows = BatchFormat(12, 3, SPECIAL, False, 7)
    dealt = [rows.deal(inputs, epochs=1, seed=s, rows_multiple=m) for s, m in ((0, 1), (1, 9))]
    assert dealt[0].rows != dealt[1].rows
    streams = [TaskStream(inputs, each, rows) for each in dealt]
    batch = SideBySide(streams).batch(2)
    for number, (stream, each) in enumerate(zip(streams, dealt, strict=True)):
        own = stream.rows(2 * each.rows + np.arange(each.rows))
        for name, field in own.items():
            np.testing.assert_array_equal(batch[name][number, : each.rows], field)
            assert not batch[name][number, each.rows :].any()
