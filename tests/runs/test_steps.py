"""The parts of the compiled steps that are made on the host."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import configs
from bert_jax.cli.recipes import resolve_config
from bert_jax.config import (
    EncoderConfig,
    FinetuneConfig,
    MaskingConfig,
    MeshConfig,
    Optimizer,
    PretrainConfig,
    validate,
)
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import abstract_finetuning_step, abstract_pretraining_steps
from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import program_costs
from bert_jax.runs.steps import mask_vocabulary
from bert_jax.training.muon import orthogonalization_flops
from tests.fixtures.data import LETTER_TOKENIZER


def test_rare_tokens_weigh_more_where_the_masking_is_smoothed():
    counts = np.arange(LETTER_TOKENIZER.vocab_size)  # the first was never seen
    masking = MaskingConfig(smoothing=0.7)
    weights = mask_vocabulary(masking, LETTER_TOKENIZER, lambda: counts).weights
    seen = np.maximum(counts, 1).astype(float)
    assert weights is not None and weights.dtype == np.float32
    np.testing.assert_allclose(weights, 1 / seen**0.7, rtol=1e-6)
    assert mask_vocabulary(MaskingConfig(), LETTER_TOKENIZER, lambda: counts).weights is None


def test_devices_share_the_matrices_of_a_fine_tuning_by_muon(tiny_encoder: EncoderConfig):
    config = FinetuneConfig(batch_size=8)
    config.data.length = 14
    mesh = sharding.make_mesh(MeshConfig())
    flops = {}
    for rule in (Optimizer.ADAMW, Optimizer.MUON):
        config.optimizer.rule = rule
        step = abstract_finetuning_step(config, tiny_encoder, 8, mesh)
        text = step.lower().compile().as_text()
        flops[rule] = program_costs(parse_program(text), mesh.size).flops
    layers, width, mlp = tiny_encoder.layers, tiny_encoder.width, tiny_encoder.mlp_width
    sizes = [(4 * layers, width, width), (2 * layers, width, mlp)]
    # Each size is filled up to a multiple of the devices.
    most = sum(orthogonalization_flops([(-(-n // 8) * 8, *size)]) for n, *size in sizes) / 8
    assert 0 < flops[Optimizer.MUON] - flops[Optimizer.ADAMW] <= most
    assert most < orthogonalization_flops(sizes) / 2


RECIPES = sorted(path.stem for path in pathlib.Path(configs.__path__[0]).glob("pretrain_*.py"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_step_that_can_be_traced(recipe: str) -> None:
    config = resolve_config(recipe, [], PretrainConfig)
    config.encoder.vocab_size, config.data.corpus = 37, "any"
    config.encoder.layers, config.encoder.unroll = min(config.encoder.layers, 4), 1
    config.phases = config.phases[-1:] and [dataclasses.replace(config.phases[-1], share=1.0)]
    validate(config)
    vocabulary = mask_vocabulary(config.masking, LETTER_TOKENIZER, lambda: np.ones(37))
    (step,) = abstract_pretraining_steps(config, vocabulary, sharding.make_mesh(config.mesh))
    state, metrics = jax.eval_shape(
        step.compiled.train_step,
        step.compiled.abstract,
        step.batch,
        step.compiled.abstract_inputs(),
    )
    assert jax.tree.structure(state) == jax.tree.structure(step.compiled.abstract)
    assert "mlm_loss" in metrics or "next_token_loss" in metrics
