"""A run compiles a program for each shape of its batches, and no more."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.config import MaskingConfig, MeshConfig, OptimizerConfig
from bert_jax.distributed import sharding
from bert_jax.model.heads import PretrainingModel
from bert_jax.objectives.losses import make_pretraining_loss
from bert_jax.objectives.masking import MaskVocabulary
from bert_jax.runs.steps import make_mask_fn
from bert_jax.training.compilations import Compilations
from bert_jax.training.optimizer import make_optimizer
from bert_jax.training.state import abstract_state, init_params, init_state
from bert_jax.training.step import make_train_step
from tests.fixtures.batches import make_batch, run_inputs
from tests.fixtures.drivers import Run


def test_one_for_each_shape(tiny_encoder):
    model, mesh = (
        PretrainingModel(tiny_encoder),
        sharding.make_mesh(MeshConfig(), jax.devices()[:1]),
    )
    tx = make_optimizer(OptimizerConfig(warmup_steps=0))
    abstract = abstract_state(model, tx, mesh)
    size = tiny_encoder.vocab_size
    vocabulary = MaskVocabulary((0, 1, 2, 3, 4), 4, size, np.ones(size, bool))
    prepare = make_mask_fn(MaskingConfig(), vocabulary)
    step = make_train_step(make_pretraining_loss(model), prepare, tx, abstract)
    state = init_state(init_params(model, 0, abstract.params), tx, abstract)
    run, needless = run_inputs(), []
    with Compilations(step) as compilations:
        for rows in (4, 4, 4, 6, 6, 4):
            batch = make_batch(tiny_encoder, rows=rows)
            batch = sharding.global_batch(batch, np.arange(rows), rows, mesh)
            state, _ = step(state, batch, run)
            needless.append(compilations.needless(step, batch))
        assert needless == [0] * 6 and compilations.count == 2


def test_what_is_compiled_for_no_new_shape_is_told_once():
    @jax.jit
    def double(x):
        return 2 * x

    with Compilations(double) as compilations:
        told = []
        for dtype in ("float32", "float32", "int32", "int32"):  # of one shape
            double(x := jnp.ones(3, dtype))
            told.append(compilations.needless(double, x))
    assert told == [0, 0, 1, 0]
    double(jnp.ones(4))
    assert compilations.count == 1  # it no longer listens


def test_no_driver_compiles_a_step_again(pretrained: Run, finetuned: Run):
    for workdir, result in (pretrained, finetuned):
        lines = map(json.loads, (workdir / "log.jsonl").read_text().splitlines())
        assert not any("compiled_again" in line for line in lines)
        assert "compiled again" not in result.err
