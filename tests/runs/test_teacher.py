"""Which teachers a student may have."""

import dataclasses

import pytest

from bert_jax.config import DistillConfig, EncoderConfig, PhaseConfig
from bert_jax.errors import UserError
from bert_jax.runs.teacher import check_teacher


def test_heads_are_compared_between_layers_of_one_window(tiny_encoder: EncoderConfig) -> None:
    teacher = dataclasses.replace(tiny_encoder, layers=3, window=4, global_every=2)
    config = DistillConfig(encoder=dataclasses.replace(tiny_encoder, window=4), steps=10)
    config.data.length = 14
    config.distillation.value_weight, config.distillation.teacher_layer = 1.0, 1
    check_teacher(config, teacher, reads_head=True)
    config.distillation.teacher_layer = -1
    with pytest.raises(UserError, match="student_layer=-1 has window=4, and teacher_layer=-1 wi"):
        check_teacher(config, teacher, reads_head=True)
    config.distillation.teacher_layer = 1
    config.phases = [PhaseConfig(share=0.5), PhaseConfig(share=0.5, window=0)]
    with pytest.raises(UserError, match=r"has window=0 in phases\[1\], and teacher_layer=1 wi"):
        check_teacher(config, teacher, reads_head=True)
    config.distillation.value_weight = 0.0
    check_teacher(config, teacher, reads_head=True)
