"""The step: one loss and one gradient whatever the mesh and the packing, and repeatable draws."""

import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from bert_jax.config import EncoderConfig, MaskingConfig, MeshConfig, OptimizerConfig
from bert_jax.distributed import sharding
from bert_jax.errors import UserError
from bert_jax.model.heads import PretrainingModel, TaskModel
from bert_jax.objectives.losses import (
    Loss,
    class_totals,
    make_pretraining_loss,
    make_task_loss,
    mean,
)
from bert_jax.objectives.masking import MaskVocabulary, mask_tokens
from bert_jax.training import step as training
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.state import (
    TrainState,
    abstract_params,
    abstract_state,
    init_params,
    init_state,
    run_key,
)
from tests.fixtures.batches import (
    MASK,
    SPECIAL_IDS,
    UNK,
    Batch,
    classification_model,
    make_batch,
    random_params,
    run_inputs,
    with_targets,
)


@pytest.fixture(scope="module")
def still(tiny_encoder: EncoderConfig) -> EncoderConfig:
    """The tiny encoder without dropout."""
    return dataclasses.replace(tiny_encoder, dropout_rate=0.0, attention_dropout_rate=0.0)


def prepare_fn(config: EncoderConfig) -> training.PrepareFn:
    """Returns the masking that a pretraining run would bind."""
    masking = MaskingConfig()
    starts = np.ones(config.vocab_size, bool)
    vocabulary = MaskVocabulary(SPECIAL_IDS, MASK, config.vocab_size, starts)

    def prepare(batch: Any, key: jax.Array, rate: jax.Array) -> Any:
        return mask_tokens(batch, key, rate, masking, vocabulary=vocabulary)

    return prepare


def one_device() -> Mesh:
    """Returns the mesh of a machine with one device."""
    return sharding.make_mesh(MeshConfig(), jax.devices()[:1])


def place(batch: Batch, mesh: Mesh) -> dict[str, jax.Array]:
    """Puts a batch on the mesh, as the loader does."""
    size = len(batch["token_ids"])
    rows = sharding.host_rows(size, mesh)
    local = {name: field[rows] for name, field in batch.items()}
    return sharding.global_batch(local, rows, size, mesh)


def assert_trees_close(tree: Any, expected: Any, *, rtol: float, atol: float = 0) -> None:
    """Compares leaf by leaf, and names the leaf that differs."""

    def compare(path: tuple, leaf: Any, other: Any) -> None:
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, other, rtol=rtol, atol=atol, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, tree, expected)


def start(model: PretrainingModel | TaskModel, tx: Any, abstract: TrainState) -> Any:
    """Returns the state of step 0, with parameters so wide that each matters."""
    params = random_params(model, with_targets(make_batch(model.config)))
    placed = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract.params))
    return init_state(placed, tx, abstract)


def test_fresh_parameters_do_not_depend_on_the_mesh(tiny_encoder):
    model = PretrainingModel(tiny_encoder)
    mesh = sharding.make_mesh(MeshConfig(fsdp=2, tensor=2))
    first, other, alone = (
        jax.device_get(init_params(model, seed, abstract_params(model, m)))
        for seed, m in ((0, mesh), (1, mesh), (0, one_device()))
    )
    assert_trees_close(first, alone, rtol=0)
    assert (first["nsp_head"]["dense"]["kernel"] != other["nsp_head"]["dense"]["kernel"]).all()


# --- packing


def unpack(batch: Batch) -> Batch:
    """Gives each example, with its targets, a row of its own (N=1)."""
    rows = []
    for row, example in zip(*np.nonzero(batch["weights"]), strict=True):
        own = batch["example_ids"][row] == example + 1
        single = {name: np.zeros_like(batch[name][row]) for name in batch}
        for name in ("token_ids", "segment_ids", "position_ids", "mlm_labels", "mlm_weights"):
            single[name][: own.sum()] = batch[name][row][own]
        single["example_ids"][: own.sum()] = 1
        single["mlm_positions"] = batch["mlm_positions"][row]  # every position, in any row
        single["pool_positions"] = np.zeros(1, np.int32)
        for name in ("labels", "weights"):
            single[name] = batch[name][row, example : example + 1]
        rows.append(single)
    return {name: np.stack([single[name] for single in rows]) for name in rows[0]}


def test_packed_and_unpacked_rows_give_the_same_gradient(still):
    model = PretrainingModel(still)
    packed = with_targets(make_batch(still))
    unpacked = unpack(packed)
    assert len(unpacked["token_ids"]) > len(packed["token_ids"])
    params = random_params(model, packed)
    gradient_of = jax.jit(jax.value_and_grad(make_pretraining_loss(model), has_aux=True))
    (loss, totals), grads = gradient_of(params, packed, None)
    (expected_loss, expected_totals), expected = gradient_of(params, unpacked, None)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert_trees_close(totals, expected_totals, rtol=2e-6)
    assert_trees_close(grads, expected, rtol=1e-4, atol=1e-6 * float(optax.tree.norm(expected)))
    # Witness: without the walls between examples the loss is another.
    joined = packed | {"example_ids": np.minimum(packed["example_ids"], 1)}
    assert abs(gradient_of(params, joined, None)[0][0] - expected_loss) > 1e-3


