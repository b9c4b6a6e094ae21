"""The settings that a run changes from step to step: learning rate, weight decay, rate of masking.

They are data of the compiled step, not constants: runs that differ in them share a program.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bert_jax.config import MaskingConfig, OptimizerConfig, Schedule
from bert_jax.data.pretraining.phases import Phase
from bert_jax.objectives.masking import mask_rate


class StepSettings(NamedTuple):
    """The settings of a step, float32 scalars; or of all steps, [S] each."""

    learning_rate: Any
    weight_decay: Any  # before it is multiplied by the learning rate
    mask_rate: Any  # 0 in fine-tuning


# A step, counted from 0 -> its settings
SettingsFn = Callable[[Any], StepSettings]


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Rises linearly in `warmup_steps`, then falls until `steps` as the config says.

    Whatever the schedule, warm-up and fall together take `steps`: the floor, `final_share` of the
    highest rate, is reached there and not before. The last update is of step `steps - 1`.
    """
    rate, left, share = config.learning_rate, steps - config.warmup_steps, config.final_share
    floor = rate * share
    begin = rate * config.initial_share
    warmup = optax.schedules.linear_schedule(begin, rate, config.warmup_steps)
    match config.schedule:
        case Schedule.LINEAR:
            fall = optax.schedules.linear_schedule(rate, floor, left)
        case Schedule.POLYNOMIAL:
            fall = optax.schedules.polynomial_schedule(rate, floor, 2, left)
        case Schedule.COSINE:
            fall = optax.schedules.cosine_decay_schedule(rate, left, share)
        case Schedule.SQRT:
            fall = _sqrt_schedule(rate, floor, left)
        case Schedule.CONSTANT:
            fall = optax.schedules.constant_schedule(rate)
        case Schedule.STABLE:
            falling = min(max(round(config.decay_share * steps), 1), left)
            fall = optax.schedules.linear_schedule(rate, floor, falling, left - falling)
        case Schedule.OF_RUN:
            raise AssertionError("a run has a schedule of its own")
    return optax.schedules.join_schedules([warmup, fall], [config.warmup_steps])


def _sqrt_schedule(rate: Any, floor: Any, steps: int) -> optax.Schedule:
    """Falls as 1 - sqrt(t): steeply at first (Hägele et al., 2024, section 3)."""

    def schedule(step: Any) -> Any:
        return floor + (rate - floor) * (1 - jnp.sqrt(jnp.clip(step / steps, 0, 1)))

    return schedule


def decay_factor(config: OptimizerConfig) -> Any:
    """Returns what a step multiplies by its learning rate to get the share that decays."""
    return config.weight_decay / (config.learning_rate if config.decoupled_decay else 1)


def task_settings(config: OptimizerConfig, steps: int) -> SettingsFn:
    """Returns the settings of the steps of a fine-tuning run; its learning rate may be traced."""
    rate = learning_rate_schedule(config, steps)

    def settings(step: Any) -> StepSettings:
        return StepSettings(rate(step), jnp.asarray(decay_factor(config)), jnp.zeros(()))

    return settings


def pretraining_settings(
    optimizer: OptimizerConfig, masking: MaskingConfig, phases: Sequence[Phase], steps: int
) -> SettingsFn:
    """Returns the settings of the steps of a pretraining run.

    Where a phase has a highest rate and no schedule, the run's schedule goes on, in proportion.

    Args:
      optimizer: of the run.
      masking: of the run.
      phases: from `resolve_phases`.
      steps: of the run.
    """
    rate_of_run = learning_rate_schedule(optimizer, steps)

    def of_phase(phase: Phase, step: Any) -> StepSettings:
        if phase.own_schedule:
            own = learning_rate_schedule(phase.optimizer, phase.end_step - phase.first_step)
            rate = own(step - phase.first_step)
        else:
            rate = rate_of_run(step) * (phase.optimizer.learning_rate / optimizer.learning_rate)
        masked = phase.masking if phase.own_mask_rate else masking
        return StepSettings(
            rate, jnp.asarray(decay_factor(phase.optimizer)), mask_rate(masked, step, steps)
        )

    def settings(step: Any) -> StepSettings:
        *before, last = phases
        found = of_phase(last, step)
        for phase in reversed(before):
            here, own = step < phase.end_step, of_phase(phase, step)
            found = jax.tree.map(lambda a, b, here=here: jnp.where(here, a, b), own, found)
        return found

    return settings


def tabulate(settings: SettingsFn, steps: int) -> StepSettings:
    """Returns the settings of every step, [S] float32 each, S >= steps.

    S is a power of two and at least 1,024, so that runs of similar length share a program.
    """
    size = max(1024, 2 ** math.ceil(math.log2(steps)))
    table = jax.vmap(settings)(jnp.arange(size))
    return jax.tree.map(lambda column: jnp.asarray(column, jnp.float32), table)
