"""The parts of the compiled steps that are made on the host."""

import numpy as np

from bert_jax.config import EncoderConfig, FinetuneConfig, MaskingConfig, MeshConfig, Optimizer
from bert_jax.distributed import sharding
from bert_jax.planning.abstract_steps import abstract_finetuning_step
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
