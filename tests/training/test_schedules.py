"""The settings of each step: rates by hand, phases, decay, and what a batch of a step reads."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from bert_jax.config import (
    MaskingConfig,
    OptimizerConfig,
    PhaseConfig,
    PositionEncoding,
    PretrainConfig,
    Schedule,
    validate,
    validate_encoder,
)
from bert_jax.data.pretraining.phases import resolve_phases
from bert_jax.errors import UserError
from bert_jax.training.schedules import (
    StepSettings,
    pretraining_settings,
    tabulate,
    task_settings,
)


def config_of(**changes) -> PretrainConfig:
    """Returns a run of 200 steps with a rate of 1 that has 20 steps of warm-up."""
    optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=20, **changes)
    return PretrainConfig(steps=200, optimizer=optimizer)


def table_of(config: PretrainConfig) -> StepSettings:
    """Returns the settings of every step, [S] each."""
    phases = resolve_phases(config)
    settings = pretraining_settings(config.optimizer, config.masking, phases, config.steps)
    return jax.tree.map(np.asarray, tabulate(settings, config.steps))


def close(rates: np.ndarray, expected: dict[int, float]) -> None:
    """Compares the rates of some steps, counted from 0."""
    for step, rate in expected.items():
        assert rates[step] == pytest.approx(rate, rel=1e-5, abs=1e-7), step


# (families.md, 17) Of the 180 steps after the warm-up, 90 are half, and the last is the 200th.
HALF, NEAR = 90 / 180, 179 / 180


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {0: 0, 19: 0.95, 20: 1, 110: 1 - HALF, 198: 2 / 180, 199: 1 - NEAR}),
        ({"final_share": 0.1}, {20: 1, 110: 0.55, 199: 0.1 + 0.9 / 180, 200: 0.1}),
        ({"schedule": Schedule.POLYNOMIAL}, {20: 1, 110: 0.25, 199: (1 / 180) ** 2, 200: 0}),
        (
            {"schedule": Schedule.COSINE, "final_share": 0.1},
            {
                20: 1,
                110: 0.55,
                199: 0.1 + 0.45 * (1 + math.cos(math.pi * NEAR)),
                200: 0.1,
            },
        ),
        (
            {"schedule": Schedule.SQRT},
            {19: 0.95, 20: 1, 65: 0.5, 110: 1 - HALF**0.5, 199: 1 - NEAR**0.5, 200: 0},
        ),
        (
            {"schedule": Schedule.SQRT, "final_share": 0.2},
            {20: 1, 65: 0.6, 199: 0.2 + 0.8 * (1 - NEAR**0.5), 200: 0.2},
        ),
        ({"initial_share": 0.25}, {0: 0.25, 10: 0.625, 20: 1, 110: 1 - HALF, 200: 0}),
        ({"schedule": Schedule.CONSTANT}, {0: 0, 19: 0.95, 20: 1, 110: 1, 199: 1}),
        (
            {"schedule": Schedule.STABLE, "decay_share": 0.1, "final_share": 0.5},
            {20: 1, 180: 1, 190: 0.75, 199: 0.525, 200: 0.5},
        ),
    ],
)
def test_warm_up_and_fall_together_take_the_run(changes, expected) -> None:
    close(table_of(config_of(**changes)).learning_rate, expected)


def test_a_phase_has_a_rate_of_its_own_and_a_schedule_of_its_own() -> None:
    config = config_of(schedule=Schedule.CONSTANT)
    config.phases = [
        PhaseConfig(share=0.5),
        PhaseConfig(share=0.25, learning_rate=0.4),
        PhaseConfig(share=0.25, learning_rate=0.4, schedule=Schedule.SQRT),
    ]
    expected = {0: 0, 10: 0.5, 99: 1, 100: 0.4, 149: 0.4, 150: 0.4}
    expected |= {150 + n: 0.4 * (1 - (n / 50) ** 0.5) for n in (1, 12, 25, 49)}
    close(table_of(config).learning_rate, expected)


def test_the_first_phase_with_a_schedule_has_the_warm_up() -> None:
    """Cosine to a tenth over the first half, then that rate (NeoBERT)."""
    config = config_of(final_share=0.1)
    config.phases = [
        PhaseConfig(share=0.5, schedule=Schedule.COSINE),
        PhaseConfig(share=0.5, learning_rate=0.1, schedule=Schedule.CONSTANT),
    ]
    close(table_of(config).learning_rate, {0: 0, 10: 0.5, 20: 1, 60: 0.55, 100: 0.1, 199: 0.1})


def test_a_phase_without_a_schedule_scales_that_of_the_run() -> None:
    config = config_of()
    config.phases = [PhaseConfig(share=0.5), PhaseConfig(share=0.5, learning_rate=0.5)]
    plain = table_of(config_of()).learning_rate
    rates = table_of(config).learning_rate
    np.testing.assert_array_equal(rates[:100], plain[:100])
    np.testing.assert_allclose(rates[100:200], plain[100:200] / 2, rtol=1e-6)


def test_phases_that_set_nothing_leave_every_bit() -> None:
    config = config_of(schedule=Schedule.COSINE, final_share=0.3)
    config.masking.final_rate = 0.3
    plain = table_of(config)
    config.phases = [PhaseConfig(share=0.3), PhaseConfig(share=0.7, batch_size=8)]
    for one, other in zip(table_of(config), plain, strict=True):
        np.testing.assert_array_equal(one[:200], other[:200])


def test_decay_and_rate_of_masking_by_phase() -> None:
    config = config_of(weight_decay=0.1)
    config.masking = MaskingConfig(rate=0.3, final_rate=0.2)
    config.phases = [
        PhaseConfig(share=0.5),
        PhaseConfig(share=0.5, mask_rate=0.15, weight_decay=0.0),
    ]
    table = table_of(config)
    np.testing.assert_allclose(table.weight_decay[[0, 99, 100, 199]], [0.1, 0.1, 0, 0])
    half = 0.3 - 0.1 * 99 / 199
    np.testing.assert_allclose(table.mask_rate[[0, 99, 100, 199]], [0.3, half, 0.15, 0.15], 1e-6)
    # The rows have slots for the phase's rate.
    assert [phase.masking.rate for phase in resolve_phases(config)] == [0.3, 0.15]


def test_decoupled_decay_is_in_proportion_to_the_highest_rate() -> None:
    config = config_of(weight_decay=0.1, decoupled_decay=True)
    config.optimizer.learning_rate = 0.02
    config.phases = [PhaseConfig(share=0.5), PhaseConfig(share=0.5, learning_rate=0.01)]
    table = table_of(config)
    # What a step takes away: rate x decay; at the highest rate of a phase 0.1.
    taken = table.learning_rate * table.weight_decay
    assert taken[20] == pytest.approx(0.1)
    assert taken[10] == pytest.approx(0.05)
    assert taken[100] == pytest.approx(0.1 * table.learning_rate[100] / 0.01)
    task = tabulate(task_settings(config.optimizer, 100), 100)
    assert task.weight_decay[50] == pytest.approx(0.1 / 0.02)


def test_phases_of_one_length_are_one_stream() -> None:
    config = config_of()
    shape = [(64, 2), (64, 4), (128, 4), (128, 8), (64, 4)]
    config.phases = [PhaseConfig(share=0.2, length=t, batch_size=b) for t, b in shape]
    assert [phase.stream for phase in resolve_phases(config)] == [0, 0, 2, 2, 4]


def test_a_phase_changes_what_has_no_parameters() -> None:
    config = config_of()
    encoder = config.encoder
    encoder.position_encoding = PositionEncoding.ROTARY
    encoder.window, encoder.global_every, encoder.rope_theta_local = 16, 2, 1_000.0
    config.phases = [
        PhaseConfig(share=0.5, window=8, rope_theta=500.0),
        PhaseConfig(share=0.25),
        PhaseConfig(share=0.25, window=0),
    ]
    first, second, third = (phase.encoder for phase in resolve_phases(config))
    assert first == dataclasses.replace(encoder, window=8, rope_theta=500.0)
    assert second == encoder
    for each in (first, second, third):  # a checkpoint of any phase can be opened
        validate_encoder(each)
    assert third == dataclasses.replace(encoder, window=0, global_every=0, rope_theta_local=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phases": [PhaseConfig(learning_rate=-1)]}, r"phases\[0\].learning_rate=-1 must be"),
        ({"phases": [PhaseConfig(mask_rate=1.0)]}, r"phases\[0\].mask_rate=1.0 must be a rate"),
        ({"phases": [PhaseConfig(weight_decay=-0.5)]}, r"phases\[0\].weight_decay=-0.5"),
        ({"phases": [PhaseConfig(window=-2)]}, r"phases\[0\].window=-2 must be"),
        ({"phases": [PhaseConfig(rope_theta=5.0)]}, r"phases\[0\].rope_theta=5: positions are"),
        ({"phases": [PhaseConfig(window=4)]}, r"phases\[0\].window=4: .*encoder.window"),
        (
            {"phases": [PhaseConfig(share=0.05), PhaseConfig(share=0.95, learning_rate=0.5)]},
            r"warmup_steps=20: phases\[0\] ends after step 10, .* never reached",
        ),
        (
            {
                "phases": [
                    PhaseConfig(share=0.05, schedule=Schedule.COSINE),
                    PhaseConfig(share=0.95, schedule=Schedule.CONSTANT),
                ]
            },
            r"warmup_steps=20: phases\[0\] ends after step 10, before its schedule begins",
        ),
    ],
)
def test_what_a_phase_cannot_have(changes, message) -> None:
    config = config_of()
    config.data.corpus = "corpus"
    for name, value in changes.items():
        setattr(config, name, value)
    with pytest.raises(UserError, match=message):
        validate(config)


def test_of_run_is_a_schedule_of_phases_alone() -> None:
    config = config_of(schedule=Schedule.OF_RUN)
    config.data.corpus = "corpus"
    with pytest.raises(UserError, match="optimizer.schedule=of_run is of phases: choose"):
        validate(config)


def test_the_last_phase_ends_with_the_run() -> None:
    """Shares may miss 1 by the tolerance, which is a step of a long run."""
    config = PretrainConfig(steps=2_000_000)
    config.data.corpus = "corpus"
    config.phases = [PhaseConfig(share=0.9), PhaseConfig(share=0.0999995)]
    validate(config)
    assert [phase.end_step for phase in resolve_phases(config)] == [1_800_000, 2_000_000]
