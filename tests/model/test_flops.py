"""The model's operations, against those of the program that trains it."""

import dataclasses

import jax
import pytest

from bert_jax.config import (
    ComputeType,
    DistillationConfig,
    DistillConfig,
    DistilledTokens,
    EncoderConfig,
    EncoderMode,
    MeshConfig,
    PretrainConfig,
)
from bert_jax.distributed import sharding
from bert_jax.distributed.chips import find_chip
from bert_jax.model import flops
from bert_jax.objectives.masking import MaskVocabulary
from bert_jax.planning.abstract_steps import abstract_pretraining_steps
from bert_jax.planning.hlo import parse_program
from bert_jax.planning.hlo_costs import program_costs
from bert_jax.runs.teacher import TeacherShape, teacher_model
from tests.fixtures.batches import SPECIAL_IDS


def test_base_at_512_takes_the_published_operations() -> None:
    """6 for each parameter of the products and token (Kaplan et al., 2020), and the scores."""
    base = EncoderConfig(vocab_size=30_522)
    layers = 12 * (4 * 768**2 + 2 * 768 * 3072)  # parameters
    assert flops.finetuning_flops(base, 512, EncoderMode.FULL) == pytest.approx(
        6 * layers + 3 * 12 * 4 * 512 * 768
    )
    head = (30_522 * 768 + 768**2) * 96 / 512
    assert flops.pretraining_flops(base, 512, 96) == pytest.approx(
        6 * (layers + head) + 3 * 12 * 4 * 512 * 768
    )


def test_a_frozen_encoder_has_no_backward_pass() -> None:
    encoder = EncoderConfig(width=24, layers=2, heads=4, mlp_width=40)
    forward = flops.encoder_flops(encoder, 14)
    assert forward == 2 * (8 * 24**2 + 4 * 24 * 40 + 4 * 14 * 24)
    modes = (EncoderMode.FULL, EncoderMode.FROZEN, EncoderMode.CACHED)
    assert [flops.finetuning_flops(encoder, 14, mode) for mode in modes] == [
        3 * forward,
        forward,
        0,
    ]


def test_the_compiled_step_takes_the_formula_less_what_it_saves() -> None:
    """The last layer computes M + N positions only, and a pair's head is in no formula."""
    config = PretrainConfig(batch_size=16)
    config.encoder = EncoderConfig(
        vocab_size=60, width=24, layers=3, heads=4, mlp_width=40, max_length=18
    )
    config.data.length, config.data.max_examples_per_row = 14, 2
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:2])
    vocabulary = MaskVocabulary(SPECIAL_IDS, SPECIAL_IDS[-1], 60, jax.numpy.ones(60, bool))
    (step,) = abstract_pretraining_steps(config, vocabulary, mesh)
    slots, examples, length, width, mlp = 8, 2, 14, 24, 40
    assert step.model_flops == 16 * 14 * flops.pretraining_flops(config.encoder, 14, slots)
    unread = length - slots - examples  # positions of the last layer
    saved = unread * (4 * width**2 + 4 * width * mlp + 4 * length * width)
    pair = examples * (2 * width**2 + 2 * width * 2)
    expected = step.model_flops + 3 * 16 * (pair - saved)
    costs = program_costs(parse_program(step.lower().compile().as_text()), 2)
    assert 2 * costs.flops == expected


@pytest.mark.parametrize("tokens", DistilledTokens, ids=lambda each: each.value)
def test_a_distilling_step_has_a_teacher_that_only_runs_forward(tokens: DistilledTokens) -> None:
    config = DistillConfig(batch_size=16)
    config.encoder = EncoderConfig(
        vocab_size=60, width=24, layers=3, heads=4, mlp_width=40, max_length=18
    )
    config.data.length, config.data.max_examples_per_row = 14, 2
    config.distillation = DistillationConfig(soft_weight=1.0, mlm_weight=1.0, tokens=tokens)
    encoder = dataclasses.replace(config.encoder, width=32, layers=2)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:2])
    vocabulary = MaskVocabulary(SPECIAL_IDS, SPECIAL_IDS[-1], 60, jax.numpy.ones(60, bool))
    teacher = teacher_model(config, TeacherShape(encoder, has_head=True))
    (step,) = abstract_pretraining_steps(config, vocabulary, mesh, teacher)
    slots, length = 8, 14
    is_all = tokens is DistilledTokens.ALL
    forward = flops.forward_flops(encoder, length, length if is_all else slots)
    ours = flops.pretraining_flops(config.encoder, length, length + slots if is_all else slots)
    assert step.model_flops == 16 * length * (ours + forward)

    # The last layers compute the masked tokens alone, where those alone are compared.
    def saved(width: int) -> int:
        unread = 0 if is_all else length - slots
        return 16 * unread * (4 * width**2 + 4 * width * 40 + 4 * length * width)

    expected = step.model_flops - 3 * saved(24) - saved(32)
    costs = program_costs(parse_program(step.lower().compile().as_text()), 2)
    assert 2 * costs.flops == expected


def test_chips_are_found_by_the_kind_of_device() -> None:
    v5e = find_chip("TPU v5 lite")
    assert v5e and (v5e.flops, v5e.memory_bytes) == (197e12, 15.75 * 2**30)
    assert find_chip("TPU v5") is find_chip("TPU v5p")
    assert find_chip(jax.devices()[0].device_kind) is None
    assert ComputeType.BFLOAT16.value == "bfloat16"  # what the peaks are of
