"""Resolves the phases of a pretraining run: fills in every setting."""

import dataclasses
from collections.abc import Sequence

from bert_jax.config import (
    EncoderConfig,
    MaskingConfig,
    OptimizerConfig,
    PhaseConfig,
    PretrainConfig,
    PretrainDataConfig,
    Schedule,
)
from bert_jax.errors import UserError

_TOKENS_PER_EXAMPLE = 32  # decides N where the config does not


@dataclasses.dataclass(frozen=True, slots=True)
class Phase:
    """A part of a run in which all batches have one shape.

    Attributes:
      number: from 0.
      first_step: number of steps finished when it begins.
      end_step: number of steps finished when it ends.
      batch_size: B.
      batch_field: of the config that has it.
      data: with the phase's T and N.
      stream: number of the first phase of those, one after another, that read on in one stream.
      encoder: with what the phase changes.
      masking: the same.
      optimizer: the same; its schedule is the run's, or, with `own_schedule`, over the phase alone.
      own_schedule: True if the phase has a schedule.
      own_mask_rate: True if the phase has a rate of masking.
    """

    number: int
    first_step: int
    end_step: int
    batch_size: int
    batch_field: str
    data: PretrainDataConfig
    stream: int
    encoder: EncoderConfig
    masking: MaskingConfig
    optimizer: OptimizerConfig
    own_schedule: bool
    own_mask_rate: bool


def with_length(data: PretrainDataConfig, length: int) -> PretrainDataConfig:
    """Returns `data` with T set to `length`, and with N filled in."""
    examples = data.max_examples_per_row or max(1, length // _TOKENS_PER_EXAMPLE)
    return dataclasses.replace(data, length=length, max_examples_per_row=examples)


def resolve_phases(config: PretrainConfig) -> list[Phase]:
    """Returns the phases in order; together they have all steps of the run.

    Args:
      config: of the run; without `phases` the run is one phase with `data` and `batch_size`.

    Raises:
      UserError: if a phase is shorter than a step.
    """
    phases: list[Phase] = []
    share = 0.0
    given = config.phases or [PhaseConfig()]
    for number, own in enumerate(given):
        share += own.share
        begin, end = phases[-1].end_step if phases else 0, round(share * config.steps)
        if number == len(given) - 1:
            end = config.steps  # shares add up to 1 only nearly
        if end <= begin:
            raise UserError(
                f"--config.phases[{number}].share={own.share} of steps={config.steps} is less"
                " than one step: raise one of them"
            )
        data = with_length(config.data, own.length or config.data.length)
        reads_on = bool(phases) and phases[-1].data.length == data.length
        phases.append(
            Phase(
                number=number,
                first_step=begin,
                end_step=end,
                batch_size=own.batch_size or config.batch_size,
                batch_field=f"phases[{number}].batch_size" if own.batch_size else "batch_size",
                data=data,
                stream=phases[-1].stream if reads_on else number,
                encoder=_encoder(config.encoder, own),
                masking=_masking(config.masking, own),
                optimizer=_optimizer(config.optimizer, own, is_first=number == 0),
                own_schedule=own.schedule is not Schedule.OF_RUN,
                own_mask_rate=own.mask_rate > 0,
            )
        )
    return phases


def _encoder(config: EncoderConfig, own: PhaseConfig) -> EncoderConfig:
    window = config.window if own.window == -1 else own.window
    return dataclasses.replace(
        config,
        rope_theta=own.rope_theta or config.rope_theta,
        window=window,
        rope_theta_local=config.rope_theta_local if window else 0.0,
        global_every=config.global_every if window else 0,
    )


def _masking(config: MaskingConfig, own: PhaseConfig) -> MaskingConfig:
    if not own.mask_rate:
        return config
    return dataclasses.replace(config, rate=own.mask_rate, final_rate=0.0)


def _optimizer(config: OptimizerConfig, own: PhaseConfig, *, is_first: bool) -> OptimizerConfig:
    own_schedule = own.schedule is not Schedule.OF_RUN
    return dataclasses.replace(
        config,
        learning_rate=own.learning_rate or config.learning_rate,
        schedule=own.schedule if own_schedule else config.schedule,
        warmup_steps=0 if own_schedule and not is_first else config.warmup_steps,
        weight_decay=config.weight_decay if own.weight_decay == -1 else own.weight_decay,
    )


def phase_of(phases: Sequence[Phase], step: int) -> Phase:
    """Returns the phase of a step; steps are counted from 1."""
    return next(phase for phase in phases if step <= phase.end_step)