# --- randomness


def test_the_run_key_decides_everything(tiny_encoder):
    model, mesh = PretrainingModel(tiny_encoder), sharding.make_mesh(MeshConfig())
    tx = make_optimizer(OptimizerConfig())
    abstract = abstract_state(model, tx, mesh)
    prepare = prepare_fn(tiny_encoder)
    step = training.make_train_step(make_pretraining_loss(model), prepare, tx, abstract)
    batches = [place(make_batch(tiny_encoder, seed=seed), mesh) for seed in range(3)]

    def run(seed: int) -> tuple[Any, list[Any]]:
        state, history = start(model, tx, abstract), []
        for batch in batches:
            state, totals = step(state, batch, run_inputs(seed))
            history.append(jax.device_get(totals))
        assert state.step == 3
        return jax.device_get(state.params), history

    first, first_history = run(0)
    again, again_history = run(0)
    assert_trees_close(again, first, rtol=0)
    assert_trees_close(again_history, first_history, rtol=0)
    other, _ = run(1)
    for name in ("tokens", "positions"):
        moved = np.abs(other["encoder"]["embeddings"][name] - first["encoder"]["embeddings"][name])
        assert moved.max() > 1e-3


def loss_of(loss_fn: Any) -> Any:
    """A loss that has no teacher."""
    return types.SimpleNamespace(given=lambda teacher: loss_fn)


def test_the_dropout_key_changes_with_the_step_and_the_row_key_does_not(tiny_encoder):
    model, tx, mesh = PretrainingModel(tiny_encoder), optax.identity(), one_device()
    abstract = abstract_state(model, tx, mesh)

    def loss_fn(params: Any, batch: Any, dropout_key: Any) -> Any:
        for key in (batch["key"], dropout_key):  # masks and dropout are the same on every device
            assert str(jax.random.key_impl(key)) == "threefry2x32"
        bits = [jax.random.key_data(key) for key in (dropout_key, batch["key"])]
        return jnp.zeros(()), {"dropout": bits[0], "rows": bits[1], "rate": batch["rate"][None]}

    def prepare(batch: Any, key: jax.Array, rate: jax.Array) -> Any:
        return batch | {"key": key, "rate": rate}

    step = training.make_train_step(loss_of(loss_fn), prepare, tx, abstract)
    state, batch = start(model, tx, abstract), place(make_batch(tiny_encoder), mesh)
    seen, names, run = [], {"dropout", "rows", "rate"}, run_inputs()
    rates = np.float32([0.1, 0.2, 0.3])
    run = run._replace(settings=run.settings._replace(mask_rate=rates))
    for _ in range(3):
        state, totals = step(state, batch, run)
        seen.append({name: tuple(np.asarray(totals[name])) for name in names})
    assert len({bits["dropout"] for bits in seen}) == 3
    assert len({bits["rows"] for bits in seen}) == 1
    assert seen[0]["dropout"] != seen[0]["rows"]
    # What is prepared knows the rate of masking of the step; an evaluation has one of its own.
    assert [bits["rate"] for bits in seen] == [(rate,) for rate in rates]
    only_the_rate: Any = lambda params, batch, key: {"rate": batch["rate"]}  # noqa: E731
    nothing = Loss(only_the_rate, lambda batch: {}, {})
    totals = training.make_eval_step(nothing, prepare, 0.25, mesh)(state.params, batch, run_key(0))
    assert totals["rate"] == 0.25


def test_evaluation_repeats_itself_and_has_no_dropout(tiny_encoder, still):
    batch, key = make_batch(tiny_encoder), run_key(0)
    prepare = prepare_fn(tiny_encoder)
    params = random_params(PretrainingModel(still), with_targets(batch))
    evaluate, without_dropout = (
        training.make_eval_step(
            make_pretraining_loss(PretrainingModel(config)), prepare, 0.15, one_device()
        )
        for config in (tiny_encoder, still)
    )
    totals = evaluate(params, batch, key)
    assert_trees_close(evaluate(params, batch, key), totals, rtol=0)
    assert_trees_close(without_dropout(params, batch, key), totals, rtol=1e-6)
    # Witness: another key is another mask.
    assert totals["mlm_loss"].sum != evaluate(params, batch, run_key(1))["mlm_loss"].sum


# --- fine-tuning and the border


