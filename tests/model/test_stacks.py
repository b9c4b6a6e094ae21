"""Kernels that lie apart between steps: the same values as stacks, wherever they are used."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from bert_jax.config import EncoderConfig, MeshConfig, Optimizer, OptimizerConfig, Remat
from bert_jax.distributed import sharding
from bert_jax.model.heads import PretrainingModel
from bert_jax.model.stacks import apart, hold, names_of, stacked, store
from bert_jax.objectives.losses import class_totals, make_pretraining_loss, make_task_loss
from bert_jax.training import step as training
from bert_jax.training.optimizer import layer_rates, make_optimizer
from tests.fixtures.batches import classification_model, make_batch, random_params, with_targets

NO_WARMUP = OptimizerConfig(warmup_steps=0, learning_rate=0.01, epsilon=1e-2)


def state_on(mesh_sizes: dict[str, int], config: EncoderConfig, tx: Any) -> training.TrainState:
    """Returns a state of a pretraining model, its moments those of a step already."""
    mesh = sharding.make_mesh(MeshConfig(**mesh_sizes))
    model = PretrainingModel(config)
    abstract = training.abstract_state(model, tx, mesh)
    params = training.init_params(model, 0, abstract.params)
    state = training.init_state(params, tx, abstract)
    return jax.tree.map(lambda leaf: leaf + 1, state)


@pytest.mark.parametrize("mesh_sizes", [{"data": 8}, {"fsdp": 4, "tensor": 2}])
def test_held_and_stored_again_is_the_same_bit_for_bit_and_where_it_was(tiny_encoder, mesh_sizes):
    state = state_on(mesh_sizes, tiny_encoder, make_optimizer(NO_WARMUP, 9))
    before = jax.tree.map(lambda leaf: (np.asarray(leaf), leaf.sharding), state)
    held = hold(state)
    kernels = held.params["encoder"]["layers"]["mlp"]["up"]["kernel"]
    assert [each.shape for each in kernels] == [(tiny_encoder.width, tiny_encoder.mlp_width)] * 2
    assert isinstance(held.opt_state[1].nu["encoder"]["layers"]["mlp"]["up"]["kernel"], list)
    stored = jax.tree.map(lambda leaf: (np.asarray(leaf), leaf.sharding), store(held))
    is_pair = lambda node: isinstance(node, tuple) and len(node) == 2 and hasattr(node[1], "spec")  # noqa: E731
    assert jax.tree.structure(before, is_leaf=is_pair) == jax.tree.structure(
        stored, is_leaf=is_pair
    )
    for (one, placed), (other, placed_then) in zip(
        jax.tree.leaves(stored, is_leaf=is_pair),
        jax.tree.leaves(before, is_leaf=is_pair),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
        assert placed.is_equivalent_to(placed_then, one.ndim)


def test_what_is_stacked_is_stored_as_it_is(tiny_encoder):
    params = random_params(classification_model(tiny_encoder), make_batch(tiny_encoder))
    for one, other in zip(*map(jax.tree.leaves, (store(params), params)), strict=True):
        assert one is other


def test_the_abstract_state_is_that_of_the_arrays(tiny_encoder):
    tx = make_optimizer(NO_WARMUP, 9)
    mesh = sharding.make_mesh(MeshConfig(fsdp=4, tensor=2))
    abstract = apart(training.abstract_state(PretrainingModel(tiny_encoder), tx, mesh))
    held = hold(state_on({"fsdp": 4, "tensor": 2}, tiny_encoder, tx))
    assert jax.tree.structure(held) == jax.tree.structure(abstract)
    for leaf, wanted in zip(*map(jax.tree.leaves, (held, abstract)), strict=True):
        assert (leaf.shape, leaf.dtype) == (wanted.shape, wanted.dtype)
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


RULES = {
    "adamw": (NO_WARMUP, None),
    "lamb": (dataclasses.replace(NO_WARMUP, rule=Optimizer.LAMB), None),
    "rates by layer": (NO_WARMUP, functools.partial(layer_rates, decay=0.5, head=4.0)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_on_kernels_apart_is_the_step_on_stacks(tiny_encoder, rule, parts):
    config = dataclasses.replace(tiny_encoder, unroll=tiny_encoder.layers)
    model, batch = classification_model(config), make_batch(config)
    optimizer, relative_rates = RULES[rule]
    tx = make_optimizer(optimizer, 9, relative_rates=relative_rates)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = training.abstract_state(model, tx, mesh)
    loss, key = make_task_loss(model, class_totals), training.run_key(0)

    def steps(lay: Any, abstract: training.TrainState) -> training.TrainState:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params)
        params = jax.device_put(random_params(model, batch), shardings)
        state = lay(training.init_state(params, tx, stored))
        step = training.make_train_step(loss, lambda batch, *_: batch, tx, abstract, parts)
        for _ in range(3):
            state, _ = step(state, batch, key)
        return store(state)

    stored, abstract_params = abstract, abstract.params
    ours, expected = steps(hold, apart(abstract)), steps(lambda state: state, abstract)
    moved = 0.0
    for (path, one), other, begin in zip(
        jax.tree_util.tree_leaves_with_path(ours.params),
        jax.tree.leaves(expected.params),
        jax.tree.leaves(random_params(model, batch)),
        strict=True,
    ):
        if names_of(path)[-2:] == ["key", "bias"]:
            continue  # the softmax does not see it: its gradient is rounding, which LAMB magnifies
        np.testing.assert_allclose(one, other, atol=2e-5, err_msg=jax.tree_util.keystr(path))
        moved = max(moved, float(np.abs(one - begin).max()))
    assert moved > 1e-3


@functools.cache
def temporaries(layers: int, remat: Remat = Remat.NONE) -> int:
    """Returns the bytes of temporaries of an unrolled step of 16 rows of 32 tokens, 64 wide."""
    config = EncoderConfig(
        vocab_size=60, width=64, layers=layers, heads=4, mlp_width=256, max_length=32
    )
    config.unroll, config.remat = layers, remat
    model, batch = PretrainingModel(config), with_targets(make_batch(config, length=32))
    tx = make_optimizer(NO_WARMUP, 9)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    abstract = apart(training.abstract_state(model, tx, mesh))
    step: Any = training.make_train_step(
        make_pretraining_loss(model), lambda batch, *_: batch, tx, abstract
    )
    lowered = step.lower(abstract, batch, training.run_key(0))
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_an_unrolled_layer_keeps_its_inputs_of_products_and_no_copies():
    tokens, per_layer = 16 * 32, (temporaries(6) - temporaries(3)) / 3
    # Eight vectors of the width, the input of the activation, and the probabilities.
    kept = 4 * (tokens * (8 * 64 + 256) + 16 * 4 * 32 * 32)
    assert per_layer < 1.05 * kept


@pytest.mark.parametrize("remat", [Remat.PRODUCTS, Remat.INPUTS])
def test_rematerialisation_saves_memory_where_the_scan_is_unrolled_too(remat):
    assert temporaries(6, remat) < 0.85 * temporaries(6)


def test_an_unrolled_step_makes_no_number_that_the_search_for_nan_would_take_for_one(tiny_encoder):
    config = dataclasses.replace(tiny_encoder, unroll=tiny_encoder.layers)
    model, batch = classification_model(config), make_batch(config)
    loss = make_task_loss(model, class_totals)
    with jax.disable_jit(), jax.debug_nans(True):
        gradient = jax.grad(loss, has_aux=True)
        of_loss, _ = gradient(random_params(model, batch), batch, training.run_key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_loss))


def test_stacking_what_lies_apart_inside_a_program(tiny_encoder):
    params = jax.device_put(
        random_params(classification_model(tiny_encoder), make_batch(tiny_encoder)),
        sharding.replicated(sharding.make_mesh(MeshConfig())),
    )
    before = jax.tree.map(np.asarray, params)
    again = jax.jit(stacked)(hold(params))
    jax.tree.map(np.testing.assert_array_equal, again, before)