def test_a_step_with_a_frozen_encoder_trains_the_head_alone(tiny_encoder):
    model, mesh = classification_model(tiny_encoder), sharding.make_mesh(MeshConfig(tensor=2))
    config = OptimizerConfig()
    tx = make_optimizer(config, frozen=frozenset({"encoder", "pooler"}))
    abstract = abstract_state(model, tx, mesh)
    step = training.make_train_step(
        make_task_loss(model, class_totals), lambda batch, key, step: batch, tx, abstract
    )
    state = start(model, tx, abstract)
    before = jax.device_get(state.params)
    state, _ = step(state, place(make_batch(tiny_encoder), mesh), run_inputs())
    for group in ("encoder", "pooler"):
        assert_trees_close(state.params[group], before[group], rtol=0)
    moved = state.params["classifier"]["dense"]["kernel"] - before["classifier"]["dense"]["kernel"]
    assert np.abs(moved).max() > 1e-3


@pytest.mark.parametrize(
    "config", [MeshConfig(data=3), MeshConfig(data=8, tensor=2), MeshConfig(fsdp=16)], ids=str
)
def test_a_mesh_that_does_not_fit_is_refused(config):
    with pytest.raises(UserError, match=r"--config\.mesh: .* product is 8$"):
        sharding.make_mesh(config)


def test_batch_sizes_must_divide_among_the_data_axes():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    sharding.check_batch_size(12, mesh)
    with pytest.raises(UserError, match=r"--config\.batch_size=10 .* multiple of 4$"):
        sharding.check_batch_size(10, mesh)


def test_global_batch_keeps_every_row_in_its_place():
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = sharding.host_rows(16, mesh)
    np.testing.assert_array_equal(rows, np.arange(16))
    field = np.random.default_rng(0).integers(0, 99, (16, 5))
    placed = sharding.global_batch({"field": field.astype(np.int32)}, rows, 16, mesh)["field"]
    np.testing.assert_array_equal(placed, field)
    assert placed.addressable_shards[0].data.shape == (4, 5)


@pytest.mark.parametrize(
    ("mesh_sizes", "message"),
    [
        ({"tensor": 8}, "--config.mesh.tensor=8 does not divide encoder.heads=4"),
        ({"fsdp": 8, "width": 28}, "--config.mesh.fsdp=8 does not divide encoder.width=28"),
        ({"tensor": 4, "mlp_width": 42}, "mesh.tensor=4 does not divide encoder.mlp_width=42"),
    ],
)
def test_a_mesh_that_does_not_divide_the_encoder_is_refused(tiny_encoder, mesh_sizes, message):
    axes = {name: mesh_sizes[name] for name in ("fsdp", "tensor") if name in mesh_sizes}
    sizes = {name: mesh_sizes[name] for name in ("width", "mlp_width") if name in mesh_sizes}
    mesh = sharding.make_mesh(MeshConfig(**axes))
    with pytest.raises(UserError, match=message):
        sharding.check_encoder(dataclasses.replace(tiny_encoder, **sizes), mesh)


def test_a_step_without_a_finite_loss_changes_nothing_but_the_count(tiny_encoder):
    model, mesh = classification_model(tiny_encoder), sharding.make_mesh(MeshConfig())
    tx = make_optimizer(OptimizerConfig())
    abstract = abstract_state(model, tx, mesh)
    loss_fn = make_task_loss(model, class_totals)

    def sick(params: Any, batch: Any, key: Any) -> Any:
        loss, totals = loss_fn(params, batch, key)
        # One token decides: a factor that is no number makes the gradients sick as well.
        decider = batch["token_ids"][0, 0]
        return loss * jnp.select([decider == MASK, decider == UNK], [jnp.nan, jnp.inf], 1.0), totals

    step = training.make_train_step(loss_of(sick), lambda batch, key, step: batch, tx, abstract)
    run, healthy = run_inputs(), make_batch(tiny_encoder)
    state, totals = step(start(model, tx, abstract), place(healthy, mesh), run)
    assert totals["skipped"] == (0, 1) and mean(totals["loss"]) > 0
    for bad in (MASK, UNK):
        before = jax.device_get(state)
        marked = healthy | {"token_ids": healthy["token_ids"].copy()}
        marked["token_ids"][0, 0] = bad
        state, totals = step(state, place(marked, mesh), run)
        after = jax.device_get(state)
        assert totals["skipped"] == (1, 1) and totals["loss"] == totals["accuracy"] == (0, 0)
        assert after.step == before.step + 1
        assert_trees_close(after.params, before.params, rtol=0)
        assert_trees_close(after.opt_state, before.opt_state, rtol=0)
    state, totals = step(state, place(healthy, mesh), run)
    assert totals["skipped"] == (0, 1)
    moved = jax.tree.map(
        lambda a, b: np.array_equal(a, b), jax.device_get(state.params), after.params
    )
    assert not all(jax.tree.leaves(moved))
